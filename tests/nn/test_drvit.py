"""DrViT: what its tokens are, what is frozen in it, and what is refused."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]  # documented, but timm has no __all__
from torch import Tensor, nn

from dat.attacks.gradient import input_gradient
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.quantizers.nearest import CodebookQuantizer
from dat.errors import UsageError
from dat.nn.drvit import SIZES, DrViT, VisualWords, drvit
from dat.nn.norm import Normalized

torch.set_num_threads(1)

DEPTH, CODES, SIDE, WIDTH, CLASSES = 8, 16, 16, 24, 5


def discretizer() -> FrozenDiscretizer:
    """Of stride 4, its codebook made of its own outputs."""
    torch.manual_seed(1)
    sizes = {"n_embed": CODES, "embed_dim": DEPTH, "z_channels": 8, "ch": 32, "ch_mult": (1, 1, 2), "num_res_blocks": 1}
    model = VQGAN(VQGANConfig(**sizes, attn_resolutions=()))
    assert isinstance(model.quantize, CodebookQuantizer)
    with torch.no_grad():
        model.quantize.initialise(model.latents(2 * torch.rand(8, 3, SIDE, SIDE) - 1), torch.Generator().manual_seed(2))
    return FrozenDiscretizer(model)


def words() -> VisualWords:
    frozen = discretizer()
    quantizer = frozen.network.quantize
    vectors = quantizer.decode(torch.arange(CODES).view(1, 1, -1))[0].flatten(1).T
    return VisualWords(frozen, vectors.detach())


def network(given: VisualWords | None = None, **changes: Any) -> DrViT:
    settings = {"num_classes": CLASSES, "embed_dim": WIDTH, "depth": 2, "num_heads": 3, "img_size": SIDE, "patch_size": 4}
    torch.manual_seed(0)
    model = DrViT(given or words(), **{**settings, **changes})
    nn.init.normal_(model.head.weight)  # it begins with zeros
    return model


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def parameters_of(frozen: FrozenDiscretizer) -> set[int]:
    return {id(parameter) for parameter in frozen.parameters()}


@torch.no_grad()
def test_it_is_timms_transformer_on_joined_tokens() -> None:
    """Against a transformer of the full width whose patch embedding gives the pixels' channels, then the words'."""
    given = words()
    ours, pixels = network(given).eval(), 2 * images() - 1
    theirs = VisionTransformer(
        img_size=SIDE, patch_size=4, embed_dim=WIDTH, depth=2, num_heads=3, num_classes=CLASSES, global_pool="avg"
    ).eval()
    state = {
        key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: value for key, value in ours.state_dict().items()
    }
    state = {key: value for key, value in state.items() if not key.startswith(("patch_embed", "codebook"))}
    assert theirs.load_state_dict(state, strict=False).missing_keys == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    seen = nn.functional.conv2d(pixels, ours.patch_embed.proj.weight, ours.patch_embed.proj.bias, stride=4)
    words_seen = ours.codebook[given.discretizer.encode(images())].permute(0, 3, 1, 2)
    assert seen.shape[1] == WIDTH - DEPTH
    theirs.patch_embed.forward = lambda _: torch.cat([seen, words_seen], dim=1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=1e-5, atol=1e-5)


def test_the_words_matter_and_begin_as_the_codebook() -> None:
    given = words()
    model = network(given).eval()
    assert torch.equal(model.codebook, given.vectors)
    before = model(2 * images() - 1)
    with torch.no_grad():
        model.codebook.mul_(2)
    assert not torch.allclose(model(2 * images() - 1), before)
    assert not torch.equal(model.codebook, given.vectors)


def test_the_discretizer_is_frozen_and_no_part_of_the_network() -> None:
    given = words()
    frozen = given.discretizer
    assert isinstance(frozen, FrozenDiscretizer)
    before = copy.deepcopy(frozen.state_dict())
    model = network(given).train()
    ours = {id(parameter) for parameter in model.parameters()}
    assert not ours & parameters_of(frozen)
    assert all(
        key.startswith(("codebook", "cls_", "pos_", "patch_", "blocks.", "norm.", "head.")) for key in model.state_dict()
    )
    assert not frozen.training
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(2 * images() - 1).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    optimizer.step()
    assert all(torch.equal(tensor, before[key]) for key, tensor in frozen.state_dict().items())
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_copies_share_the_discretizer() -> None:
    model = network()
    twin = copy.deepcopy(model)
    assert twin.words is model.words
    assert twin.codebook is not model.codebook


def test_the_gradient_of_the_images_comes_through_the_pixels_alone() -> None:
    model = Normalized(network(), mean=DrViT.mean, std=DrViT.std).eval()
    found = input_gradient(images(), lambda x: model(x).square().sum(dim=1))
    assert found.abs().sum() > 0
    with torch.no_grad():
        model.network.get_submodule("patch_embed").requires_grad_(False)
        model.get_parameter("network.patch_embed.proj.weight").zero_()
    assert input_gradient(images(), lambda x: model(x).square().sum(dim=1)).abs().sum() == 0


def test_bfloat16_keeps_the_codes() -> None:
    model = network().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(2 * images() - 1)
    torch.testing.assert_close(half.float(), model(2 * images() - 1), rtol=0.05, atol=0.1)


def test_layer_decay_and_no_decay_list() -> None:
    model = network()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert set(found) == set(names.values())
    assert found["codebook"] == (0.125, 0.05)
    assert found["patch_embed.proj.weight"] == (0.125, 0.05)
    assert found["pos_embed"] == found["cls_token"] == (0.125, 0.0)
    assert found["blocks.0.attn.qkv.weight"] == (0.25, 0.05)
    assert found["blocks.1.norm1.weight"] == (0.5, 0.0)
    assert found["head.weight"] == (1.0, 0.05)


def test_stochastic_depth_rises_from_layer_to_layer() -> None:
    model = network(depth=3, drop_path_rate=0.2)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_sizes_are_those_of_the_vision_transformers(size: str) -> None:
    """With a codebook, and 256 channels less of the 16 x 16 x 3 pixels and a bias."""

    @dataclass
    class Any16:
        codebook_size = 1024
        stride = 16

        def encode(self, images: Tensor) -> Tensor:
            raise NotImplementedError

        def decode(self, codes: Tensor) -> Tensor:
            raise NotImplementedError

        def __call__(self, images: Tensor) -> Tensor:
            raise NotImplementedError

    with torch.device("meta"):
        ours = drvit(f"drvit_{size}", VisualWords(Any16(), torch.zeros(1024, 256)), num_classes=1000, options={})
        theirs = timm.create_model(f"vit_{size}_patch16_224")
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1] + 1024 * 256 - 256 * (16 * 16 * 3 + 1)
    assert len(SIZES) == 3
    assert [key for key in ours.state_dict() if key != "codebook"] == [*theirs.state_dict()]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"patch_size": 8}, r"one code per 4 x 4 pixels, but patch_size is 8; write patch_size: 4"),
        ({"img_size": 18}, r"img_size is 18; write a multiple of patch_size, 4"),
        ({"embed_dim": DEPTH}, rf"embed_dim is {DEPTH}, of which the words take {DEPTH}"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        network(**settings)


def test_one_vector_per_code() -> None:
    with pytest.raises(UsageError, match=f"has {CODES} codes, but 3 vectors"):
        VisualWords(discretizer(), torch.zeros(3, DEPTH))


def test_images_of_another_size_or_range_are_refused() -> None:
    model = network().eval()
    with pytest.raises(UsageError, match="Images are 20 x 20 pixels, but this DrViT was made for 16"):
        model(torch.zeros(1, 3, 20, 20))
    other = Normalized(model, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with pytest.raises(UsageError, match=r"must lie in \[0, 1\]"):
        other(images())


def test_a_discretizer_without_a_grid_is_refused() -> None:
    given = words()

    class Line:
        codebook_size, stride = CODES, 4

        def encode(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 16, dtype=torch.int64)

        def decode(self, codes: Tensor) -> Tensor:
            raise NotImplementedError

        def __call__(self, images: Tensor) -> Tensor:
            raise NotImplementedError

    with pytest.raises(UsageError, match="gives 16 codes where DrViT has 4 x 4 patches"):
        network(VisualWords(Line(), given.vectors))(2 * images() - 1)
