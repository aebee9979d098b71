"""Weights by name: what timm says of them, and what is said where they cannot be had."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from dat.engine import loop
from dat.engine.loop import Training
from dat.errors import CheckpointError, UsageError
from dat.nn import pretrained as by_name
from dat.nn.pretrained import freeze_backbone, freeze_norms, is_frozen, pretrained_tensors, published
from dat.nn.zoo import create_network, head_keys
from dat.recipe import read
from dat.recipe.header import recipe_hash
from dat.recipe.model import ModelSection, open_model
from dat.recipe.parts import OnDisk

torch.set_num_threads(1)
SMALL: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """timm as if its weights were on this machine: those of a network of seed 7."""
    create = timm.create_model

    def with_weights(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
        if not pretrained:
            return create(name, **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return create(name, **settings)

    monkeypatch.setattr(by_name, "_ask_once", lambda name: None)
    monkeypatch.setattr(timm, "create_model", with_weights)
    return with_weights


def section(**settings: Any) -> ModelSection:
    return ModelSection.model_validate_json(json.dumps({"name": "resnet18", "options": SMALL, **settings}))


def test_name_and_normalisation_are_those_of_the_weights() -> None:
    assert published("vit_base_patch16_224").mean == (0.5, 0.5, 0.5)
    found = section(name="vit_base_patch16_224", options={}, pretrained=True)
    assert found.name == "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    name = "vit_base_patch16_clip_224.openai"  # mean and deviation are neither one number nor ImageNet's
    clip, told = section(name=name, options={}, pretrained=True), timm.get_pretrained_cfg(name)
    assert told is not None
    assert (clip.mean, clip.std) == (told.mean, told.std)
    assert clip.mean != clip.std
    assert ModelSection.model_validate_json(found.model_dump_json()) == found  # as a run stores it
    assert section(name="vit_base_patch16_224", options={}, pretrained=True, mean=(0.1, 0.2, 0.3)).mean == (0.1, 0.2, 0.3)
    assert section(name="vit_base_patch16_224", options={}).mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("small_resnet", "timm publishes no weights of 'small_resnet'; .* write weights: FILE"),
        ("resnet18.nobody", r"timm publishes no weights resnet18\.nobody; of resnet18 it has: .*resnet18\.a1_in1k"),
    ],
)
def test_names_without_weights_are_sentences(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        published(name)


def test_a_model_begins_with_them_and_a_head_of_its_own(
    hub: Callable[..., nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    blueprint = open_model(section(pretrained=True), OnDisk(), num_classes=5)
    given = hub("resnet18", pretrained=True, num_classes=5, **SMALL).state_dict()
    first, again, other = (blueprint.untrained(seed).network.state_dict() for seed in (0, 0, 1))
    for key, tensor in first.items():
        assert torch.equal(tensor, again[key])
        assert torch.equal(tensor, given[key]) != key.startswith("fc."), key
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert "Note: The model begins with timm's weights resnet18.a1_in1k; " in capsys.readouterr().err
    whole = open_model(section(pretrained=True), OnDisk(), num_classes=1000).untrained(0).network.state_dict()
    assert torch.equal(
        whole["fc.weight"], hub("resnet18", pretrained=True, num_classes=1000, **SMALL).state_dict()["fc.weight"]
    )
    assert pretrained_tensors("resnet18", num_classes=5, options=SMALL).keys() == given.keys() - {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("offline", [False, True])
def test_without_them_what_to_write_is_said(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    def unreachable(*_: Any, **__: Any) -> nn.Module:
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nmore")

    monkeypatch.setattr(by_name, "_ask_once", lambda name: None)
    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1") if offline else monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    said = r"timm cannot get the weights of resnet18\.a1_in1k \(We couldn't .*huggingface.co'\)\. Write model\.pretrained=false"
    with pytest.raises(CheckpointError, match=said) as caught:
        open_model(section(pretrained=True), OnDisk(), num_classes=5)
    assert str(caught.value).startswith("HF_HUB_OFFLINE is set") == offline
    assert "hf download timm/resnet18.a1_in1k" in str(caught.value)


@pytest.mark.parametrize("cached", [False, True])
def test_the_server_is_asked_once_for_what_is_not_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, hub: Callable[..., nn.Module], cached: bool
) -> None:
    monkeypatch.undo()
    asked: list[str] = []

    class Session:
        def head(self, url: str, *, timeout: float) -> None:
            asked.append(url)
            raise OSError(f"no route in {timeout:.0f} s")

    monkeypatch.setattr(by_name, "get_session", Session)
    place = "a/model.safetensors" if cached else None
    monkeypatch.setattr(by_name, "try_to_load_from_cache", lambda repository, file: place)
    if cached:
        monkeypatch.setattr(timm, "create_model", hub)
        assert pretrained_tensors("resnet18.a1_in1k", num_classes=5, options=SMALL)
        assert asked == []
    else:
        with pytest.raises(CheckpointError, match=r"cannot get the weights of resnet18\.a1_in1k \(no route in 10 s\)"):
            pretrained_tensors("resnet18.a1_in1k", num_classes=5, options=SMALL)
        assert len(asked) == 1


def test_a_file_in_the_cache_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of huggingface_hub, with a network that has weights of its own."""
    torch.manual_seed(3)
    given = timm.create_model("test_resnet").state_dict()
    known = timm.get_pretrained_cfg("test_resnet")
    assert known is not None
    folder = tmp_path / f"models--{str(known.hf_hub_id).replace('/', '--')}"
    (folder / "snapshots" / "0a").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0a")
    save_file(given, folder / "snapshots" / "0a" / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = pretrained_tensors("test_resnet", num_classes=5, options={})
    assert found.keys() == given.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, given[key]) for key, tensor in found.items())


def test_weights_by_name_and_of_a_file_are_refused_together() -> None:
    with pytest.raises(ValueError, match="pretrained and weights both say what the model begins with"):
        section(pretrained=True, weights="mine.pth")


@pytest.mark.parametrize("name", ["resnet18", "small_resnet", "vit_tiny_patch16_224", "convnext_atto"])
def test_a_frozen_backbone_and_its_statistics_stay(name: str) -> None:
    network = create_network(name, num_classes=5, options={})
    freeze_backbone(network)
    trained = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained == head_keys(network)
    assert len(trained) == 2
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d | nn.LayerNorm)]
    assert norms
    assert all(is_frozen(part) for part in norms)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_frozen_norms_stay_and_the_rest_trains(name: str) -> None:
    network = create_network(name, num_classes=5, options={})
    freeze_norms(network)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d | nn.Conv2d | nn.Linear):
            assert is_frozen(part) == isinstance(part, nn.BatchNorm2d)


def test_a_recipe_freezes_what_it_names() -> None:
    for frozen, trains in (("norms", {"conv1", "fc"}), ("backbone", {"fc"})):
        network = open_model(section(freeze=frozen), OnDisk(), num_classes=5).untrained(0).network
        parts = {name: getattr(network, name) for name in ("conv1", "bn1", "fc")}
        assert {name for name, part in parts.items() if not is_frozen(part)} == trains


def test_a_network_without_batch_normalisation_has_no_norms_to_freeze() -> None:
    with pytest.raises(
        UsageError, match=r"freeze is 'norms', but VisionTransformer has no batch normalisation; write freeze: null"
    ):
        freeze_norms(create_network("vit_tiny_patch16_224", num_classes=5, options={}))


def test_a_network_without_a_last_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="freeze is 'backbone', but Conv2d does not say which its last layer is"):
        freeze_backbone(nn.Conv2d(3, 3, 1))
    with pytest.raises(UsageError, match=r"backbone_lr_scale is 0\.1, but Conv2d does not say"):
        loop._optimizer(nn.Conv2d(3, 3, 1), Training(1, 1, 0.1, backbone_lr_scale=0.1))


def test_the_rate_below_the_last_layer_is_scaled_at_every_step() -> None:
    network = create_network("resnet18", num_classes=5, options=SMALL)
    settings = Training(4, 8, 0.4, warmup_epochs=1, backbone_lr_scale=0.25)
    optimizer = loop._optimizer(network, settings)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    schedule, last = (
        loop._schedule(optimizer, settings, 5),
        {id(network.get_parameter(f"fc.{part}")) for part in ("weight", "bias")},
    )
    for step in (0, 3, 9, 19):
        schedule.step_update(step)
        rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        heads, below = ({rates[key] for key in rates if (key in last) == wanted} for wanted in (True, False))
        assert len(heads) == len(below) == 1
        assert below.pop() == pytest.approx(0.25 * heads.pop())
    with pytest.raises(UsageError, match="layer_decay and backbone_lr_scale both lower the rate"):
        Training(1, 1, 0.1, layer_decay=0.7, backbone_lr_scale=0.1)


def test_recipes_of_before_keep_their_hash() -> None:
    """Twelve digits of before there were rates, weights by name and slower backbones."""
    assert recipe_hash(read.load("demo", ["out=x"])) == "64ffa139ea1a"
    assert recipe_hash(read.load("demo", ["model.freeze=backbone"])) != "64ffa139ea1a"
