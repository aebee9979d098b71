"""Our numbers beside timm's: what is compared, and what is said not to be comparable."""

import json
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from dat import cli
from dat.errors import DataError, UsageError
from dat.evaluation.calibration import COLUMNS, Comparison, as_table, calibrate, published
from dat.results import Row, write_rows

RESNET = "resnet50.a1_in1k"
MASK = "200 of 1000 outputs"
PROTOCOL = {"height": 288, "width": 288, "resize": 288, "interpolation": "bicubic"}


def row(suite: str = "clean", value: float = 81.24, n: int = 50_000, metric: str = "accuracy", **protocol: object) -> Row:
    return Row(suite, metric, value, n, None, None, f"timm:{RESNET}", "", {**PROTOCOL, **protocol})


def only(rows: list[Row]) -> Comparison:
    (comparison,) = calibrate(rows)
    return comparison


def test_the_table_is_timms() -> None:
    lines = published()
    assert len(lines) == 1557
    assert len({(line.model, line.size) for line in lines}) == len(lines)
    assert [sum(name in line.accuracies for line in lines) for name in COLUMNS] == [1556] * len(COLUMNS)
    (line,) = [line for line in lines if (line.model, line.size) == (RESNET, 288)]
    assert (line.crop_pct, line.crop_mode, line.interpolation, line.resize) == (1, "center", "bicubic", 288)
    assert (line.accuracies["val"], line.accuracies["v2"]) == (81.24, 69.69)
    header = resources.files("dat.evaluation").joinpath("timm_results.csv").read_text().split("model,")[0]
    for fact in ("4e5207c7bb6592474ca56e28b2cf85be8f1a550f", "2025-10-30", "Apache License 2.0", "Made by"):
        assert fact in header


@pytest.mark.parametrize("name", [name for name in COLUMNS if name != "real"])
def test_timms_numbers_are_fractions_of_the_whole_set(name: str) -> None:
    """How the sizes of the sets were found: three digits are enough to tell 50000 from 50889."""
    n = COLUMNS[name].n
    for value in [line.accuracies[name] for line in published() if name in line.accuracies]:
        assert abs(100 * round(value * n / 100) / n - value) < 5.6e-4


@pytest.mark.parametrize(
    ("off", "verdict"), [(0.0, "equal"), (0.05, "equal"), (-0.0502, "equal"), (0.06, "off"), (-0.06, "off")]
)
def test_the_tolerance_is_a_twentieth_of_a_point(off: float, verdict: str) -> None:
    found = only([row(value=81.24 + off)])
    assert (found.verdict, found.timm, found.n, found.differences) == (verdict, 81.24, 50_000, ())
    assert found.delta == pytest.approx(off, abs=6e-4)


def test_a_and_r_are_compared_with_the_masked_numbers() -> None:
    masked = {"mask": MASK}
    (line,) = [line for line in published() if (line.model, line.size) == (RESNET, 288)]
    rows = [
        row("a", line.accuracies["a"], 7_500, **masked),
        row("a", 1.0, 7_500, metric="accuracy_unmasked"),
        row("clean", line.accuracies["r_clean"], 10_000, metric="accuracy_r_classes", **masked),
        row("v2/matched-frequency", line.accuracies["v2"], 10_000),
        row("v2/top-images", 1.0, 10_000),
        row("c", 30.0, 50_000, metric="mce"),
    ]
    found = calibrate(rows)
    assert [(one.suite, one.metric, one.verdict) for one in found] == [
        ("a", "accuracy", "equal"),
        ("clean", "accuracy_r_classes", "equal"),
        ("v2/matched-frequency", "accuracy", "equal"),
    ]
    unmasked = only([row("a", 1.0, 7_500)])
    assert unmasked.verdict == "not comparable"
    assert unmasked.differences == (f"mask is none; timm's is {MASK}",)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"n": 1000}, "n is 1000; the whole set has 50000"),
        ({"resize": 303}, "resize is 303; timm's is 288 (crop_pct 1 of 288)"),
        ({"interpolation": "bilinear"}, "interpolation is bilinear; timm's is bicubic"),
        ({"generated": True}, "the pictures were generated here; timm's are the published ones"),
        ({"width": 224}, "width is 224; timm's is 288"),
    ],
)
def test_another_protocol_is_not_comparable(changed: dict[str, object], difference: str) -> None:
    found = only([row(**changed)])  # pyright: ignore[reportArgumentType]  # one dict of all types
    assert found.verdict == "not comparable"
    assert found.differences == (difference,)


def test_the_line_of_the_same_size_is_taken_and_else_the_nearest() -> None:
    assert only([row(height=224, width=224, resize=235)]).differences == ()
    at_230 = only([row(height=230, width=230)])
    assert [line.split(";")[1] for line in at_230.differences[:2]] == [" timm's is 224", " timm's is 224"]


def test_what_a_row_does_not_say_is_not_taken_for_granted() -> None:
    found = only([replace(row(), protocol={"height": 288, "width": 288, "interpolation": "bicubic"})])
    assert found.differences == ("resize is not in our row; timm's is 288",)


def test_other_crops_of_timm_are_named() -> None:
    squash = next(line for line in published() if line.crop_mode == "squash")
    protocol = {"height": squash.size, "width": squash.size, "resize": squash.resize, "interpolation": squash.interpolation}
    ours = replace(row(), method=f"timm:{squash.model}", protocol=protocol)
    assert only([ours]).differences == ("crop_mode is center; timm's is squash",)
    assert only([replace(ours, protocol={**protocol, "crop_mode": "squash"})]).differences == ()


def test_models_are_found_by_timms_default_tag_or_nearly() -> None:
    assert only([replace(row(), method="timm:resnet50")]).model == RESNET
    with pytest.raises(UsageError, match=r"no results of 'resnet50\.a1_in1q'; did you mean resnet50\.a1_in1k"):
        calibrate([replace(row(), method="timm:resnet50.a1_in1q")])


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(DataError, match="only of: dat, standard; evaluate one as timm:NAME"):
        calibrate([replace(row(), method="standard"), replace(row(), method="dat")])
    with pytest.raises(DataError, match="publishes nothing of these suites: fgsm; evaluate one of clean, a, r"):
        calibrate([row("fgsm")])
    with pytest.raises(DataError, match="No row"):
        calibrate([replace(row(), source="paper")])


def test_the_table_of_a_folder_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def called(*options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dat", "calibrate", str(tmp_path), *options])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), capsys.readouterr().out

    sample = row("sketch", 30.0, 1000)
    write_rows(tmp_path / "results.jsonl", [row(), sample])
    code, out = called()
    assert code == 0
    assert out.strip() == as_table(calibrate([row(), sample]))
    assert [line.split()[-1] for line in out.splitlines() if " accuracy " in line] == ["equal", "comparable"]
    assert "n is 1000; the whole set has 50889" in out
    write_rows(tmp_path / "results.jsonl", [row(value=81.322)])
    code, out = called("--json")
    assert code == 1
    assert json.loads(out)["verdict"] == "off"
    assert json.loads(out)["delta"] == 0.082
