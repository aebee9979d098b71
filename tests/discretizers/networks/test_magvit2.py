import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.magvit2 import MAGVIT2, MAGVIT2Config, infer_config
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError, UsageError

Golden = Callable[[str], Path]
TINY = MAGVIT2Config(z_channels=6, ch=32, ch_mult=(1, 2, 2), num_res_blocks=2, resolution=64)


@pytest.fixture
def network() -> MAGVIT2:
    torch.manual_seed(0)
    return MAGVIT2(TINY)


def public_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["config"]


@pytest.mark.shared
@pytest.mark.parametrize("with_config", [True, False])
def test_public_weights_load_with_and_without_their_configuration(golden: Golden, with_config: bool) -> None:
    folder = golden("openmagvit2_lfq")
    io, config = load_file(folder / "io.safetensors"), public_config(folder)
    frozen = load_discretizer(folder / "weights.safetensors", config if with_config else None)
    assert (frozen.codebook_size, frozen.stride) == (256, 2)
    assert torch.equal(frozen.encode(io["x"]), io["codes"])
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen.network.quantize.decode(io["codes"]), io["z_q"], atol=1e-6, rtol=0)
    torch.testing.assert_close(frozen.network.decode_vectors(io["z_q"]), io["rec_raw"], atol=1e-4, rtol=0)


def test_the_configuration_is_read_off_the_tensors(network: MAGVIT2) -> None:
    inferred = infer_config(network.state_dict(), "file")
    assert inferred == MAGVIT2Config(**{**TINY.__dict__, "resolution": 128})
    with torch.device("meta"):
        public = MAGVIT2(MAGVIT2Config())
    assert infer_config(public.state_dict(), "file") == MAGVIT2Config()
    assert (public.codebook_size, public.stride) == (2**18, 16)
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight"):
        infer_config({}, "file")


def test_our_own_format_survives_a_round_trip(tmp_path: Path, network: MAGVIT2) -> None:
    loaded, images = load_discretizer(save_discretizer(tmp_path, network)), torch.rand(2, 3, 13, 18)
    assert loaded.network.config == TINY
    assert torch.equal(loaded(images), FrozenDiscretizer(network)(images))
    assert MAGVIT2Config.from_dict(TINY.to_dict()) == TINY


def test_running_means_are_what_is_loaded(tmp_path: Path, network: MAGVIT2) -> None:
    means, images = MAGVIT2(TINY), torch.rand(1, 3, 16, 16)
    averages = {f"model_ema.{key.replace('.', '')}": value for key, value in means.state_dict().items()}
    beside = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(-1), "loss.logvar": torch.ones(1)}
    beside["model_ema.losslogvar"] = torch.ones(1)
    torch.save({"state_dict": {**network.state_dict(), **averages, **beside}}, tmp_path / "q.ckpt")
    assert torch.equal(load_discretizer(tmp_path / "q.ckpt")(images), FrozenDiscretizer(means)(images))
    raw = load_discretizer(tmp_path / "q.ckpt", {**TINY.to_dict(), "use_ema": False})
    assert torch.equal(raw(images), FrozenDiscretizer(network)(images))
    averages.pop("model_ema.encoderconv_inweight")
    torch.save({"state_dict": {**network.state_dict(), **averages, **beside}}, tmp_path / "q.ckpt")
    with pytest.raises(CheckpointError, match=r"1 lack one, first encoder\.conv_in\.weight"):
        load_discretizer(tmp_path / "q.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_factorization": True}, "token_factorization=True"),
        ({"n_embed": 1000}, "n_embed=64"),
        ({"embed_dim": 7}, "embed_dim=6"),
        ({"remap": "x"}, "remap"),
        ({"ddconfig": {**TINY.to_dict()["ddconfig"], "attn_resolutions": [16]}}, "attn_resolutions"),  # pyright: ignore[reportGeneralTypeIssues]
        ({"ddconfig": {**TINY.to_dict()["ddconfig"], "ch": 33}}, "ch=33"),  # pyright: ignore[reportGeneralTypeIssues]
        ({"ddconfig": {**TINY.to_dict()["ddconfig"], "num_res_blocks": 0}}, "num_res_blocks is 0"),  # pyright: ignore[reportGeneralTypeIssues]
        ({"ddconfig": None}, "needs 'ddconfig'"),
    ],
)
def test_configurations_of_other_networks_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MAGVIT2Config.from_dict(TINY.to_dict() | change)


def test_training_settings_are_skipped() -> None:
    of_training = {"learning_rate": 1e-4, "use_ema": True, "token_factorization": False, "sample_minimization_weight": 1.0}
    assert MAGVIT2Config.from_dict(TINY.to_dict() | of_training) == TINY


def test_depth_to_space_puts_the_place_first(network: MAGVIT2) -> None:
    upsample = network.decoder.get_submodule("up.1.upsample")
    width = 64
    conv = upsample.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    conv.bias.data = torch.arange(4.0 * width)
    channel_3 = upsample(torch.zeros(1, width, 1, 1))[0, 3]
    assert channel_3.tolist() == [[3, width + 3], [2 * width + 3, 3 * width + 3]]


def test_one_code_has_no_variance_and_is_refused(network: MAGVIT2) -> None:
    with pytest.raises(UsageError, match="more than 4 x 4 pixels"):
        FrozenDiscretizer(network)(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(tmp_path: Path, network: MAGVIT2, dtype: torch.dtype) -> None:
    path, images = save_discretizer(tmp_path, network), torch.rand(2, 3, 16, 16)
    loaded, exact = load_discretizer(path, dtype=dtype), load_discretizer(path)
    codes = exact.encode(images)
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(loaded.decode(codes).float(), exact.decode(codes), atol=tolerance, rtol=0)
