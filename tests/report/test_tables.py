from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from synthetic_run import full_rows, row, rows_of

from dat.errors import DataError, UsageError
from dat.report.reading import sentences
from dat.report.tables import (
    MINUS,
    accuracy_table,
    all_tables,
    comparison_table,
    difference_table,
    group_table,
    terminal_table,
)
from dat.results import SOUGHT, Row


def test_the_estimate_of_one_method_is_the_student_interval_of_scipy_and_the_grid():
    values = [71.0, 73.5, 72.2, 75.0]
    found = comparison_table(rows_of("clean", {"dat": values})).estimate("clean", "dat")
    assert found is not None
    assert found.interval is not None
    scale = np.sqrt((np.var(values, ddof=1) + (100 / 450) ** 2 / 12) / 4)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval == pytest.approx(stats.t.interval(0.95, 3, loc=np.mean(values), scale=scale))
    assert (found.seeds, found.n) == (4, 450)


def test_an_interval_ends_at_0_and_at_100_and_says_both_sides():
    table = accuracy_table(comparison_table(rows_of("clean", {"standard": [0.2, 0.6, 0.1], "dat": [99.1, 99.9, 99.5]})))
    low, high = (line.cells[0] for line in table.lines)
    assert (low.spread, high.spread) == (f"{MINUS}0.3 +0.7", f"{MINUS}0.8 +0.5")
    comparison = comparison_table(rows_of("clean", {"standard": [1.0, 1.9, 0.2], "dat": [99.1, 99.9, 98.5]}))
    for method in comparison.methods:
        found = comparison.estimate("clean", method)
        assert found is not None
        assert found.interval is not None
        assert 0 <= found.interval[0] <= found.mean <= found.interval[1] <= 100
    assert any("cut at 0 or 100" in note for note in accuracy_table(comparison).notes)


def test_seconds_are_neither_pooled_nor_cut():
    comparison = comparison_table(
        [*rows_of("clean", {"dat": [90.0]}), *rows_of("cost", {"at": [1.0, 1.1], "dat": [200.0, 230.0, 200.0]})]
    )
    found = comparison.estimate("cost", "dat")
    assert found is not None
    assert found.interval == pytest.approx(stats.t.interval(0.95, 2, loc=210, scale=stats.sem([200, 230, 200])))
    of_two = comparison.estimate("cost", "at")
    assert of_two is not None
    assert of_two.interval is None
    assert comparison.marks("cost") == {}


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ({"standard": [80.0, 81.0, 82.0], "dat": [90.0, 91.0, 92.0]}, {"dat": "best"}),
        ({"standard": [80.0, 81.0, 82.0], "dat": [81.0, 82.0, 83.0]}, {"dat": "best"}),
        ({"standard": [80.0, 81.0, 82.0], "dat": [82.5, 81.0, 83.0]}, {"standard": "tie", "dat": "tie"}),
        ({"standard": [50.0, 52.0, 51.0], "at": [80.0, 81.0, 82.0], "dat": [81.0, 81.5, 83.5]}, {"at": "tie", "dat": "tie"}),
        (
            {"standard": [10.0, 60.0, 95.0], "at": [80.0, 81.0, 82.0], "dat": [90.0, 91.0, 92.0]},
            {"standard": "tie", "at": "tie", "dat": "tie"},
        ),
        ({"standard": [10.0, 60.0, 95.0], "dat": [11.0, 61.1, 95.9]}, {"dat": "best"}),
        ({"standard": [80.0], "dat": [95.0]}, {}),
        ({"standard": [80.0, 81.0], "dat": [95.0, 96.0]}, {}),
        ({"standard": [80.0, 81.0, 82.0], "dat": [95.0]}, {}),
        ({"dat": [90.0, 91.0, 92.0]}, {}),
    ],
)
def test_best_only_where_it_differs_from_every_other(values: dict[str, list[float]], marks: dict[str, str]):
    assert comparison_table(rows_of("clean", values)).marks("clean") == marks


def test_difference_is_paired_by_seed():
    comparison = comparison_table(rows_of("clean", {"standard": [10.0, 50.0, 90.0], "dat": [11.0, 51.1, 90.9, 3.0]}))
    found = comparison.difference("clean", "dat")
    assert found is not None
    assert (found.seeds, found.sign) == (3, 1)
    assert found.mean == pytest.approx(1.0)
    assert comparison.marks("clean") == {"dat": "best"}


def test_a_seed_that_one_method_lacks_counts_for_none_and_a_note_says_so():
    values = {"standard": [80.0, 81.0, 82.0, 80.0], "at": [84.0, 85.1, 86.2, 83.0], "dat": [90.0, 91.0, 92.0], "augmix": [99.0]}
    comparison = comparison_table(rows_of("clean", values))
    seeds = {m: value.seeds for m in comparison.methods if (value := comparison.estimate("clean", m))}
    assert seeds == {"standard": 3, "at": 3, "dat": 3, "augmix": 1}
    of_at, of_augmix = comparison.difference("clean", "dat", to="at"), comparison.difference("clean", "augmix", to="at")
    assert of_at is not None
    assert of_at.mean == pytest.approx(5.9)
    assert of_at.sign == 1
    assert of_augmix is not None
    assert (of_augmix.mean, of_augmix.interval, of_augmix.sign) == (15, None, 0)
    table = accuracy_table(comparison)
    assert {cell.mark for line in table.lines for cell in line.cells} == {""}
    assert table.notes[0] == "No method is marked: one seed: no interval."
    assert table.notes[-1] == "Clean: seed 3 does not count, not all have it."


def notes_of(rows: list[Row], name: str = "accuracy") -> str:
    """The caption and the notes of one table, with its shading."""
    table = next(table for table in all_tables(comparison_table(rows)) if table.name == name)
    return " ".join([table.caption, *table.notes, table.shading])


def test_the_notes_speak_of_what_is_in_the_table():
    best = notes_of(rows_of("clean", {"standard": [80.0, 80.5, 81.0], "dat": [90.0, 90.5, 91.2]}))
    assert "± half" in best
    assert "Bold: best" in best
    assert "≈" not in best
    assert "Cost" not in best
    tied = notes_of(rows_of("clean", {"standard": [80.0, 80.5, 81.0], "dat": [80.2, 80.1, 81.3]}))
    assert "≈: cannot be told apart" in tied
    assert "Bold" not in tied
    for seeds, words in ((1, "one seed"), (2, "two seeds")):
        rows = rows_of("clean", {"standard": [80.0] * seeds, "dat": [90.0] * seeds})
        for name in ("accuracy", "difference-to"):
            said = notes_of([*rows, *rows_of("c/fog/1", {"standard": [80.0] * seeds, "dat": [90.0] * seeds})], name)
            assert f"({words}: no interval)" in said
            assert not any(word in said for word in ("±", "Bold", "≈", "Tukey", "corrected", "Shaded"))
        assert f"No method is marked: {words}: no interval." in notes_of(rows)


@pytest.mark.parametrize(("seeds", "note"), [(1, "of one seed: no spread"), (2, "with the lowest and the highest")])
def test_the_note_on_costs_is_that_of_its_column(seeds: int, note: str):
    rows = [row("clean", 90), *rows_of("cost", {"standard": [1.0] * seeds, "dat": [2.0] * seeds})]
    assert note in notes_of(rows)
    assert "Cost:" not in notes_of([row("clean", 90), row("cost", 2.0)])


def test_each_table_says_how_many_comparisons_it_allows_for():
    """Four methods make six pairs; three test sets, four groups of corruptions, and fifteen corruptions."""
    rows = full_rows()
    for name, sets in (("accuracy", "3 test sets"), ("groups", "4 groups"), ("corruptions", "15 corruptions")):
        total = 6 * int(sets.split()[0])
        said = f"corrected for {total} comparisons: all 6 pairs of methods (Tukey's range) on each of {sets} (Bonferroni)"
        assert said in notes_of(rows, name)
    assert "on the same pictures" in notes_of(rows)


def test_more_test_sets_make_a_difference_harder_to_tell():
    values = {"standard": [80.0, 80.6, 81.0], "dat": [80.9, 81.2, 82.2]}
    alone, beside = (
        comparison_table(rows_of("clean", values)),
        comparison_table(rows_of("clean", values) + rows_of("fgsm", values)),
    )
    widths = []
    for comparison in (alone, beside):
        gap = comparison.difference("clean", "dat")
        assert gap is not None
        assert gap.interval is not None
        widths.append((gap.interval[1] - gap.interval[0]) / 2)
    scale = np.sqrt((np.var([0.9, 0.6, 1.2], ddof=1) + (100 / 450) ** 2 / 6) / 3)
    assert widths == pytest.approx([stats.t.ppf(1 - 0.05 / 2, 2) * scale, stats.t.ppf(1 - 0.05 / 4, 2) * scale])


def test_of_a_mean_over_cells_the_answers_are_the_means_of_each_picture():
    random = np.random.default_rng(0)
    right = {f"c/{name}/{severity}": random.random(450) < 0.6 for name in ("fog", "snow") for severity in (1, 2)}
    rows = [row(suite, 100 * correct.mean()) for suite, correct in right.items()]
    rows.append(row("c", 100 * float(np.mean(list(right.values())))))
    comparison = comparison_table(rows, answers={("dat", 0): right})
    by_picture = comparison.answers_to("c")["dat"][0]
    assert by_picture == pytest.approx(25.0 * sum(correct.astype(float) for correct in right.values()))
    fog = right["c/fog/1"].astype(float) + right["c/fog/2"]
    assert comparison.answers_to("c/fog")["dat"][0] == pytest.approx(50 * fog)
    found = comparison.estimate("c", "dat")
    assert found is not None
    assert found.interval is not None
    other = comparison_table([*rows[:-1], row("c", 12.0)], answers={("dat", 0): right})
    assert other.answers_to("c") == {}


def test_a_method_does_not_differ_from_itself():
    comparison = comparison_table(
        [*rows_of("clean", {"standard": [80.0, 81.0]}), *rows_of("c/fog/1", {"standard": [50.0, 52.0]})]
    )
    found = comparison.difference("clean", "standard")
    assert found is not None
    assert (found.mean, found.interval, found.sign) == (0, None, 0)


def test_methods_without_common_seeds_are_not_judged():
    seeds_of = (("at", (0, 1, 2)), ("dat", (1, 2, 3)))
    comparison = comparison_table([row("clean", 80 + seed, method=m, seed=seed) for m, seeds in seeds_of for seed in seeds])
    found, gap = comparison.estimate("clean", "dat"), comparison.difference("clean", "dat", to="at")
    assert found is not None
    assert gap is not None
    assert (found.seeds, found.interval is None, gap.interval, comparison.marks("clean")) == (3, False, None, {})


@pytest.mark.parametrize(
    ("differences", "sign"), [([1.0, 1.2, 0.8], 1), ([-1.0, -1.2, -0.8], -1), ([1.0, -1.0, 0.5], 0), ([5.0], 0)]
)
def test_sign_is_what_the_interval_shows(differences: Sequence[float], sign: int):
    values = {"standard": [90.0] * len(differences), "dat": [90.0 + difference for difference in differences]}
    found = comparison_table(rows_of("fgsm", values)).difference("fgsm", "dat")
    assert found is not None
    assert found.sign == sign


def test_corruptions_are_averaged_over_cells_then_over_seeds():
    rows = full_rows()
    comparison = comparison_table(rows)
    of_seeds = [np.mean([r.value for r in rows if r.method == "dat" and r.seed == s and "_blur/" in r.suite]) for s in range(3)]
    found = comparison.estimate("group/blur", "dat")
    assert found is not None
    assert found.mean == pytest.approx(np.mean(of_seeds))
    assert list(comparison.scores["group/blur"]["dat"].values()) == pytest.approx(of_seeds)
    severities = [row.value for row in rows if row.method == "at" and row.suite.startswith("c/") and row.suite[-1] == "4"]
    severe = comparison.estimate("severity/4", "at")
    assert severe is not None
    assert severe.mean == pytest.approx(np.mean(severities))


def test_a_seed_without_one_cell_does_not_count():
    rows = [row for row in full_rows() if (row.suite, row.method, row.seed) != ("c/fog/3", "dat", 1)]
    comparison = comparison_table(rows)
    assert set(comparison.scores["c/fog"]["dat"]) == {0, 2}
    assert set(comparison.scores["group/weather"]["dat"]) == {0, 2}
    assert set(comparison.scores["c/snow"]["dat"]) == {0, 1, 2}


def test_corruptions_outside_the_benchmark_come_last():
    rows = [row("clean", 90), row("c/spatter/1", 50), row("c/fog/1", 60)]
    assert comparison_table(rows).corruptions == {"weather": ("fog",), "extra": ("spatter",)}


def test_different_protocols_are_refused_and_both_named():
    rows = [row("fgsm", 50, method="at", protocol={"epsilon": 4}), row("fgsm", 60, protocol={"epsilon": 8})]
    with pytest.raises(UsageError, match=r"'fgsm'.*'epsilon': 4.*\(at\).*'epsilon': 8.*\(dat\)"):
        comparison_table(rows)
    assert comparison_table(rows, mixed=True).methods == ("at", "dat")


def test_how_an_interval_was_made_is_no_other_protocol():
    rows = [row("c", 50, method="at", protocol={"interval": "a"}), row("c", 60, protocol={"interval": "b"})]
    assert comparison_table(rows).methods == ("at", "dat")


def test_the_time_of_a_search_is_no_other_protocol():
    rows = [row("clean", 90), row("clean", 80, method="at"), row("cost", 1, protocol={"batch": 8})]
    rows.append(row("cost", 2, method="at", protocol={"batch": 8, SOUGHT: 0.1}))
    assert set(comparison_table(rows).methods) == {"at", "dat"}
    with pytest.raises(UsageError, match=r"'cost' was measured in two ways: \{'batch': 8\}"):
        comparison_table([*rows, row("cost", 1, seed=1, protocol={"batch": 4})])


def test_different_image_counts_are_refused():
    with pytest.raises(UsageError, match=r"450.*99"):
        comparison_table([row("clean", 50, method="at"), row("clean", 60, n=99)])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no accuracy"),
        ([row("cost", 0.1)], "no accuracy"),
        ([row("clean", 90, source="paper")], "no accuracy"),
        ([row("clean", 90), row("clean", 91)], "'clean' of 'dat', seed 0, twice"),
        ([row("clean", 90), row("c/fog", 50)], "'c/fog' is not a corruption cell"),
    ],
)
def test_rows_that_make_no_table_are_refused(rows: list, words: str):
    with pytest.raises(DataError, match=words):
        comparison_table(rows)


def test_rows_of_the_paper_are_left_out():
    comparison = comparison_table([row("clean", 90), row("clean", 70, source="paper", seed=None)])
    assert comparison.scores["clean"] == {"dat": {0: 90}}


def test_accuracy_table_holds_what_the_rows_say():
    values = {"standard": [80.0, 81.0, 82.0], "dat": [90.0, 91.0, 92.0]}
    rows = rows_of("clean", values) + rows_of("cost", {"standard": [1.0, 2.0, 1.0], "dat": [3.0, 6.0, 3.5]})
    table = accuracy_table(comparison_table(rows))
    assert [column.title for column in table.columns] == ["Clean", "Cost per step"]
    assert [(cell.text, cell.spread, cell.mark) for cell in table.lines[1].cells] == [
        ("91.0", "± 2.5", "best"),
        ("3.00", "(3.00 to 3.50)", ""),
    ]
    assert table.lines[0].cells[1].text == "1"


def test_cost_is_compared_within_a_seed():
    """A seed that met a busy machine made every method of it slow: its ratio is that of the others, its seconds are not."""
    seconds = {"standard": [0.1, 0.1, 0.4, 0.1], "dat": [0.3, 0.3, 1.2, 0.9]}
    comparison = comparison_table(rows_of("clean", {name: [90.0] * 4 for name in seconds}) + rows_of("cost", seconds))
    assert comparison.ratios("cost", "dat") == pytest.approx([3, 3, 3, 9])
    table = accuracy_table(comparison)
    assert (table.lines[1].cells[-1].text, table.lines[1].cells[-1].spread) == ("3.00", "(3.00 to 9.00)")
    assert any(note.startswith("Cost: the median over seeds of the ratio") for note in table.notes)
    assert "3.00 times with DAT" in " ".join(sentences(comparison))
    assert not any(note.startswith("Cost") for note in accuracy_table(comparison_table([row("clean", 90)])).notes)


def test_cost_is_in_seconds_where_there_is_no_standard():
    table = accuracy_table(comparison_table([row("clean", 90), row("cost", 0.25)]))
    assert (table.columns[-1].detail, table.lines[0].cells[-1].text) == ("seconds", "0.250")


def test_what_was_not_measured_is_a_dash():
    table = accuracy_table(comparison_table([row("clean", 90), row("fgsm", 30, method="at")]))
    assert [[cell.text for cell in line.cells] for line in table.lines] == [["90.0", "—"], ["—", "30.0"]]


def test_difference_tables_have_opposite_signs():
    comparison = comparison_table(full_rows())
    to, of = difference_table(comparison, to="standard"), difference_table(comparison, method="dat")
    assert [line.method for line in to.lines] == ["at", "random-codes", "dat"]
    assert [line.method for line in of.lines] == ["standard", "at", "random-codes"]
    assert to.lines[2].cells == of.lines[0].cells


def test_tables_that_the_rows_do_not_support_are_absent():
    assert [table.name for table in all_tables(comparison_table([row("clean", 90)]))] == ["accuracy"]
    assert len(all_tables(comparison_table(full_rows()))) == 5
    assert [column.title for column in group_table(comparison_table(full_rows())).columns] == [
        "Noise",
        "Blur",
        "Weather",
        "Digital",
    ]


def test_terminal_table_is_aligned():
    lines = terminal_table(full_rows()).splitlines()
    assert lines[2] == "-" * len(lines[0])
    assert {len(line) for line in lines[3:7]} == {len(lines[0])}
    assert lines[6].startswith("DAT")
    assert "*81.3" in lines[6]
    assert all(line == line.rstrip() for line in lines)
