"""Pictures that are held out of a training: of each class its share, always the same, and none of their copies trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dat.data.draw import drawn_order
from dat.data.embedded import ArraySource, digits
from dat.data.folders import ImageFolder
from dat.data.hold_out import held_out, part_of, without_copies
from dat.errors import DataError


def paint(root: Path, counts: dict[str, int], *, suffix: str = "png") -> ImageFolder:
    draws = np.random.default_rng(len(counts))
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            picture.save(root / name / f"{number}.{suffix}")
    return ImageFolder(root)


def test_each_class_gives_its_share_and_at_least_one_and_keeps_one(tmp_path: Path) -> None:
    source = paint(tmp_path, {"a": 20, "b": 10, "c": 2, "d": 3})
    assert np.bincount(source.targets[held_out(source, 0.2)]).tolist() == [4, 2, 1, 1]
    assert np.bincount(source.targets[held_out(source, 0.99)]).tolist() == [19, 9, 1, 2]


def test_the_same_pictures_are_held_out_whatever_their_format_and_others_by_another_seed(tmp_path: Path) -> None:
    first, other = paint(tmp_path / "png", {"a": 30, "b": 30}), paint(tmp_path / "bmp", {"a": 30, "b": 30}, suffix="bmp")
    chosen = held_out(first, 0.1)
    assert chosen.tolist() == held_out(other, 0.1).tolist() == sorted(chosen.tolist())
    assert chosen.tolist() != held_out(first, 0.1, seed=1).tolist()
    assert set(chosen.tolist()) < set(held_out(first, 0.3).tolist())


def test_they_are_the_first_of_each_class_in_the_order_of_seed_0_so_that_a_run_goes_on_with_the_same(tmp_path: Path) -> None:
    source = paint(tmp_path, {"a": 30, "b": 20})
    order = drawn_order([source.name(index) for index in range(50)], seed=0).tolist()
    of_a, of_b = ([index for index in order if source.targets[index] == label] for label in (0, 1))
    assert held_out(source, 0.1).tolist() == sorted(of_a[:3] + of_b[:2])


def test_a_class_of_one_picture_is_a_sentence(tmp_path: Path) -> None:
    source = paint(tmp_path, {"a": 3, "fox": 1})
    with pytest.raises(DataError, match=r"Class fox has one training picture, fox/0.png, too few .* data\.validation=FOLDER"):
        held_out(source, 0.5)


def test_copies_of_what_is_held_out_go_too(tmp_path: Path) -> None:
    source, copies = paint(tmp_path / "a", {"a": 4, "b": 4}), paint(tmp_path / "b", {"a": 4, "b": 4}, suffix="bmp")
    names = [source.name(index) for index in held_out(source, 0.25).tolist()]
    kept = [without_copies(part, names) for part in (source, copies)]
    assert [len(part) for part in kept] == [6, 6]
    stems = {kept[1].name(index).removesuffix(".bmp") for index in range(6)}
    assert stems.isdisjoint(name.removesuffix(".png") for name in names)


def test_a_part_of_a_set_in_memory_is_in_memory() -> None:
    whole = digits("train")
    part = part_of(whole, np.array([3, 5]))
    assert isinstance(part, ArraySource)
    assert [part.name(1), int(part.targets[1])] == [whole.name(5), int(whole.targets[5])]
    assert np.array_equal(part.images[0], whole.images[3])
