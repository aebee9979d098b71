"""The plane of clean against robust accuracy: what it shows, and that names stand where they can be read."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from synthetic_run import full_rows, rows_of

from dat.errors import DataError
from dat.report.labels import away, named_apart, overlaps
from dat.report.page import trade_plot
from dat.report.tables import Comparison, comparison_table
from dat.report.trade_figure import diameters, trade_figures
from dat.results import read_rows

ROOT = Path(__file__).resolve().parents[2]


def names_in(figure: Figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


def marks_in(figure: Figure) -> list[Any]:
    return [line for line in figure.axes[0].lines if isinstance(line, Line2D) and line.get_marker() == "o"]


def of_folder(name: str) -> Comparison:
    folder = ROOT / "results" / name
    order = json.loads((folder / "run.json").read_text())["methods"]
    rows = [row for row in read_rows(folder / "results.jsonl") if row.source == "ours"]
    return comparison_table(sorted(rows, key=lambda row: order.index(row.method)))


def test_a_mark_is_at_the_means_and_as_large_as_its_step_is_dear():
    comparison = comparison_table(full_rows())
    found = trade_figures(comparison)
    assert list(found) == ["c", "fgsm"]
    for suite, figure in found.items():
        marks = {(round(float(m.get_xdata()[0]), 6), round(float(m.get_ydata()[0]), 6)): m for m in marks_in(figure)}
        for method in comparison.methods:
            means = [value.mean for s in ("clean", suite) if (value := comparison.estimate(s, method))]
            mark = marks.pop((round(means[0], 6), round(means[1], 6)))
            dear = np.median(comparison.ratios("cost", method)) / np.median(comparison.ratios("cost", "dat"))
            assert mark.get_markersize() == pytest.approx(max(5.0, 17.0 * dear**0.5))
        assert not marks


def test_intervals_are_crosses_and_the_baseline_is_two_lines():
    comparison = comparison_table(full_rows())
    figure = trade_figures(comparison)["c"]
    clean, robust = comparison.estimate("clean", "dat"), comparison.estimate("c", "dat")
    assert clean is not None
    assert robust is not None
    lines = [np.array(line.get_data()).tolist() for line in figure.axes[0].lines]
    assert [list(clean.interval or ()), [robust.mean] * 2] in lines
    assert [[clean.mean] * 2, list(robust.interval or ())] in lines
    base = comparison.estimate("clean", "standard")
    assert base is not None
    assert [[base.mean] * 2, [0, 1]] in lines


def test_names_say_what_a_step_costs():
    comparison = comparison_table(full_rows())
    dear = np.median(comparison.ratios("cost", "dat"))
    names = [text.get_text() for text in names_in(trade_figures(comparison)["fgsm"])]
    assert names[0] == "Standard"
    assert names[3] == f"DAT, {dear:.1f} \N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize("name", ["demo", "cifar10-compare", "cifar10-compare/equal-time", "cifar10-controls"])
def test_no_name_is_on_another_or_on_a_mark_or_outside(name: str):
    for figure in trade_figures(of_folder(name)).values():
        figure.draw_without_rendering()
        boxes = [Text.get_window_extent(text) for text in names_in(figure)]  # of the text alone, without the line to its mark
        pairs = [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
        assert not pairs
        frame = figure.bbox
        assert all(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1 for box in boxes)
        scale = figure.dpi / 72
        for mark in marks_in(figure):
            x, y = figure.axes[0].transData.transform(np.ravel(mark.get_data()))
            radius = mark.get_markersize() / 2 * scale * 0.7
            assert not any(b.x0 < x + radius and b.x1 > x - radius and b.y0 < y + radius and b.y1 > y - radius for b in boxes)


def test_one_robust_suite_is_one_panel_and_none_is_said():
    rows = rows_of("clean", {"standard": [80.0], "dat": [81.0]})
    with pytest.raises(DataError, match="No two methods"):
        trade_figures(comparison_table(rows))
    both = comparison_table(rows + rows_of("fgsm", {"standard": [10.0], "dat": [20.0]}))
    assert list(trade_figures(both)) == ["fgsm"]
    caption = trade_plot(Path(), both).caption
    assert "Dotted: standard training" in caption
    assert "costs" not in caption
    assert "intervals" not in caption


def test_marks_without_a_cost_are_all_alike():
    assert diameters(["standard", "dat"], {}) == {"standard": 7.0, "dat": 7.0}
    assert diameters(["standard", "dat"], {"standard": 1.0, "dat": 4.0}) == {"standard": 8.5, "dat": 17.0}


NOTHING = np.zeros((0, 4))


def test_names_of_many_marks_on_one_spot_are_spread():
    marks = np.array([[100.0 + k, 100, 110 + k, 110] for k in range(6)])
    found = named_apart(marks, np.full((6, 2), (60.0, 10.0)), np.array([0.0, 0, 300, 300]), NOTHING)
    assert np.allclose(overlaps(found, found), np.diag([600.0] * 6))
    assert not overlaps(found, marks).any()


def test_a_name_stays_within_the_frame_near_its_mark_and_off_lines():
    mark, size, frame = np.array([[285.0, 285, 295, 295]]), np.array([[60.0, 10.0]]), np.array([0.0, 0, 300, 300])
    (box,) = named_apart(mark, size, frame, NOTHING)
    assert box.max() <= 300
    assert away(box, mark[0]) < 4
    (other,) = named_apart(mark, size, frame, box[None])
    assert not overlaps(box[None], other[None]).any()
