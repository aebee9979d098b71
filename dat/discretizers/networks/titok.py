"""TiTok, which writes an image of one fixed size as a short row of tokens: network and public key layout.

Source: Yu et al. (2024), An Image is Worth 32 Tokens; bytedance/1d-tokenizer:modeling/titok.py, modeling/modules/blocks.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder, Quantizer
from dat.discretizers.configuration import check_values, count_of, reading_off, settings_from
from dat.discretizers.networks.maskgit import Decoder as PixelDecoder
from dat.discretizers.networks.maskgit import MaskGITConfig, infer_decoder
from dat.discretizers.networks.vqgan import Features
from dat.discretizers.quantizers.nearest import Codebook, VectorQuantizer, as_vectors, nearest_code
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Codes, Images, Latents

Sequence = Float[Tensor, "batch _ width"]
Tokens = Float[Tensor, "length width"]

KIND = "a TiTok"
OF_VIT = ("vit_width", "vit_layers", "vit_heads")
"""Words of ours, for a size that no public model has; they hold for both transformers."""
SECTIONS = {"model", "dataset", "experiment", "losses", "optimizer", "lr_scheduler", "training"}
"""Of a public configuration file. Only the first two concern the network."""
OF_TRAINING = {"commitment_cost", "pretrained_tokenizer_weight"}

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Size:
    """Shape of a vision transformer."""

    width: int
    layers: int
    heads: int


SIZES = {"small": Size(512, 8, 8), "base": Size(768, 12, 12), "large": Size(1024, 24, 16)}


@dataclass(frozen=True)
class TiTokConfig:
    """Shape of the network, in the words of the public configuration files (`model.vq_model`, and `crop_size`).

    `crop_size`: the side of the images, in pixels. `finetune_decoder`: the transformer predicts codes of MaskGIT's VQGAN,
    whose decoder makes pixels of their mixture; else it predicts pixels. `is_legacy`: that of all models of the first kind,
    and none of the second; it names a mistake of theirs, too (see `Encoder`). `vit_width` etc. replace the named sizes.
    """

    codebook_size: int
    token_size: int
    use_l2_norm: bool
    vit_enc_model_size: str
    vit_dec_model_size: str
    vit_enc_patch_size: int
    vit_dec_patch_size: int
    num_latent_tokens: int
    crop_size: int
    is_legacy: bool = True
    finetune_decoder: bool = True
    vit_width: int | None = None
    vit_layers: int | None = None
    vit_heads: int | None = None
    pixel_decoder: MaskGITConfig = field(default_factory=MaskGITConfig)

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        if unknown := {self.vit_enc_model_size, self.vit_dec_model_size} - set(SIZES):
            raise UsageError(f"There is no size {sorted(unknown)[0]!r} of {KIND}; write one of {', '.join(SIZES)}.")
        if self.is_legacy != self.finetune_decoder:
            raise UsageError(
                f"is_legacy is {self.is_legacy}, finetune_decoder {self.finetune_decoder}; a TiTok has both or neither "
                "(one with is_legacy alone is the first stage of training, which predicts codes of another network)."
            )
        for size in (self.encoder_size, self.decoder_size):
            if size.width % size.heads:
                raise UsageError(f"The width of {KIND} is a multiple of its heads; got {size.width} and {size.heads}.")
        self._check_patches()

    def _check_patches(self) -> None:
        patches = (self.vit_enc_patch_size, self.vit_dec_patch_size)
        if any(self.crop_size % patch for patch in patches):
            raise UsageError(f"crop_size is {self.crop_size}; {KIND} needs a multiple of its patches, {patches}.")
        if self.finetune_decoder and self.pixel_decoder.stride != self.vit_dec_patch_size:
            raise UsageError(
                f"vit_dec_patch_size is {self.vit_dec_patch_size}, but the pixel decoder makes {self.pixel_decoder.stride} "
                "pixels of a code, along each side; both must be equal."
            )

    @property
    def encoder_size(self) -> Size:
        """Shape of the transformer that reads the image."""
        return self._size(self.vit_enc_model_size)

    @property
    def decoder_size(self) -> Size:
        """Shape of the transformer that reads the tokens."""
        return self._size(self.vit_dec_model_size)

    def _size(self, name: str) -> Size:
        given = {"width": self.vit_width, "layers": self.vit_layers, "heads": self.vit_heads}
        return replace(SIZES[name], **{key: value for key, value in given.items() if value is not None})

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> TiTokConfig:
        """From the dictionary of a public configuration file; its parts on training and on the generator are skipped.

        Raises:
            UsageError: a key is unknown or missing, or asks for a network that has no codes (`quantize_mode` "vae").
        """
        try:
            inner, crop_size = config["model"]["vq_model"], config["dataset"]["preprocessing"]["crop_size"]
            words = {key: value for key, value in inner.items() if key not in OF_TRAINING} | {"crop_size": crop_size}
            pixel_decoder = MaskGITConfig.from_dict({**config.get("pixel_decoder", {})})
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                "A configuration of TiTok has the sections model.vq_model and dataset.preprocessing, the latter with "
                f"crop_size; got {sorted(config)}."
            ) from error
        if (mode := words.pop("quantize_mode", "vq")) != "vq":
            raise UsageError(f"quantize_mode is {mode!r}; only a TiTok with 'vq' has codes.")
        words |= {key: value for key, value in config.items() if key not in SECTIONS}
        return settings_from(words | {"pixel_decoder": pixel_decoder}, cls, KIND)

    def to_dict(self) -> dict[str, object]:
        """The public form, which `from_dict` takes and JSON holds."""
        words = {key: value for key, value in asdict(self).items() if value is not None}
        dataset = {"preprocessing": {"crop_size": words.pop("crop_size")}}
        own = {key: words.pop(key) for key in OF_VIT if key in words}
        own["pixel_decoder"] = self.pixel_decoder.to_dict()
        del words["pixel_decoder"]
        return {"model": {"vq_model": words}, "dataset": dataset, **own}


def build_titok(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> TiTok:
    """The tokenizer of a checkpoint of TiTok, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a TiTok with codes.
    """
    weights = {key: value.float() for key, value in tensors.items()}  # Public files hold nothing beside the network.
    settings = infer_config(weights, name) if config is None else TiTokConfig.from_dict(config)
    return build_strictly(lambda: TiTok(settings), weights, name=name)


def infer_config(tensors: Tensors, name: str) -> TiTokConfig:
    """Shape of the network that has these tensors, which must be of a public size: nothing else tells the heads.

    `use_l2_norm`, which they cannot tell either, is that of the public models: true for the legacy ones only.

    Raises:
        CheckpointError: a tensor that tells the shape is missing, or of a shape that no public network has.
    """
    with reading_off(name, "TiTok"):
        codebook_size, depth = tensors["quantize.embedding.weight"].shape[:2]
        legacy, finetuned = (any(key.startswith(part) for key in tensors) for part in ("decoder.ffn.2.", "pixel_decoder."))
        patch = tensors["encoder.patch_embed.weight"].shape[3]
        crop_size = patch * _side(tensors, "encoder")
        return TiTokConfig(
            codebook_size=codebook_size,
            token_size=depth,
            num_latent_tokens=tensors["latent_tokens"].shape[0],
            use_l2_norm=legacy,
            vit_enc_model_size=_size_of(tensors, "encoder"),
            vit_dec_model_size=_size_of(tensors, "decoder"),
            vit_enc_patch_size=patch,
            vit_dec_patch_size=crop_size // _side(tensors, "decoder"),
            crop_size=crop_size,
            is_legacy=legacy,
            finetune_decoder=finetuned,
            pixel_decoder=infer_decoder(tensors, "pixel_") if legacy and finetuned else MaskGITConfig(),
        )


def _side(tensors: Tensors, half: str) -> int:
    """Patches along each side: each has a position, and there is one more for the class."""
    return round((tensors[f"{half}.positional_embedding"].shape[0] - 1) ** 0.5)


def _size_of(tensors: Tensors, half: str) -> str:
    width = tensors[f"{half}.class_embedding"].shape[1]
    layers = count_of(rf"{half}\.transformer\.(\d+)\.", tensors)
    for name, size in SIZES.items():
        if (size.width, size.layers) == (width, layers):
            return name
    raise UsageError(
        f"its {half} has {layers} layers of width {width}, no public size ({', '.join(SIZES)}), so nothing tells its heads; "
        "give its configuration, with vit_width, vit_layers and vit_heads."
    )


class TiTok(Autoencoder):
    """Two transformers with a row of tokens between them; images are in [0, 1] and of one size only. For inference."""

    layout = "titok"
    pixel_range = (0.0, 1.0)

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config, self.codebook_size, self.stride = config, config.codebook_size, config.vit_enc_patch_size
        self.image_size, self.tokens = config.crop_size, config.num_latent_tokens
        self.latent_tokens = nn.Parameter(torch.zeros(config.num_latent_tokens, config.encoder_size.width))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = TokenQuantizer(config.codebook_size, config.token_size, l2_norm=config.use_l2_norm)
        pixels = config.pixel_decoder
        self.pixel_quantize = VectorQuantizer(pixels.num_embeddings, pixels.z_channels) if config.finetune_decoder else None
        self.pixel_decoder = PixelDecoder(pixels) if config.finetune_decoder else None

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, as one row, for images of the network's size in [0, 1]."""
        return self.encoder(images, self.latent_tokens)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [0, 1], not clamped; the predicted codes of the pixel decoder are mixed, not chosen."""
        predicted = self.decoder(vectors)
        if self.pixel_quantize is None or self.pixel_decoder is None:
            return predicted
        shares = predicted.softmax(1).movedim(1, -1)
        return self.pixel_decoder((shares @ self.pixel_quantize.embedding.weight).movedim(-1, 1))


class TokenQuantizer(Quantizer):
    """The nearest code of each token; with `l2_norm` tokens and codebook are scaled to length 1 first."""

    def __init__(self, codebook_size: int, depth: int, *, l2_norm: bool) -> None:
        super().__init__()
        self.codebook_size, self.l2_norm = codebook_size, l2_norm
        self.embedding = nn.Embedding(codebook_size, depth)

    @property
    def rows(self) -> Codebook:
        """What is searched and decoded; the weights keep the lengths that they were trained to."""
        return F.normalize(self.embedding.weight, dim=1) if self.l2_norm else self.embedding.weight

    def encode(self, latents: Latents) -> Codes:
        """Code of the nearest row for each token, `(batch, tokens)`."""
        vectors = as_vectors(F.normalize(latents, dim=1) if self.l2_norm else latents)
        return nearest_code(vectors, self.rows).view(latents.shape[0], -1)

    def decode(self, codes: Codes) -> Latents:
        """The row for each token, `(batch, token_size, 1, tokens)`."""
        return F.embedding(codes, self.rows).mT.unsqueeze(2)


class Transformer(nn.Module):
    """What both halves share: a transformer over patches and tokens, each with its learned positions. Not used alone."""

    def __init__(self, size: Size, patches: int, tokens: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(1, size.width))
        self.positional_embedding = nn.Parameter(torch.zeros(patches + 1, size.width))
        self.latent_token_positional_embedding = nn.Parameter(torch.zeros(tokens, size.width))
        self.ln_pre = nn.LayerNorm(size.width)
        self.transformer = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.ln_post = nn.LayerNorm(size.width)

    def attend(self, patches: Sequence, tokens: Sequence) -> tuple[Sequence, Sequence]:
        """Patches and tokens after they have seen each other, and a class that is dropped again."""
        class_patch = self.class_embedding.expand(patches.shape[0], 1, -1)
        placed = torch.cat([class_patch, patches], dim=1) + self.positional_embedding
        sequence = self.ln_pre(torch.cat([placed, tokens + self.latent_token_positional_embedding], dim=1))
        for block in self.transformer:
            sequence = block(sequence)
        _, patches, tokens = self.ln_post(sequence).split([1, patches.shape[1], tokens.shape[1]], dim=1)
        return patches, tokens


class Encoder(Transformer):
    """Images to one vector of `token_size` channels per token.

    The legacy models read the array `(tokens, width)` as `(width, tokens)` without transposing it, so each channel of
    a token mixes several tokens. Their weights were trained so.
    """

    def __init__(self, config: TiTokConfig) -> None:
        size, patch = config.encoder_size, config.vit_enc_patch_size
        super().__init__(size, (config.crop_size // patch) ** 2, config.num_latent_tokens)
        self.is_legacy = config.is_legacy
        self.patch_embed = nn.Conv2d(3, size.width, patch, stride=patch)
        self.conv_out = nn.Conv2d(size.width, config.token_size, 1)

    def forward(self, images: Features, latent_tokens: Tokens) -> Features:
        """One row of vectors, `(batch, token_size, 1, tokens)`."""
        patches = self.patch_embed(images).flatten(2).mT
        _, tokens = self.attend(patches, latent_tokens.expand(images.shape[0], -1, -1))
        batch, length, width = tokens.shape
        channels = tokens.reshape(batch, width, length) if self.is_legacy else tokens.mT
        return self.conv_out(channels.unsqueeze(2))


class Decoder(Transformer):
    """One row of vectors to a map of code logits (legacy), or to images."""

    def __init__(self, config: TiTokConfig) -> None:
        size, patch = config.decoder_size, config.vit_dec_patch_size
        super().__init__(size, (config.crop_size // patch) ** 2, config.num_latent_tokens)
        self.side = config.crop_size // patch
        self.decoder_embed = nn.Linear(config.token_size, size.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size.width))
        if config.is_legacy:
            hidden, codes = 2 * size.width, config.pixel_decoder.num_embeddings
            self.ffn = nn.Sequential(nn.Conv2d(size.width, hidden, 1), nn.Tanh(), nn.Conv2d(hidden, codes, 1))
            self.conv_out = nn.Identity()
        else:
            self.ffn = nn.Sequential(nn.Conv2d(size.width, 3 * patch**2, 1), Unfold(patch))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, vectors: Features) -> Features:
        """Logits of the pixel decoder's codes, one map entry per patch; images around [0, 1] without a pixel decoder."""
        tokens = self.decoder_embed(vectors.flatten(2).mT)
        patches, _ = self.attend(self.mask_token.expand(tokens.shape[0], self.side**2, -1), tokens)
        return self.conv_out(self.ffn(patches.mT.unflatten(2, (self.side, self.side))))


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and added to its input."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, hidden = size.width, 4 * size.width
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, size.heads, batch_first=True)
        parts = {"c_fc": nn.Linear(width, hidden), "gelu": nn.GELU(), "c_proj": nn.Linear(hidden, width)}
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, sequence: Sequence) -> Sequence:
        """A sequence of the same shape."""
        normed = self.ln_1(sequence)
        sequence = sequence + self.attn(normed, normed, normed, need_weights=False)[0]
        return sequence + self.mlp(self.ln_2(sequence))


class Unfold(nn.Module):
    """Channels `(row, column, colour)` of each position to a patch of pixels."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, features: Features) -> Features:
        """Features `patch` times as large, of `patch` squared times fewer channels."""
        colours_first = features.unflatten(1, (self.patch**2, -1)).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(colours_first, self.patch)
