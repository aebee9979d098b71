import base64
import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from synthetic_run import METHODS, full_rows, write_pictures

from dat.errors import DataError
from dat.report.figures import (
    CHANGED,
    METHOD_COLOURS,
    Log,
    amplification,
    enlarged,
    health_figure,
    mark_codes,
    mean_curve,
    method_colours,
    overview_figure,
    read_pictures,
    series,
    svg_text,
)
from dat.report.tables import comparison_table
from dat.report.trade_figure import trade_figures


def test_svg_is_whole_and_takes_its_colours_from_the_page():
    comparison = comparison_table(full_rows())
    texts = [svg_text(overview_figure(comparison), name="a", label="all", methods=comparison.methods) for _ in range(2)]
    assert texts[0] == texts[1]
    root = ElementTree.fromstring(texts[0])
    assert root.get("aria-label") == "all"
    assert all((element.get("id") or "a-").startswith("a-") for element in root.iter())
    assert not any(light in texts[0] for light, _ in METHOD_COLOURS.values())
    assert all(f"var(--method-{index})" in texts[0] for index in range(len(METHODS)))
    assert "Random codes" in texts[0]


def test_titles_of_panels_keep_apart_and_the_axis_says_what_is_measured():
    titles = ("AP", "AP50", "AP75", "FGSM, AP", "FGSM, AP50", "AP of those corrupted", "mPC", "rPC")
    rows = [replace(row, suite=title) for row in full_rows() if row.suite == "clean" for title in titles]
    comparison = comparison_table(rows)
    assert len(comparison.suites) == len(titles)
    figure = overview_figure(comparison, measure="average precision")
    figure.draw_without_rendering()
    written = [part for panel in figure.axes for part in panel.findobj(Text) if isinstance(part, Text)]
    named = [text for text in written if " ".join(text.get_text().split()) in titles]
    assert len(named) == len(titles)
    boxes = [text.get_window_extent() for text in named]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert figure.get_supxlabel() == "average precision, %"


def test_where_all_is_0_no_axis_has_a_number_below():
    rows = [replace(row, value=0.0) for row in full_rows() if row.suite in ("clean", "fgsm") and row.seed == 0]
    comparison = comparison_table(rows)
    overview, (trade,) = overview_figure(comparison).axes, trade_figures(comparison)["fgsm"].axes
    for axis in (*(panel.xaxis for panel in overview), trade.xaxis, trade.yaxis):
        low, high = axis.get_view_interval()
        assert (min(place for place in axis.get_majorticklocs() if place >= low), high) == (pytest.approx(0, abs=1e-9), 1)


def test_a_method_keeps_its_colour_in_every_report():
    assert method_colours(["other", "dat"])["dat"] == method_colours(["standard", "at", "dat"])["dat"]
    many = method_colours([*METHODS, "new", "newer"])
    assert len({light for light, _ in many.values()}) == len(many)


def contrast(colour: str, paper: str) -> float:
    def luminance(text: str) -> float:
        parts = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    bright, dim = sorted([luminance(colour), luminance(paper)], reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("method", [*METHODS, "w", "x", "y", "z"])
def test_colours_stand_out_on_both_papers(method: str):
    light, dark = method_colours([*METHODS, "w", "x", "y", "z"])[method]
    assert contrast(light, "#fffefc") > 4
    assert contrast(dark, "#15181c") > 4


def test_series_averages_a_long_log_and_skips_lines_without_the_value():
    log = [{"step": step, "loss": float(step)} for step in range(1000)] + [{"step": 1000, "event": "saved"}]
    steps, losses = series(log, "loss", points=10)
    assert steps.tolist() == losses.tolist() == [49.5 + 100 * i for i in range(10)]
    with pytest.raises(DataError, match="`psnr`"):
        series(log, "psnr")


def test_mean_curve_ends_with_the_shortest():
    curves = [(np.array([0.0, 1, 2]), np.array([0.0, 1, 2])), (np.array([0.0, 2, 4]), np.array([4.0, 4, 4]))]
    steps, mean = mean_curve(curves)
    assert steps.tolist() == [0, 1, 2]
    assert mean.tolist() == [2, 2.5, 3]


def test_discretizer_log_without_a_curve_is_refused():
    with pytest.raises(DataError, match="no loss and no measure"):
        health_figure([{"step": 1, "images_per_s": 3.0}])
    assert titles([{"step": s, "psnr_db": 20.0 + s, "loss": None} for s in range(3)]) == ["PSNR of the mean error, dB"]


def test_health_is_drawn_with_distances_last():
    log = [{"step": 1, "frechet_net": 3.0, "loss": 1.0, "codes_used": 0.5, "lpips_vgg16": 0.1, "images_per_s": 9.0}]
    assert titles(log) == ["loss", "share of codes used", "Fréchet distance (net)", "LPIPS (vgg16)"]


def titles(log: Log) -> list[str]:
    return [axes.get_title(loc="left") for axes in health_figure(log).axes if axes.get_visible()]


@pytest.mark.parametrize(("largest", "factor"), [(0, 127), (1, 127), (12, 10), (60, 2), (127, 1), (200, 1)])
def test_amplification_reaches_but_does_not_pass_black_and_white(largest: int, factor: int):
    reconstruction = np.full((1, 4, 4, 3), 210, dtype=np.uint8)
    adversarial = reconstruction.copy()
    adversarial[0, 1, 1] -= largest
    assert amplification(reconstruction, adversarial) == factor


def test_enlarged_repeats_pixels():
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    large = np.asarray(enlarged(picture))
    assert large.shape == (192, 192, 3)
    assert (large[12::24, 12::24] == picture).all()


def test_frames_lie_on_the_changed_codes_only():
    changed = np.zeros((4, 4), dtype=bool)
    changed[1, 2] = True
    marked = np.asarray(mark_codes(Image.new("RGB", (192, 192)), changed, side=48))
    rows, columns = np.nonzero((marked == CHANGED).all(axis=-1))
    assert (rows.min(), rows.max()) == (48, 95)
    assert (columns.min(), columns.max()) == (96, 143)


def test_pictures_are_read_with_their_words(tmp_path: Path):
    write_pictures(tmp_path / "pictures.npz", count=11)
    pictures = read_pictures(tmp_path / "pictures.npz", stride=2)
    assert (len(pictures.rows), pictures.total) == (8, 11)
    first = pictures.rows[1]
    assert (first.label, first.predicted_original, first.predicted_adversarial, first.codes) == ("1", "1", "0", 16)
    with np.load(tmp_path / "pictures.npz") as file:
        original, changed = file["original"][1], file["changed"][1]
    assert first.changed == changed.sum()
    shown = Image.open(io.BytesIO(base64.b64decode(first.images[0].partition(",")[2])))
    assert (np.asarray(shown)[::24, ::24] == original).all()


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut", b"text", b""])
def test_a_damaged_file_of_pictures_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "pictures.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"pictures.npz is no file of arrays"):
        read_pictures(tmp_path / "pictures.npz")


def test_arrays_of_different_lengths_are_refused(tmp_path: Path):
    write_pictures(tmp_path / "pictures.npz")
    with np.load(tmp_path / "pictures.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "pictures.npz", **(arrays | {"changed": arrays["changed"][:2]}))
    with pytest.raises(DataError, match="differ in length"):
        read_pictures(tmp_path / "pictures.npz")


def test_pictures_without_an_array_are_refused(tmp_path: Path):
    np.savez(tmp_path / "pictures.npz", original=np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="no adversarial and no changed"):
        read_pictures(tmp_path / "pictures.npz")
