"""A plain VQ-VAE of strided convolutions: no norm, no attention, one code per 4 x 4 pixels.

Source: van den Oord et al. (2017), Neural Discrete Representation Learning, 4.1; key layout of NimbleBoxAI/explore-weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import check_values, count_of, reading_off, settings_from
from dat.discretizers.quantizers.nearest import VectorQuantizer
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Images, Latents

Features = Float[Tensor, "batch _ _ _"]
Tensors = Mapping[str, Tensor]

KIND = "a VQ-VAE"
CODEBOOK = "vq_vae.codebook.weight"


@dataclass(frozen=True)
class VQVAEConfig:
    """Shape of the network: codes and their depth, width, and the residual layers with the width between their convolutions."""

    num_embeddings: int = 512
    embedding_dim: int = 128
    num_hiddens: int = 128
    num_residual_layers: int = 2
    num_residual_hiddens: int = 64

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        if self.num_hiddens % 2:
            raise UsageError(f"num_hiddens is {self.num_hiddens}; a VQ-VAE needs an even one, which its outer layers halve.")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VQVAEConfig:
        """From a dictionary with any of these settings.

        Raises:
            UsageError: a setting is unknown or no possible size.
        """
        return settings_from(config, cls, KIND)

    def to_dict(self) -> dict[str, object]:
        """What `from_dict` takes and JSON holds."""
        return asdict(self)


def build_vqvae(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQVAE:
    """The VQ-VAE that has these tensors, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a VQ-VAE.
    """
    settings = infer_config(tensors, name) if config is None else VQVAEConfig.from_dict(config)
    weights = {key.replace(CODEBOOK, "quantize.embedding.weight"): value.float() for key, value in tensors.items()}
    return build_strictly(lambda: VQVAE(settings), weights, name=name)


def infer_config(tensors: Tensors, name: str) -> VQVAEConfig:
    """Shape of the network that has these tensors.

    Raises:
        CheckpointError: a tensor that tells the shape is missing, or their shapes are those of no VQ-VAE.
    """
    residual = "encoder._blocks.residual.residual_blocks.residual_"
    with reading_off(name, "VQ-VAE"):
        return VQVAEConfig(
            num_embeddings=tensors[CODEBOOK].shape[0],
            embedding_dim=tensors[CODEBOOK].shape[1],
            num_hiddens=len(tensors["encoder._blocks.conv_3.weight"]),
            num_residual_layers=count_of(rf"{residual}(\d+)\.", tensors),
            num_residual_hiddens=len(tensors[f"{residual}0._block.conv_1.weight"]),
        )


class VQVAE(Autoencoder):
    """Encoder, codebook and decoder."""

    layout = "vqvae"
    pixel_range = (-0.5, 0.5)
    stride = 4

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        # Set once, so these types may be narrower than the interface's.
        self.config: VQVAEConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.codebook_size = config.num_embeddings
        self.encoder = Encoder(config)
        self.pre_vq_conv = nn.Conv2d(config.num_hiddens, config.embedding_dim, 1)
        self.quantize = VectorQuantizer(config.num_embeddings, config.embedding_dim)
        self.decoder = Decoder(config)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [-0.5, 0.5] whose sides are multiples of 4."""
        return self.pre_vq_conv(self.encoder(images))

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [-0.5, 0.5], not clamped."""
        return self.decoder(vectors)


class Encoder(nn.Module):
    """Images to features at a quarter of their size."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        width = config.num_hiddens
        self._blocks = nn.Sequential(
            OrderedDict(
                conv_1=nn.Conv2d(3, width // 2, 4, stride=2, padding=1),
                relu_1=nn.ReLU(),
                conv_2=nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
                relu_2=nn.ReLU(),
                conv_3=nn.Conv2d(width, width, 3, padding=1),
                residual=ResidualStack(config),
            )
        )

    def forward(self, images: Features) -> Features:
        """`num_hiddens` features per position."""
        return self._blocks(images)


class Decoder(nn.Module):
    """Codebook rows to images four times as large."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        width = config.num_hiddens
        self._blocks = nn.Sequential(
            OrderedDict(
                conv_1=nn.Conv2d(config.embedding_dim, width, 3, padding=1),
                residual=ResidualStack(config),
                conv_t_1=nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
                relu_1=nn.ReLU(),
                conv_t_2=nn.ConvTranspose2d(width // 2, 3, 4, stride=2, padding=1),
            )
        )

    def forward(self, features: Features) -> Features:
        """Images around [-0.5, 0.5], not clamped."""
        return self._blocks(features)


class ResidualStack(nn.Module):
    """Residual layers, then a ReLU."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        layers = {f"residual_{number}": ResidualLayer(config) for number in range(config.num_residual_layers)}
        self.residual_blocks = nn.Sequential(OrderedDict(layers))

    def forward(self, features: Features) -> Features:
        """Features of the same shape, none negative."""
        return self.residual_blocks(features).relu()


class ResidualLayer(nn.Module):
    """A ReLU, and two convolutions beside what it gave: the shortcut starts behind it, so that nothing negative passes."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self._block = nn.Sequential(
            OrderedDict(
                conv_1=nn.Conv2d(config.num_hiddens, config.num_residual_hiddens, 3, padding=1, bias=False),
                relu=nn.ReLU(),
                conv_2=nn.Conv2d(config.num_residual_hiddens, config.num_hiddens, 1, bias=False),
            )
        )

    def forward(self, features: Features) -> Features:
        """Features of the same shape."""
        rectified = features.relu()
        return rectified + self._block(rectified)
