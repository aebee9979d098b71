import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_up import CLASSES, NAMES, answered, cell, dataset, masked
from scipy.stats import binomtest, sem, t

from dat.data.corruptions.table import CORRUPTIONS, EXTRA_CORRUPTIONS
from dat.errors import DataError
from dat.evaluation.cells import UNREADABLE, Cell, Predictions, all_classes
from dat.evaluation.metrics import ALEXNET_ERRORS, mce, relative_mce
from dat.evaluation.robustness import Rows, robustness_rows
from dat.results import Row, wilson

N = 12
PICTURES = dataset(N)
ALEXNET_CLEAN = 0.43478


def rows_of(cells: list[Cell], predictions: dict[str, Predictions], **settings: bool) -> Rows:
    facts = {"model": "net", "checkpoint": "0a1b", "seed": 3, "recipe_hash": "hash", "versions": {"torch": "2"}}
    return robustness_rows(cells, predictions, **{"imagenet": True, **facts, **settings})  # pyright: ignore[reportArgumentType]  # one dict of all types


def number(found: Rows, suite: str, metric: str = "accuracy") -> Row:
    (row,) = [row for row in found.rows if (row.suite, row.metric) == (suite, metric)]
    return row


def full(right: np.ndarray) -> tuple[list[Cell], dict[str, Predictions]]:
    """All cells of ImageNet-C and the clean ones, last; `right`: 76 x N."""
    cells = [cell(name, PICTURES, corruption=name) for name in [*NAMES, "clean"]]
    return cells, {of.name: answered(PICTURES, answers) for of, answers in zip(cells, right, strict=True)}


@pytest.fixture(scope="module")
def right() -> np.ndarray:
    return np.random.default_rng(0).random((76, N)) < np.linspace(0.2, 0.9, 76)[:, None]


@pytest.mark.shared
def test_mce_equals_the_golden_table(golden: Callable[[str], Path]) -> None:
    table = json.loads((golden("mce") / "table.json").read_text())
    assert table["alexnet_errors"] == ALEXNET_ERRORS
    errors = {name: np.array([np.mean(values)]) for name, values in table["errors"].items()}
    assert mce(errors)[0] == pytest.approx(table["mCE"], abs=1e-9)
    relative = relative_mce(errors, np.array([table["clean_error"]]), alexnet_clean=table["alexnet_clean_error"])
    assert relative[0] == pytest.approx(table["relative_mCE"], abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 50_000])
def test_the_interval_of_an_accuracy_is_scipys(n: int) -> None:
    for correct in {0, 1, n // 3, n - 1, n}:
        expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
        assert wilson(correct, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_an_accuracy_is_counts_with_wilsons_interval_and_the_whole_protocol() -> None:
    of = cell("fgsm", PICTURES, epsilon_255=1.0)
    row = number(rows_of([of], {"fgsm": answered(PICTURES, [True] * 9 + [False] * 3)}), "fgsm")
    assert (row.value, row.n, row.ci) == (75, N, wilson(9, N))
    assert row.protocol == {"resize": 256, "epsilon_255": 1.0}
    assert (row.method, row.checkpoint, row.seed, row.recipe_hash, row.versions) == ("net", "0a1b", 3, "hash", {"torch": "2"})


def test_unreadable_pictures_do_not_count_and_are_said() -> None:
    said = answered(PICTURES, [True] * 9 + [False] * 3)
    said.outputs["accuracy"][[0, 11]] = UNREADABLE
    row = number(rows_of([cell("clean", PICTURES)], {"clean": said}), "clean")
    assert (row.value, row.n, row.protocol["bad"]) == (80, 10, 2)
    said.outputs["accuracy"][:] = UNREADABLE
    with pytest.raises(DataError, match="No picture of clean counts for accuracy"):
        rows_of([cell("clean", PICTURES)], {"clean": said})


def test_every_view_of_a_cell_is_a_row_and_a_mask_is_said() -> None:
    both = cell("a", PICTURES, all_classes(CLASSES), masked("accuracy_a_classes", [0, 2]))
    everything = answered(PICTURES, [True] * 6 + [False] * 6).outputs["accuracy"]
    shown = np.where(PICTURES.source.targets == 0, 0, 2)
    found = rows_of([both], {"a": Predictions(PICTURES.source.targets, {"accuracy": everything, "accuracy_a_classes": shown})})
    assert number(found, "a").value == 50
    part = number(found, "a", "accuracy_a_classes")
    assert (part.value, part.n, part.protocol["mask"]) == (100, 6, "2 of 4 outputs")
    assert "mask" not in number(found, "a").protocol


def test_mce_is_numpys(right: np.ndarray) -> None:
    found = rows_of(*full(right))
    errors = 1 - right.reshape(76, N).mean(axis=1)
    per_corruption, clean = errors[:75].reshape(15, 5).mean(axis=1), errors[75]
    alexnet = np.array([ALEXNET_ERRORS[name] for name in CORRUPTIONS])
    assert number(found, "c").value == pytest.approx(100 * (1 - errors[:75].mean()), abs=1e-10)
    assert number(found, "c", "mce").value == pytest.approx(100 * (per_corruption / alexnet).mean(), abs=1e-10)
    relative = 100 * ((per_corruption - clean) / (alexnet - ALEXNET_CLEAN)).mean()
    assert number(found, "c", "relative_mce").value == pytest.approx(relative, abs=1e-10)
    assert found.notes == []


def test_the_interval_of_mce_is_over_the_same_pictures_in_all_cells(right: np.ndarray) -> None:
    alexnet = np.array([ALEXNET_ERRORS[name] for name in CORRUPTIONS])
    errors = (1 - right[:75].reshape(15, 5, N)).mean(axis=1)
    of_pictures = 100 * (errors / alexnet[:, None]).mean(axis=0)
    row = number(rows_of(*full(right)), "c", "mce")
    assert row.ci == pytest.approx(t.interval(0.95, N - 1, loc=row.value, scale=sem(of_pictures)))
    assert row.protocol["interval"] == "Student over pictures"
    assert row.n == N
    assert "corruption" not in row.protocol
    assert row.protocol["resize"] == 256


def test_extra_corruptions_count_for_nothing(right: np.ndarray) -> None:
    cells, predictions = full(right)
    plain = rows_of(cells, predictions)
    extra = [cell(f"c/{name}/1", PICTURES, corruption=name) for name in EXTRA_CORRUPTIONS]
    wrong = {of.name: answered(PICTURES, [False] * N) for of in extra}
    found = rows_of([*cells, *extra], predictions | wrong)
    assert [row for row in found.rows if row.suite == "c"] == [row for row in plain.rows if row.suite == "c"]
    alone = rows_of(extra, wrong)
    assert len(alone.rows) == 4
    assert "only extra corruptions" in alone.notes[0]


@pytest.mark.parametrize(
    ("left_out", "imagenet", "words"),
    [
        (["c/fog/3"], True, r"1 of its 75 cells are missing \(c/fog/3\)"),
        (NAMES[:6], True, "6 of its 75"),
        ([], False, "1000 outputs"),
    ],
)
def test_without_all_cells_of_imagenet_there_is_no_mce(
    right: np.ndarray, left_out: list[str], imagenet: bool, words: str
) -> None:
    cells, predictions = full(right)
    kept = [of for of in cells if of.name not in left_out]
    found = rows_of(kept, predictions, imagenet=imagenet)
    assert {row.metric for row in found.rows} == {"accuracy", "accuracy_macro"}
    (note,) = found.notes
    assert re.search(words, note)


def test_relative_mce_needs_the_clean_pictures(right: np.ndarray) -> None:
    cells, predictions = full(right)
    found = rows_of(cells[:75], predictions)
    assert "Relative mCE is not given" in found.notes[0]
    assert [row.metric for row in found.rows if row.suite == "c"] == ["accuracy", "mce"]


def test_relative_mce_is_against_the_very_same_pictures(right: np.ndarray) -> None:
    """Where fewer pictures are corrupted, not against all clean ones."""
    cells, predictions = full(right)
    more = cell("clean", dataset(2 * N, prefix="other"))
    same = cell("clean-c", PICTURES)
    shown = predictions | {"clean": answered(dataset(2 * N, prefix="other"), [True] * 2 * N), "clean-c": predictions["clean"]}
    row = number(rows_of([more, same, *cells[:75]], shown), "c", "relative_mce")
    before = number(rows_of(cells, predictions), "c", "relative_mce")
    assert (row.value, row.ci, row.protocol["clean_pictures"]) == (before.value, before.ci, N)
    assert row.ci is not None


def test_cells_of_different_pictures_have_no_common_interval(right: np.ndarray) -> None:
    cells, predictions = full(right)
    copies = [cell(of.name, dataset(N, kind="JPEG")) for of in cells]
    assert number(rows_of(copies, predictions), "c", "relative_mce").ci is not None
    copies[3] = cell(copies[3].name, dataset(N, prefix="other"))
    row = number(rows_of(copies, predictions), "c", "mce")
    assert row.ci is None
    assert row.protocol["interval"] == "none: the cells hold different pictures"
    assert row.value == number(rows_of(cells, predictions), "c", "mce").value


def test_a_mean_over_too_few_pictures_has_no_interval_and_says_why() -> None:
    few = dataset(9)
    cells = [cell(name, few, corruption=name) for name in NAMES]
    found = rows_of(cells, {of.name: answered(few, [True] * 6 + [False] * 3) for of in cells})
    row = number(found, "c", "mce")
    assert (row.ci, row.protocol["interval"]) == (None, "none: fewer than 10 pictures")


def test_one_cell_with_an_unreadable_picture_has_other_pictures(right: np.ndarray) -> None:
    cells, predictions = full(right)
    before = number(rows_of(cells, predictions), "c")
    predictions["c/fog/3"].outputs["accuracy"][0] = UNREADABLE
    row = number(rows_of(cells, predictions), "c")
    assert before.ci is not None
    assert (row.ci, row.n, row.protocol["bad"]) == (None, N - 1, 1)


def test_other_sets_of_corruptions_have_a_mean_and_no_mce() -> None:
    cells = [cell(f"c-bar/{name}/{severity}", PICTURES) for name in ("plasma", "spatter") for severity in (1, 2)]
    predictions = {of.name: answered(PICTURES, [True] * (3 * (i + 1)) + [False] * (9 - 3 * i)) for i, of in enumerate(cells)}
    found = rows_of(cells, predictions)
    assert number(found, "c-bar").value == pytest.approx(62.5)
    assert (len(found.rows), found.notes) == (5, [])
