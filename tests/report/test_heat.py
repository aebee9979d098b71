"""Heat maps against differences that are counted by hand, and intervals of the layouts that they are of."""

import numpy as np
import pytest
from synthetic_run import full_rows, rows_of

from dat.errors import DataError
from dat.evaluation.mistakes import Answered
from dat.evaluation.right import Model
from dat.report.heat import CLASSES, class_heat, class_layout, corruption_heat
from dat.report.tables import MINUS, comparison_table

NAMES = ("cat", "dog", "owl")
TARGETS = np.repeat(np.arange(3), 40)


def saying(right: tuple[int, int, int]) -> Answered:
    """The first so many pictures of each class right, the others said to be of the next class."""
    place = np.tile(np.arange(40), 3)
    said = np.where(place < np.repeat(right, 40), TARGETS, (TARGETS + 1) % 3)
    return Answered(NAMES, TARGETS, said, None)


SAYS: dict[Model, Answered] = {
    (method, seed): saying((cat, dog + seed, 36))
    for method, cat, dog in (("standard", 20, 30), ("dat", 38, 29), ("at", 22, 10))
    for seed in range(3)
}


def test_corruptions_show_the_paired_differences_and_mark_what_is_open():
    comparison = comparison_table(full_rows())
    table = corruption_heat(comparison)
    assert table is not None
    assert [column.method for column in table.columns] == ["at", "random-codes", "dat"]
    names = [f"c/{name}" for members in comparison.corruptions.values() for name in members]
    seen = set()
    for suite, line in zip(names, table.lines, strict=True):
        for column, cell in zip(table.columns, line.cells, strict=True):
            gap = comparison.difference(suite, column.method)
            assert gap is not None
            assert cell.text == f"{gap.mean:+.1f}".replace("-", MINUS)
            assert cell.mark == ("" if gap.sign else "open")
            assert np.sign(cell.shade) == np.sign(gap.mean)
            seen.add(cell.mark)
    assert seen == {"", "open"}
    assert max(abs(cell.shade) for line in table.lines for cell in line.cells) == pytest.approx(1)


@pytest.mark.parametrize("values", [{"at": [80.0], "dat": [81.0]}, {"standard": [80.0]}])
def test_without_the_baseline_or_another_method_there_is_no_map_of_corruptions(values: dict[str, list[float]]):
    assert corruption_heat(comparison_table(rows_of("clean", values) + rows_of("c/fog/1", values))) is None
    assert corruption_heat(comparison_table(rows_of("clean", {"standard": [80.0], "dat": [81.0]}))) is None


def test_classes_show_the_accuracy_of_the_baseline_and_differences_to_it_the_widest_first():
    table = class_heat(SAYS, name="by-class-0")
    assert table is not None
    assert [column.title for column in table.columns] == ["Standard", "DAT", "AT"]
    assert [line.title for line in table.lines] == ["dog (40)", "cat (40)", "owl (40)"]
    dog, cat, owl = table.lines
    assert [cell.text for cell in dog.cells] == ["77.5", f"{MINUS}2.5", f"{MINUS}50.0"]
    assert [cell.text for cell in cat.cells] == ["50.0", "+45.0", "+5.0"]
    assert [cell.mark for cell in cat.cells] == ["", "", "open"]
    assert [cell.mark for cell in owl.cells[1:]] == ["open", "open"]
    assert dog.cells[2].shade == -1
    assert cat.cells[1].shade == pytest.approx(0.9)
    assert cat.cells[0].shade == 0


def test_the_interval_of_a_class_allows_for_all_classes_and_is_of_its_pictures():
    table = class_heat(SAYS, name="by-class-0")
    layout = class_layout(SAYS, 0)
    assert table is not None
    assert layout is not None
    assert (layout.kind, layout.pictures.count if layout.pictures else 0) == ("both", 40)
    estimate = table.lines[1].cells[1].estimate
    assert estimate is not None
    assert estimate.interval is not None
    least = layout.least_difference("dat", "standard", together=3)
    assert estimate.interval == pytest.approx((45 - least, 45 + least))
    assert (estimate.n, estimate.seeds) == (40, 3)
    assert "corrected for 9 comparisons: all 3 pairs of methods (Tukey's range) on each of 3 classes" in " ".join(table.notes)


def test_of_many_classes_those_that_differ_most_are_shown_and_that_is_said():
    classes = tuple(f"class {k}" for k in range(50))
    targets = np.repeat(np.arange(49), 20)  # one class has no picture
    place = np.tile(np.arange(20), 49)
    said: dict[Model, Answered] = {
        (method, 0): Answered(classes, targets, np.where(place < 10 + worth * (targets % 10), targets, 49), None)
        for method, worth in (("standard", 0), ("dat", 1))
    }
    table = class_heat(said, name="by-class-0", title="art")
    assert table is not None
    assert len(table.lines) == CLASSES
    assert table.lines[0].title == "class 9 (20)"
    assert not any(line.title.startswith("class 49") or line.title.startswith("class 0 ") for line in table.lines)
    assert "on art" in table.caption
    assert "the 30 of 49 classes on which methods differ most" in table.caption


def test_one_method_has_no_map_and_other_pictures_are_refused():
    assert class_heat({("dat", 0): SAYS["dat", 0]}, name="by-class-0") is None
    other = Answered(NAMES, TARGETS[::-1].copy(), TARGETS, None)
    with pytest.raises(DataError, match="shown other pictures"):
        class_heat({**SAYS, ("augmix", 0): other}, name="by-class-0")
