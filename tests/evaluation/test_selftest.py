"""Planted defects are found by their names; healthy models, trained or not, raise no alarm."""

from __future__ import annotations

import csv
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dat.data.embedded import digits
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, CropFlip, ImageDataset
from dat.data.subset import Subset
from dat.data.testsets.class_maps import NOTHING
from dat.errors import DataError, UsageError
from dat.evaluation.cells import View, all_classes
from dat.evaluation.selftest import Sample, selftest, spread
from dat.nn.imagenet_networks import load_imagenet_network
from dat.nn.norm import Normalized
from dat.nn.zoo import SmallResNet

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Sorted as Python does. Without regard to case, or by length, they come in other orders.
NAMES = ("Ant", "Cow", "Elk", "Goose", "bat", "dog", "fox", "hen", "ibis", "jackdaw")


class Whole(nn.Module):
    """`before`, the network, `after`: where defects are planted."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda images: images,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.network(self.before(images)))


class AlwaysTraining(nn.Module):
    """Ignores `eval()`, for layers of one kind."""

    def __init__(self, network: nn.Module, kind: type[nn.Module]) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def train(self, mode: bool = True) -> AlwaysTraining:
        super().train(mode)
        for part in self.network.modules():
            if isinstance(part, self.kind):
                part.train()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class BlindDiscretizer(nn.Module):
    """A discretizer whose reconstruction has no gradient, before a network."""

    codebook_size, stride = 64, 1

    def encode(self, images: Tensor) -> Tensor:
        return (images * 63).round().long()

    def decode(self, codes: Tensor) -> Tensor:
        return codes / 63

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


class FetchedAnew(ImageDataset):
    """Crops at random, whatever the key."""

    def __getitems__(self, keys: Any) -> Any:
        images, targets, ids = super().__getitems__(keys)
        return images.roll(int(torch.randint(1, 4, ())), dims=3), targets, ids


class NormalisedData(ImageDataset):
    def __getitems__(self, keys: Any) -> Any:
        images, targets, ids = super().__getitems__(keys)
        return normalise(images, IMAGENET), targets, ids


def normalise(images: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics)
    return (images - mean) / std


def network_of_digits() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(512, 10))


def trained() -> nn.Module:
    """Eats normalised digits; right for about 97 % of them. A copy: what is planted may change it."""
    return deepcopy(_trained())


@cache
def _trained() -> nn.Module:
    source = digits("train")
    images, targets = normalise(torch.from_numpy(source.images) / 255, IMAGENET), torch.from_numpy(source.targets)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = network_of_digits()
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(4):
            for rows in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(images[rows]), targets[rows]).backward()
                optimizer.step()
    optimizer.zero_grad()
    return network.eval()


def healthy() -> nn.Module:
    return Normalized(trained(), mean=IMAGENET[0], std=IMAGENET[1])


def data(classes: tuple[str, ...] = tuple("0123456789")) -> ImageDataset:
    return ImageDataset(replace(digits("test"), classes=classes), CenterCrop(), seed=0)


def ordered(order: list[int]) -> Callable[[Tensor], Tensor]:
    """Output k becomes what stood for class `order[k]`."""
    return lambda logits: logits[:, order]


def by_key(names: tuple[str, ...], key: Callable[[str], Any]) -> list[int]:
    return sorted(range(len(names)), key=lambda index: key(names[index]))


def with_background(logits: Tensor) -> Tensor:
    return torch.cat([logits.amin(dim=1, keepdim=True), logits], dim=1)


def resized(images: Tensor) -> Tensor:
    return F.interpolate(F.interpolate(images, size=int(torch.randint(5, 12, ()))), size=images.shape[2:])


def trains(network: nn.Module, kind: type[nn.Module]) -> nn.Module:
    return AlwaysTraining(network, kind)


def functional_batch_norm(images: Tensor) -> Tensor:
    return F.batch_norm(images, None, None, training=True)


def without_graph(images: Tensor) -> Tensor:
    with torch.inference_mode():
        return images * 1.0


def without_contrast(images: Tensor) -> Tensor:
    """The pictures themselves, but 0 / 0 where one has no contrast, as a strong corruption leaves it."""
    deviation = images.std(dim=(1, 2, 3), keepdim=True)
    return images * (deviation / deviation)


# Of any network that eats images in [0, 1], its statistics and its number of classes.
PLANTED: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "two normalisations in a row": ("normalised-twice", lambda m: Normalized(m, mean=IMAGENET[0], std=IMAGENET[1])),
    "background class": ("shifted-labels", lambda m: Whole(m, after=with_background)),
    "outputs count from 1": ("shifted-labels", lambda m: Whole(m, after=lambda logits: logits.roll(1, dims=1))),
    "softmax": ("probabilities", lambda m: Whole(m, after=lambda logits: logits.softmax(dim=1))),
    "log-softmax": ("probabilities", lambda m: Whole(m, after=lambda logits: logits.log_softmax(dim=1))),
    "functional dropout": ("dropout", lambda m: Whole(m, after=lambda logits: F.dropout(logits, 0.1))),
    "functional batch norm": ("batch-statistics", lambda m: Whole(m, before=functional_batch_norm)),
    "detached pictures": ("no-gradient", lambda m: Whole(m, before=lambda images: images.detach())),
    "inference mode": ("no-gradient", lambda m: Whole(m, before=without_graph)),
    "NaN gradient": ("no-gradient", lambda m: Whole(m, before=lambda images: images + 0 * (0 * images).sqrt())),
    "rounded pictures": ("discretizer-blocks-gradient", lambda m: Whole(m, before=lambda x: (x * 255).round() / 255)),
    "floored pictures": ("discretizer-blocks-gradient", lambda m: Whole(m, before=lambda x: (x * 255).floor() / 255)),
    "discretizer": ("discretizer-blocks-gradient", lambda m: nn.Sequential(BlindDiscretizer(), m)),
    "random size": ("random-model", lambda m: Whole(m, before=resized)),
    "NaN without contrast": ("not-a-number", lambda m: Whole(m, before=without_contrast)),
    "saturated": ("saturated", lambda m: Whole(m, after=lambda logits: 1000 * logits)),
    "random noise": ("random-model", lambda m: Whole(m, before=lambda x: x + 0.1 * torch.rand_like(x))),
}


def names_of(model: nn.Module, pictures: ImageDataset | Sample, view: View | None = None, **settings: Any) -> list[str]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alarms = selftest(model, pictures, view, **settings)
    assert all(alarm.sentence.endswith(".") and len(alarm.sentence) > 60 for alarm in alarms)
    return [alarm.name for alarm in alarms]


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found_on_digits(defect: str) -> None:
    name, plant = PLANTED[defect]
    assert names_of(plant(healthy()), data()) == [name]


@pytest.mark.parametrize(
    ("name", "model", "pictures"),
    [
        ("normalised-twice", healthy, lambda: NormalisedData(data().source, CenterCrop(), seed=0)),
        ("normalised-twice", lambda: Whole(healthy(), before=lambda x: normalise(x, IMAGENET)), data),
        ("normalisation-missing", trained, data),
        ("range", trained, lambda: NormalisedData(data().source, CenterCrop(), seed=0)),
        ("dropout", lambda: trains(healthy(), nn.Dropout), data),
        ("batch-statistics", lambda: trains(healthy(), nn.BatchNorm2d), data),
        ("random-pictures", healthy, lambda: ImageDataset(data().source, CropFlip(padding=1, flip=False), seed=0)),
        ("random-pictures", healthy, lambda: FetchedAnew(data().source, CenterCrop(), seed=0)),
        ("outputs", lambda: Whole(healthy(), after=lambda logits: logits[:, :7]), data),
        ("not-a-number", lambda: Whole(healthy(), after=lambda logits: logits / 0), data),
    ],
)
def test_a_defect_of_its_own_is_found_on_digits(
    name: str, model: Callable[[], nn.Module], pictures: Callable[[], ImageDataset]
) -> None:
    assert names_of(model(), pictures(), all_classes(10))[:1] == [name]


@pytest.mark.parametrize("key", [str.casefold, lambda name: (len(name), name)])
def test_a_wrong_class_order_is_found(key: Callable[[str], Any]) -> None:
    order = by_key(NAMES, key)
    assert order != list(range(10))
    assert names_of(Whole(healthy(), after=ordered(order)), data(NAMES)) == ["class-order"]
    assert names_of(Whole(healthy(), after=ordered(np.argsort(order).tolist())), data(NAMES)) == ["class-order"]


def test_an_order_that_no_program_sorts_is_learned_from_the_pictures() -> None:
    assert names_of(Whole(healthy(), after=ordered([3, 7, 0, 9, 1, 2, 8, 4, 6, 5])), data()) == ["class-order"]


def twenty() -> tuple[nn.Module, ImageDataset, View]:
    """Digits as classes 1 ... 19 of 20 outputs, by every second; the others are masked."""
    source = digits("test")
    labels = np.arange(1, 20, 2)
    groups = np.where(np.isin(np.arange(20), labels), np.arange(20), NOTHING)
    network = Whole(healthy(), after=lambda logits: logits.repeat_interleave(2, dim=1))
    return network, ImageDataset(source, CenterCrop(), seed=0), View("accuracy", groups, labels)


def test_a_masked_view_is_read_as_it_is() -> None:
    network, pictures, view = twenty()
    assert names_of(network, pictures, view) == []
    text = sorted(range(20), key=str)
    assert names_of(Whole(network, after=ordered(text)), pictures, view) == ["class-order"]
    assert names_of(Whole(network, after=lambda logits: logits.roll(2, dims=1)), pictures, view) == ["shifted-labels"]


def test_sentences_say_the_value_and_what_to_do() -> None:
    (alarm,) = selftest(Whole(healthy(), after=lambda logits: logits.roll(1, dims=1)), data())
    assert "64 pictures are right if output k + 1 stands for class k" in alarm.sentence
    (alarm,) = selftest(trains(healthy(), nn.Dropout), data())
    assert "Dropout" in alarm.sentence


def test_a_saturated_model_is_said_and_does_not_stop_an_evaluation() -> None:
    (alarm,) = selftest(Whole(healthy(), after=lambda logits: 1000 * logits), data())
    assert not alarm.stops
    assert "exactly 1 in float32" in alarm.sentence
    assert all(found.stops for found in selftest(Whole(healthy(), before=without_contrast), data()))


def test_several_defects_are_all_reported() -> None:
    model = Whole(healthy(), before=lambda x: x.detach(), after=lambda logits: logits.roll(1, dims=1).softmax(dim=1))
    assert names_of(model, data()) == ["probabilities", "no-gradient", "shifted-labels"]


def test_the_healthy_digits_model_raises_no_alarm_on_any_subset() -> None:
    for seed in range(3):
        rows = np.sort(np.random.default_rng(seed).choice(450, 64, replace=False))
        assert names_of(healthy(), ImageDataset(Subset(digits("test"), rows), CenterCrop(), seed=0)) == []


@pytest.mark.parametrize("seed", range(4))
def test_an_untrained_model_raises_no_alarm(seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Normalized(network_of_digits(), mean=IMAGENET[0], std=IMAGENET[1])
    assert names_of(network, data(NAMES)) == []
    assert names_of(network, ImageDataset(Subset(digits("test"), np.arange(3)), CenterCrop(), seed=0)) == []


def test_a_constant_model_on_one_class_raises_no_alarm() -> None:
    targets = np.where(np.arange(450) % 10 == 0, 0, 1)
    source = replace(digits("test"), targets=targets, classes=("zero", "one"))
    head = nn.Linear(192, 2)
    head.load_state_dict({"weight": torch.zeros(2, 192), "bias": torch.tensor([3.0, -1.0])})
    assert names_of(nn.Sequential(nn.Flatten(), head), ImageDataset(source, CenterCrop(), seed=0)) == []


def test_pictures_may_be_given_without_a_data_set() -> None:
    images, targets, _ = data().__getitems__([(0, position) for position in range(40)])
    assert names_of(healthy(), Sample(images, targets)) == []
    assert names_of(healthy(), Sample(images, targets, again=images[..., :7])) == ["random-pictures"]


@pytest.mark.parametrize("is_training", [False, True])
def test_nothing_of_the_model_changes_but_its_mode(is_training: bool) -> None:
    network = trains(healthy(), nn.BatchNorm2d) if is_training else healthy()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    stream = torch.get_rng_state()
    selftest(network, data())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(stream, torch.get_rng_state())
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_pictures_are_spread_evenly_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    assert len(spread(data(), count=64).images) == 64
    assert len(spread(ImageDataset(Subset(digits("test"), np.arange(5)), CenterCrop(), seed=0)).images) == 5
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "1.png").write_text("no picture")
    folder = ImageDataset(ImageFolder(tmp_path), CenterCrop(), seed=0)
    assert spread(folder).targets.tolist() == [0, 0]
    for number in (0, 2):
        (tmp_path / "a" / f"{number}.png").write_text("no picture")
    with pytest.raises(DataError):
        spread(folder)


@pytest.mark.parametrize("count", [1, 2])
def test_one_picture_is_enough(count: int) -> None:
    """NumPy takes a tensor of one element for a number: an order of classes cannot be learned from it, and nothing falls."""
    whole = Sample(torch.rand(count, 3, 8, 8), torch.full((count,), 3), tuple("0123456789"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert selftest(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), whole) == []


def test_misuse_is_refused() -> None:
    with pytest.raises(UsageError, match=r"one row of logits"):
        selftest(nn.Identity(), data())
    with pytest.raises(UsageError, match="no pictures"):
        selftest(healthy(), Sample(torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(UsageError, match="class 9"):
        selftest(healthy(), data(), all_classes(10, np.arange(5)))


UNTRAINED: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "efficientnet_lite0": {},
    "regnetx_002": {},
    "vit_tiny_patch16_224": {"img_size": 32},
    "deit_tiny_patch16_224": {"img_size": 32},
    "mixer_s32_224": {"img_size": 32},
    "swin_tiny_patch4_window7_224": {"img_size": 56},
    "densenet121": {},
}


def sides(name: str) -> int:
    return UNTRAINED[name].get("img_size", 32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if i < 1 else pytest.mark.slow) for i, name in enumerate(UNTRAINED)]
)
def test_healthy_timm_models_raise_no_alarm(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=10, **UNTRAINED[name])
    pictures = ImageDataset(digits("test", size=sides(name)), CenterCrop(), seed=0)
    model = Normalized(network, mean=IMAGENET[0], std=IMAGENET[1])
    assert names_of(model, pictures, count=32, batch_size=16) == []


# Real weights on real pictures.


class Sampled:
    """The ImageNet sample: one picture per class, in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with (root / "labels.csv").open() as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["class_index"]))
        self.paths, self.classes = [row["path"] for row in rows], tuple(row["wnid"] for row in rows)
        self.targets = np.array([int(row["class_index"]) for row in rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        return Image.open(self.root / self.paths[index]).convert("RGB")

    def name(self, index: int) -> str:
        return self.paths[index]

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        return ""


WEIGHTS = {
    "mobilenet_v2": "mobilenet_v2_imagenet_int8.npz",
    "squeezenet1_0": "squeezenet1_0_imagenet_codes.npz",
    "tiny_darknet": "tiny_darknet_imagenet.safetensors",
}


@pytest.fixture(scope="module")
def unpacked() -> Path:
    folder = Path(__file__).resolve().parents[2] / "data"
    if not all((folder / name).is_dir() for name in ("cifar10", "imagenet_sample", "weights")):
        pytest.skip("data/ is not there; ../shared/data/unpack.py makes it")
    return folder


def imagenet_model(folder: Path, name: str) -> nn.Module:
    return load_imagenet_network(name, folder / "weights" / WEIGHTS[name])


def imagenet_data(folder: Path, rows: np.ndarray | None = None) -> ImageDataset:
    source = Sampled(folder / "imagenet_sample")
    return ImageDataset(source if rows is None else Subset(source, rows), CenterCrop(224), seed=0)


def cifar_network(folder: Path, depth: int = 20) -> nn.Module:
    file = {20: "cifar10_resnet20-12fca82f.th", 56: "cifar10_resnet56-4bfd9763.th"}[depth]
    state = torch.load(folder / "weights" / file, map_location="cpu", weights_only=True)["state_dict"]
    network = SmallResNet(num_classes=10, depth=depth)
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return network.eval()


def cifar_model(folder: Path, depth: int = 20) -> nn.Module:
    return Normalized(cifar_network(folder, depth), mean=IMAGENET[0], std=IMAGENET[1])


def cifar_data(folder: Path, rows: np.ndarray | None = None) -> ImageDataset:
    source = ImageFolder(folder / "cifar10" / "test")
    return ImageDataset(source if rows is None else Subset(source, rows), CenterCrop(), seed=0)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found_on_cifar(defect: str, unpacked: Path) -> None:
    name, plant = PLANTED[defect]
    assert names_of(plant(cifar_model(unpacked)), cifar_data(unpacked))[:1] == [name]


@pytest.mark.shared
@pytest.mark.slow
def test_other_defects_are_found_on_cifar(unpacked: Path) -> None:
    model, pictures = cifar_model(unpacked), cifar_data(unpacked)
    assert names_of(cifar_network(unpacked), pictures) == ["normalisation-missing"]
    assert names_of(Whole(model, before=lambda x: normalise(x, HALF)), pictures)[:1] == ["normalised-twice"]
    assert names_of(trains(model, nn.BatchNorm2d), pictures)[:1] == ["batch-statistics"]
    assert names_of(Whole(model, after=ordered([3, 7, 0, 9, 1, 2, 8, 4, 6, 5])), pictures) == ["class-order"]
    cropped = ImageDataset(pictures.source, CropFlip(), seed=0)
    assert names_of(model, cropped)[:1] == ["random-pictures"]


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_healthy_imagenet_models_raise_no_alarm(name: str, unpacked: Path) -> None:
    assert names_of(imagenet_model(unpacked, name), imagenet_data(unpacked), all_classes(1000)) == []


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found_on_imagenet(defect: str, unpacked: Path) -> None:
    name, plant = PLANTED[defect]
    model = plant(imagenet_model(unpacked, "mobilenet_v2"))
    assert names_of(model, imagenet_data(unpacked), all_classes(1000))[:1] == [name]


@pytest.mark.shared
@pytest.mark.slow
def test_orders_and_masks_of_imagenet(unpacked: Path) -> None:
    model, pictures = imagenet_model(unpacked, "squeezenet1_0"), imagenet_data(unpacked)
    text = Whole(model, after=ordered(sorted(range(1000), key=str)))
    assert names_of(text, pictures, all_classes(1000)) == ["class-order"]
    labels = np.arange(0, 1000, 5)
    groups = np.where(np.isin(np.arange(1000), labels), np.arange(1000), NOTHING)
    masked = View("accuracy", groups, np.where(np.isin(np.arange(1000), labels), np.arange(1000), NOTHING))
    rows = imagenet_data(unpacked, labels)
    assert names_of(model, rows, masked) == []
    assert names_of(text, rows, masked) == ["class-order"]


@pytest.mark.shared
@pytest.mark.slow
def test_trained_models_raise_no_alarm_on_any_subset_but_what_is_true_of_them(unpacked: Path) -> None:
    """Of a quarter of the pictures and more both are sure beyond float32, as networks are that were trained for 200 epochs."""
    for depth in (20, 56):
        for seed in range(10):
            rows = np.sort(np.random.default_rng(seed).choice(5000, 64, replace=False))
            assert names_of(cifar_model(unpacked, depth), cifar_data(unpacked, rows)) == ["saturated"]
