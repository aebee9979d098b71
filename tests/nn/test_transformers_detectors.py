"""RT-DETR, its second version and D-FINE, tiny and with random weights: one loss per image, boxes in pixels, and no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from dat.attacks.gradient import evaluating, input_gradient
from dat.boxes import Boxes, Found
from dat.errors import CheckpointError, UsageError
from dat.nn.detector_zoo import begin_detector_with, create_detector
from dat.nn.norm import Normalized
from dat.nn.transformers_detectors import EXTRA, TransformersDetector, tensors_of_folder
from dat.tasks.detection import Detection

transformers: Any = pytest.importorskip("transformers", reason=f"an optional extra: pip install '{EXTRA}'")
CLASSES, QUERIES, HEIGHT, WIDTH = 3, 12, 64, 96
SMALL: dict[str, Any] = {
    "encoder_hidden_dim": 32,
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_in_channels": [32] * 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_layers": 2,
    "num_queries": QUERIES,
    "encoder_in_channels": [16] * 3,
    "num_labels": CLASSES,
}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1] * 4, "layer_type": "basic"}
HGNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1] * 4,
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 16, 16],
    "stage_mid_channels": [8] * 4,
    "stage_out_channels": [16] * 4,
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [2] * 4,
}


def with_resnet(name: str) -> nn.Module:
    backbone = transformers.RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])
    config = getattr(transformers, f"{name}Config")(backbone_config=backbone, **SMALL)
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def d_fine() -> nn.Module:
    backbone = transformers.HGNetV2Config(**HGNET, out_features=["stage2", "stage3", "stage4"])
    return transformers.DFineForObjectDetection(transformers.DFineConfig(backbone_config=backbone, **SMALL))


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "rt_detr": lambda: with_resnet("RTDetr"),
    "rt_detr_v2": lambda: with_resnet("RTDetrV2"),
    "d_fine": d_fine,
}


def detector(family: str) -> Normalized:
    torch.manual_seed(0)
    return Normalized(TransformersDetector(FAMILIES[family]()), mean=[0.0] * 3, std=[1.0] * 3).eval()


def network_of(model: Normalized) -> Any:
    return cast(TransformersDetector, model.network).network


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def boxes() -> Boxes:
    """Of three images, the second without a thing."""
    return Boxes.padded(
        [torch.tensor([[4.0, 4, 34, 40], [20, 24, 90, 60]]), torch.zeros(0, 4), torch.tensor([[10.0, 4, 42, 36]])],
        [torch.tensor([0, 2]), torch.zeros(0), torch.tensor([1])],
    )


def target_of(row: int) -> dict[str, Tensor]:
    """As transformers wants it."""
    corners, labels = boxes().of_image(row)
    return {"class_labels": labels, "boxes": box_convert(corners, "xyxy", "cxcywh") / torch.tensor([WIDTH, HEIGHT] * 2)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_an_image_is_that_of_the_image_alone_and_transformers_own(family: str) -> None:
    """Its own forward pass in train mode, without denoising and with what normalises and drops out in eval mode."""
    model, task = detector(family), Detection()
    together = task.losses(model, images(), boxes())
    alone = [task.losses(model, images()[row : row + 1], boxes()[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    assert len(together.unique()) == 3
    theirs = network_of(detector(family)).train()
    theirs.config.num_denoising = 0
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    for row in range(3):
        expected = theirs(images()[row : row + 1], labels=[target_of(row)]).loss
        torch.testing.assert_close(together[row], expected, rtol=1e-4, atol=1e-4)
    parts = model(images(), boxes())
    torch.testing.assert_close(parts.classification + parts.boxes, together)
    assert parts.boxes[1] == 0 or family == "d_fine", "no thing, no place"
    assert (parts.classification > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_found_is_in_pixels_and_in_our_labels(family: str) -> None:
    model = detector(family)
    with torch.no_grad():
        said, found = network_of(model)(images()), model(images())
    processor = transformers.RTDetrImageProcessor()
    expected = processor.post_process_object_detection(said, threshold=0.0, target_sizes=[(HEIGHT, WIDTH)] * 3)
    ours: list[Found] = found
    for one, other in zip(ours, expected, strict=True):
        assert one.corners.shape == (QUERIES, 4)
        torch.testing.assert_close(one.scores, other["scores"])
        assert torch.equal(one.labels, other["labels"])
        limits = torch.tensor([WIDTH, HEIGHT] * 2)
        torch.testing.assert_close(one.corners, torch.minimum(other["boxes"].clamp(min=0), limits))
    twisted = Normalized(TransformersDetector(network_of(model), theirs=[2, 0]), mean=[0.0] * 3, std=[1.0] * 3).eval()
    for one, other in zip(ours, twisted(images()), strict=True):
        assert torch.equal(other.labels, torch.where(one.labels == 2, 0, 1)[one.labels != 1])
    swapped = Boxes(boxes().corners[::2], torch.tensor([[1, 0], [2, 0]]), boxes().valid[::2])
    same = Boxes(swapped.corners, torch.tensor([[0, 2], [1, 0]]), swapped.valid)
    both = Normalized(TransformersDetector(network_of(model), theirs=[2, 0, 1]), mean=[0.0] * 3, std=[1.0] * 3).eval()
    torch.testing.assert_close(Detection().losses(both, images()[::2], swapped), Detection().losses(model, images()[::2], same))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [False, True])
def test_an_attack_leaves_no_trace_and_draws_nothing(family: str, training: bool) -> None:
    model, task = detector(family).train(training), Detection()
    with torch.inference_mode():
        model(images())  # what is kept from here must not stand in the way of a gradient
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: part.training for name, part in model.named_modules()}
    state = torch.get_rng_state()
    gradient = input_gradient(images(), lambda shown: task.losses(model, shown, boxes()))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    again = input_gradient(images(), lambda shown: task.losses(model, shown, boxes()))
    assert torch.equal(gradient, again)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_same_in_both_modes_and_trains_every_layer(family: str) -> None:
    model, task = detector(family), Detection()
    expected = task.losses(model, images(), boxes())
    model.train()
    with evaluating(model):
        torch.testing.assert_close(task.losses(model, images(), boxes()), expected)
    task.losses(model, images(), boxes()).sum().backward()
    missing = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not missing


def test_bfloat16_gives_losses_in_float32() -> None:
    model = detector("rt_detr")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = Detection().losses(model, images(), boxes())
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, Detection().losses(model, images(), boxes()), rtol=0.1, atol=0.1)


REFUSED: dict[str, tuple[Callable[[], tuple[Tensor, Boxes]], str]] = {
    "label": (
        lambda: (images(), Boxes(boxes().corners, boxes().labels + 1, boxes().valid)),
        "label 3, but this detector has 3 classes",
    ),
    "many": (
        lambda: (images(1), Boxes.padded([torch.tensor([[1.0, 1, 9, 9]]).repeat(13, 1)], [torch.zeros(13)])),
        "13 things, but this detector finds 12 at most",
    ),
    "place": (
        lambda: (images(1), Boxes.padded([torch.tensor([[1.0, 1, 9, 90]])], [torch.zeros(1)])),
        "in pixels of the images, which are 96 x 64",
    ),
    "size": (lambda: (images()[..., :40], boxes()), "40 x 64 pixels, but this detector takes multiples of 32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_such_a_network_cannot_take_is_refused(case: str) -> None:
    given, said = REFUSED[case]
    with pytest.raises(UsageError, match=said):
        detector("rt_detr")(*given())


def test_another_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Linear has no losses that are known here.* DFineForObjectDetection"):
        TransformersDetector(nn.Linear(2, 2))


# ---- by name


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(5)
    cast(Any, FAMILIES[request.param]()).save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def test_a_folder_is_a_detector_for_as_many_classes_as_there_are(folder: Path) -> None:
    original = transformers.AutoModelForObjectDetection.from_pretrained(folder)
    state = torch.get_rng_state()
    tensors = tensors_of_folder(str(folder))
    assert torch.equal(state, torch.get_rng_state())
    same, other = (create_detector(f"transformers:{folder}", num_classes=count) for count in (CLASSES, 5))
    for network in (same, other):
        begin_detector_with(network, tensors, name="published")
    found, expected = same.eval()(images()), TransformersDetector(original).eval()(images())
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.corners, two.corners)
        assert torch.equal(one.labels, two.labels)
    kept = {name: value for name, value in other.network.state_dict().items() if name in tensors}
    fresh = {name.split(".")[-3] for name, value in kept.items() if value.shape != tensors[name].shape}
    assert fresh == {"class_embed", "model"}
    assert all(torch.equal(value, tensors[name]) for name, value in kept.items() if value.shape == tensors[name].shape)
    assert cast(TransformersDetector, other).theirs.tolist() == [0, 1, 2, 3, 4]
    pointers = [value.data_ptr() for value in other.network.state_dict().values()]
    assert len(pointers) == len(set(pointers)), "shared tensors cannot be saved"


def test_options_are_keys_of_the_configuration(folder: Path) -> None:
    network = create_detector(f"transformers:{folder}", num_classes=2, options={"num_queries": 7})
    assert len(network.eval()(images(1))[0].scores) == 7
    with pytest.raises(UsageError, match="has no num_query; options are keys of it"):
        create_detector(f"transformers:{folder}", num_classes=2, options={"num_query": 7})


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config.json; get one, e.g. by hf download PekingU/rtdetr_r18vd"):
        create_detector(f"transformers:{tmp_path}", num_classes=2)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr"}))
    with pytest.raises(UsageError, match="holds a detr; take one of rt_detr, rt_detr_v2, d_fine"):
        create_detector(f"transformers:{tmp_path}", num_classes=2)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="is no description of a network"):
        create_detector(f"transformers:{tmp_path}", num_classes=2)


def test_only_whole_safetensors_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    cast(Any, FAMILIES["rt_detr"]()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 missing keys"):
        tensors_of_folder(str(tmp_path))
    path.unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no safetensors of this network"):
        tensors_of_folder(str(tmp_path))
