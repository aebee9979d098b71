"""What the checkpoints and configurations of SEED-Voken (Open-MAGVIT2, IBQ) hold beside their network.

Source: TencentARC/SEED-Voken:src/IBQ/modules/ema.py, evaluation_image.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dat.discretizers.networks.vqgan import OF_TRAINING as OF_TAMINGS_TRAINING
from dat.errors import CheckpointError

Tensors = Mapping[str, Tensor]

OF_TRAINING = OF_TAMINGS_TRAINING | {
    *("learning_rate", "resume_lr", "lr_drop_epoch", "lr_drop_iter", "lr_drop_rate", "min_learning_rate", "stage"),
    *("warmup_epochs", "scheduler_type", "gradient_clip_val", "use_shared_epoch", "sche_type", "max_iter"),
    *("wp", "wp0", "wpe", "wp_iter", "sample_minimization_weight", "batch_maximization_weight", "entropy_temperature"),
}
"""Settings of both that concern training, not the network."""

LOSS, AVERAGES = "loss.", "model_ema."


def network_weights(tensors: Tensors, name: str, *, averaged: bool = True) -> dict[str, Tensor]:
    """Float32 tensors of the network; where the file also holds their running means, those, if `averaged`.

    The published figures are of the means: the public configurations set `use_ema`, by which SEED-Voken's evaluation swaps
    them in. (Latent diffusion has the same means, and encodes with the raw weights all the same.) They are filed under the
    names of the weights without dots.

    Raises:
        CheckpointError: there are means, but not of every weight.
    """
    weights = {key: value for key, value in tensors.items() if not key.startswith((LOSS, AVERAGES))}
    means = {key.removeprefix(AVERAGES): value for key, value in tensors.items() if key.startswith(AVERAGES)}
    if averaged and means.keys() - {"decay", "num_updates"}:
        if missing := [key for key in weights if key.replace(".", "") not in means]:
            raise CheckpointError(
                f"{name} holds running means ({AVERAGES}*) of some weights only; {len(missing)} lack one, first {missing[0]}. "
                'Get the whole file, or write "use_ema": False into its config to take the raw weights.'
            )
        weights = {key: means[key.replace(".", "")] for key in weights}
    return {key: value.float() for key, value in weights.items()}
