"""Fewer pictures that stand for all: in proportion to the classes, seeded, whatever the order of the list."""

from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dat.data.draw import drawn
from dat.data.embedded import ArraySource
from dat.data.subset import fewer, first_per_class


def listed(sizes: list[int], suffix: str = ".png") -> tuple[list[str], np.ndarray]:
    """Names and classes of a set with so many pictures of each class."""
    names = [f"{label}/{index}{suffix}" for label, size in enumerate(sizes) for index in range(size)]
    return names, np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)


def chosen(sizes: list[int], per_class: int, *, seed: int = 0) -> set[str]:
    names, targets = listed(sizes)
    return {names[position] for position in drawn(names, targets, per_class, seed=seed)}


def counts(sizes: list[int], per_class: int) -> list[int]:
    names, targets = listed(sizes)
    return np.bincount(targets[drawn(names, targets, per_class)], minlength=len(sizes)).tolist()


def seats(sizes: list[int], per_class: int) -> list[int]:
    """The same numbers of each class, given one after another to the class that is furthest behind."""
    given = [1] * len(sizes)
    while sum(given) < min(per_class * len(sizes), sum(sizes)):
        behind = [size / (2 * seats + 1) if seats < size else 0.0 for size, seats in zip(sizes, given, strict=True)]
        given[behind.index(max(behind))] += 1
    return given


@pytest.mark.parametrize(
    ("sizes", "per_class", "expected"),
    [
        ([500] * 10, 50, [50] * 10),
        ([900, 100], 10, [18, 2]),
        ([900, 100], 100, [180, 20]),
        ([1000, 1], 10, [19, 1]),  # at least one of each class
        ([7, 5, 4], 1, [1, 1, 1]),
        ([7, 5, 4], 100, [7, 5, 4]),
    ],
)
def test_each_class_has_its_share(sizes: list[int], per_class: int, expected: list[int]) -> None:
    assert counts(sizes, per_class) == expected


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(1, 40))
def test_shares_are_rounded_so_that_they_add_up(sizes: list[int], per_class: int) -> None:
    found = counts(sizes, per_class)
    assert sum(found) == min(per_class * len(sizes), sum(sizes))
    assert all(1 <= count <= size for count, size in zip(found, sizes, strict=True))
    behind = [size / (2 * count + 1) for count, size in zip(found, sizes, strict=True)]
    ahead = [size / (2 * count - 1) for count, size in zip(found, sizes, strict=True) if count > 1]
    assert not ahead or max(behind) <= min(ahead) + 1e-12  # nobody who got one was less entitled than who did not
    if len(set(sizes)) == len(sizes) and max(behind) < min(ahead, default=np.inf) - 1e-9:
        assert found == seats(sizes, per_class)


def test_the_order_of_the_list_changes_nothing() -> None:
    names, targets = listed([40, 9, 23])
    order = np.random.default_rng(0).permutation(len(names))
    positions = drawn([names[index] for index in order], targets[order], 6)
    assert (np.diff(positions) > 0).all()
    assert {names[order[position]] for position in positions} == chosen([40, 9, 23], 6)


def test_another_process_draws_the_same() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:  # whose hashes of texts are others
        found = list(pool.map(chosen, [[40, 9, 23]] * 2, [6] * 2))
    assert found == [chosen([40, 9, 23], 6)] * 2


def test_the_draw_is_random_by_its_seed() -> None:
    first, second = (chosen([400, 100], 50, seed=seed) for seed in (0, 1))
    assert first != second
    assert len(first & second) < 40  # 20 by chance
    numbers = sorted(int(name[2:-4]) for name in first if name[0] == "0")
    assert 150 < np.mean(numbers) < 250  # not the first ones


def test_a_smaller_draw_is_a_part_of_a_larger_one() -> None:
    draws = [chosen([90, 30, 7], count) for count in (1, 2, 5, 12, 30, 60)]
    assert all(smaller <= larger for smaller, larger in pairwise(draws))


def test_copies_in_another_format_are_drawn_alike() -> None:
    (names, targets), (copies, _) = listed([40, 9]), listed([40, 9], ".jpeg")
    assert np.array_equal(drawn(names, targets, 6), drawn(copies, targets, 6))


def test_the_old_draw_is_the_first_of_each_class() -> None:
    names, targets = listed([3, 1, 5])
    assert drawn(names, targets, 2, "first").tolist() == [0, 1, 3, 4, 5]
    source = ArraySource(np.zeros((9, 3, 2, 2), dtype=np.uint8), targets[[8, 0, 3, 1, 2, 4, 5, 6, 7]], ("a", "b", "c"))
    assert np.array_equal(drawn(["x"] * 9, source.targets, 2, "first"), first_per_class(source, 2).positions)


def test_a_source_with_no_more_pictures_is_itself() -> None:
    names, targets = listed([3, 1])
    source = ArraySource(np.zeros((4, 3, 2, 2), dtype=np.uint8), targets, ("a", "b"), names)
    assert fewer(source, 2) is source
    assert fewer(source, 2, "first") is not source
    assert len(fewer(source, 1)) == 2
