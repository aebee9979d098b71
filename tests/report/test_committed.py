"""The results that the repository keeps: marks, sentences and paired intervals of a column agree, and the pages show them."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dat.evaluation.intervals import METHOD
from dat.report import detection_page, selfsupervised_page
from dat.report.answered import kept_answers, right_of
from dat.report.page import gather, markdown_page
from dat.report.reading import MANY_METHODS, PLACES, called, listed, sentences
from dat.report.tables import (
    METHOD_TITLES,
    MINUS,
    Comparison,
    Estimate,
    Line,
    all_tables,
    comparison_table,
    method_title,
    with_clean_of_c,
)
from dat.results import INTERVAL, read_rows

pytestmark = pytest.mark.usefixtures("all_undrawn")

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["demo", "cifar10-compare", "cifar10-compare/equal-time", "cifar10-controls"]
DETECTORS = ROOT / "results/detection-bccd"
FEATURES = ROOT / "results/selfsupervised-cifar10"
PRETRAINED = {"mae": "Autoencoder:", "simclr": "SimCLR:"}
CELLS = ["finetune-standard", "finetune-dat"]
"""Of one seed each: no marks and no claims to check, but pages and tables."""
ONE_SEED = [*(FEATURES / name for name in (*PRETRAINED, *CELLS)), ROOT / "results/cifar10-finetune"]
SHARES = [ROOT / "results" / name for name in ("cifar10-shares", "imagenette-finetune", "imagenette-rate")]
"""Their corrupted pictures are fewer than the others: a column more, and intervals over seeds and pictures."""
KNN = f"k{MINUS}NN"
"""As `table_of` reads it."""


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return ROOT / "results" / request.param


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return comparison_of(folder)


@cache
def comparison_of(folder: Path) -> Comparison:
    rows = read_rows(folder / "results.jsonl")
    order = json.loads((folder / "run.json").read_text())["methods"]
    ours = sorted((row for row in rows if row.source == "ours"), key=lambda row: order.index(row.method))
    return comparison_table(ours, answers=right_of(kept_answers(folder, rows)))


report_of = cache(gather)


def read(path: Path) -> str:
    return path.read_text()


def columns(comparison: Comparison) -> list[str]:
    groups = [f"group/{group}" for group in comparison.corruptions]
    return [*comparison.suites, *groups, *(f"c/{name}" for names in comparison.corruptions.values() for name in names)]


def test_every_folder_with_rows_of_a_comparison_is_looked_at():
    found = {path.parent for path in (ROOT / "results").rglob("run.json") if '"methods"' in path.read_text()}
    assert found == {DETECTORS, *(ROOT / "results" / name for name in FOLDERS), *ONE_SEED, *SHARES}


def test_a_mark_is_what_the_paired_interval_says(comparison: Comparison):
    seen = 0
    for suite in columns(comparison):
        means = {method: value.mean for method in comparison.methods if (value := comparison.estimate(suite, method))}
        top = max(means, key=lambda method: means[method])
        marks = comparison.marks(suite)
        assert marks[top] == ("best" if len(marks) == 1 else "tie")
        for method in set(comparison.methods) - {top}:
            gap = comparison.difference(suite, method, to=top)
            assert gap is not None
            assert gap.interval is not None
            assert gap.mean == pytest.approx(means[method] - means[top])
            assert (method in marks) == (gap.interval[0] <= 0 <= gap.interval[1])
            seen += method in marks
    assert seen > 5


def test_pairs_of_a_column_have_one_width_but_for_those_that_are_less_steady(comparison: Comparison):
    if comparison.answers:
        pytest.skip("answers per picture are kept, by which every pair differs")
    for suite in columns(comparison):
        pairs = [(a, b) for a in comparison.methods for b in comparison.methods if a != b]
        gaps = [gap for a, b in pairs if (gap := comparison.difference(suite, a, to=b)) and gap.interval]
        assert len(gaps) == len(pairs)
        widths = [round(gap.interval[1] - gap.interval[0], 6) for gap in gaps if gap.interval]
        assert widths.count(min(widths)) > len(widths) / 4


def test_the_tables_mark_as_the_columns_do(comparison: Comparison):
    tables = {table.name: table for table in all_tables(comparison)}
    columns = with_clean_of_c(comparison)
    shown = [
        (suite, line.method, line.cells[place].mark) for line in tables["accuracy"].lines for place, suite in enumerate(columns)
    ]
    names = [f"c/{name}" for members in comparison.corruptions.values() for name in members]
    shown += [
        (suite, method, cell.mark)
        for suite, line in zip(names, tables["corruptions"].lines, strict=True)
        for method, cell in zip(comparison.methods, line.cells, strict=True)
    ]
    assert len(shown) == len(comparison.methods) * (len(columns) + 15)
    assert all(mark == comparison.marks(suite).get(method, "") for suite, method, mark in shown)
    for name, method, to in (("difference-to", "", "standard"), ("difference-of", "dat", "")):
        for line in tables[name].lines:
            for suite, cell in zip(comparison.suites, line.cells, strict=True):
                gap = comparison.difference(suite, method or line.method, to=to or line.method)
                assert gap is not None
                assert cell.mark == ("best" if gap.sign else "")


def claims(comparison: Comparison, text: str, suite: str) -> Iterator[tuple[str, str, int]]:
    """Of the second sentence, (method, other, sign) for what it says on a test set; of the others what `highest` says."""
    names = {called(method): method for method in comparison.methods}
    pattern = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    clause = re.search(rf"{PLACES[suite]} DAT (.*?)(?:, against \d+ others? the order is open)?[;.](?: |$)", text)
    assert clause is not None
    for verb, sign in (("beats", 1), ("loses to", -1)):
        if found := re.search(rf"{verb} ((?:(?:{pattern})(?:, | and )?)+)", clause[1]):
            yield from (("dat", names[name], sign) for name in re.findall(pattern, found[1]))


def test_the_first_sentence_says_what_the_intervals_and_the_costs_say(comparison: Comparison):
    text = sentences(comparison)[0]
    assert text.startswith("Against standard training, DAT ")
    for suite in comparison.suites:
        gap = comparison.difference(suite, "dat")
        assert gap is not None
        assert gap.interval is not None
        low, high = (f"{end:+.2f}".replace("-", MINUS) for end in gap.interval)
        verb = {1: "helped", -1: "hurt", 0: "made no difference that can be told"}[gap.sign]
        clause = re.search(rf"{verb} ((?:(?!helped|hurt|made).)*){PLACES[suite]} \(([^)]*)\)", text)
        assert clause is not None, (verb, suite)
        assert clause[2].startswith(f"{gap.mean:+.2f}".replace("-", MINUS))
        assert clause[2].endswith(f"{low} to {high}")
    ratios = sorted(comparison.ratios("cost", "dat"))
    assert f"{ratios[1]:.2f} times as long ({ratios[0]:.2f} to {ratios[2]:.2f} over 3 seeds)." in text


def test_what_the_second_sentence_says_of_many_methods_is_what_the_intervals_say():
    for name in FOLDERS[1:]:
        comparison = comparison_of(ROOT / "results" / name)
        text = sentences(comparison)[1]
        for suite in comparison.suites:
            said = set(claims(comparison, text, suite))
            gaps = {other: comparison.difference(suite, "dat", to=other) for other in comparison.methods if other != "dat"}
            assert said == {("dat", other, gap.sign) for other, gap in gaps.items() if gap and gap.sign}


def test_the_sentence_of_a_test_set_names_those_that_are_marked(comparison: Comparison):
    text = sentences(comparison)
    for place, suite in enumerate(comparison.suites, start=2):
        top = comparison.highest(suite)
        others = [called(method) for method in comparison.marks(suite) if method != top]
        whom = f"{len(others)} others" if len(others) >= MANY_METHODS else listed(others)
        said = f"it cannot be told apart from {whom}, so which" if others else "it differs from every other"
        assert said in text[place]


def test_no_sentence_speaks_of_intervals_that_overlap(comparison: Comparison):
    words = " ".join([*sentences(comparison), *(note for table in all_tables(comparison) for note in table.notes)])
    assert "overlaps" not in words
    assert "(Tukey's range)" in words


def test_the_page_is_that_of_the_rows(folder: Path):
    """What the page says of numbers; which figures could be drawn depends on the logs, which are not kept."""
    made, kept = (
        text.split("## Where the numbers come from")[0] for text in (page_of(folder), (folder / "report.md").read_text())
    )
    assert made == kept


def test_what_the_facts_list_is_kept(folder: Path):
    assert report_of(folder).alarms == ()


def test_the_page_and_the_text_of_detectors_are_those_of_the_rows():
    report = detection_page.gather(DETECTORS)
    assert report.alarms == ()
    kept = (DETECTORS / "report.md").read_text()
    assert markdown_page(report).split("## Where the numbers come from")[0] == kept.split("## Where the numbers come from")[0]
    columns = {"FGSM 1/255, AP": "FGSM, AP", "FGSM 1/255, AP50": "FGSM, AP50", "Cost per step": ""}
    shown = table_of((DETECTORS / "README.md").read_text(), "Average precision in percent")
    accuracy = report.tables["accuracy"]
    assert [TITLES[title] for title in shown] == [line.method for line in accuracy.lines]
    for line, cells in zip(accuracy.lines, shown.values(), strict=True):
        numbers = {
            heading.title: f"{cell.text} {cell.spread}" for heading, cell in zip(accuracy.columns, line.cells, strict=True)
        }
        for column, text in cells.items():
            if name := columns.get(column, column):
                assert text == numbers[name], (line.method, column)


@pytest.mark.parametrize("folder", ONE_SEED, ids=lambda folder: folder.name)
def test_the_pages_of_one_seed_are_those_of_the_rows(folder: Path):
    report = (selfsupervised_page.gather if folder.name in PRETRAINED else report_of)(folder)
    assert report.alarms == ()
    made, kept = (
        text.split("## Where the numbers come from")[0] for text in (markdown_page(report), read(folder / "report.md"))
    )
    assert made == kept


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_table_of_features_is_that_of_the_rows_and_above_raw_pixels(name: str):
    found = {(row.method, row.suite, row.metric): row.value for row in read_rows(FEATURES / name / "results.jsonl")}
    columns = {KNN: "knn", "Probe": "probe", "FGSM": "fgsm", "corr.": "c"}
    shown = table_of(read(FEATURES / "README.md"), PRETRAINED[name])
    assert len(shown) == 4
    for title, cells in shown.items():
        for column, text in cells.items():
            if column == "Cost per step":
                continue
            metric, *suite = (columns[word] for word in column.split(", "))
            value = found_value(found, TITLES[title], suite[0] if suite else "clean", metric)
            assert text == f"{value:.1f}", (title, column)
        assert float(cells[KNN]) > found["raw-pixels", "clean", "knn"] + 5, "twice both intervals"
        assert float(cells[f"{KNN}, corr."]) > found_value(found, "raw-pixels", "c", "knn") + 2


def found_value(found: dict[tuple[str, str, str], float], method: str, suite: str, metric: str) -> float:
    """The accuracy in percent; of the corruptions their mean."""
    if suite != "c":
        return found[method, suite, metric]
    values = [value for (of, cell, by), value in found.items() if (of, by) == (method, metric) and cell.startswith("c/")]
    assert len(values) == 15
    return sum(values) / 15


@pytest.mark.parametrize("folder", [ROOT / "results/cifar10-finetune", *SHARES])
def test_the_table_of_fine_tuning_is_that_of_the_rows(folder: Path):
    shown = table_of(read(folder / "README.md"), "Accuracy in percent")
    tables = report_of(folder).tables
    made = {line.title: numbers(line, (0, 1, 3)) for line in tables["accuracy"].lines}
    if folder in SHARES:
        made |= {line.title: [*made[line.title], *numbers(line, (1, 2))] for line in tables["difference-to"].lines}
    assert {title: [*filter(None, cells.values())] for title, cells in shown.items()} == {
        title.replace("-", MINUS): cells for title, cells in made.items()
    }


def numbers(line: Line, places: Sequence[int]) -> list[str]:
    return [f"{line.cells[place].text} {line.cells[place].spread}" for place in places]


def test_the_four_cells_are_those_of_the_rows():
    lines = read(FEATURES / "README.md").split("| Pre-trained ", 1)[1].split("\n\n")[0].splitlines()[2:]
    reports = [report_of(FEATURES / name).tables["accuracy"] for name in CELLS]
    made = [
        [f"{line.cells[place].text} {line.cells[place].spread}" for place in (0, 1, 3)]
        for table in reports
        for line in table.lines
    ]
    assert [[cell.strip() for cell in line.strip("| ").split(" | ")][2:] for line in lines] == made


def test_a_text_says_which_intervals_are_older_than_the_code():
    found = {
        (path.parents[1] / "README.md", str(row.protocol.get(INTERVAL)))
        for path in (ROOT / "results").glob("*/*/results.jsonl")
        for row in read_rows(path)
        if not str(row.protocol.get(INTERVAL, METHOD)).startswith(("none: ", METHOD))
    }
    text = ROOT / "results/imagenet-sample/README.md"
    assert found == {(text, "bootstrap over pictures, 1000 draws, seed 0")}
    assert "a bootstrap over pictures (1000 draws, seed 0" in text.read_text()


def page_of(folder: Path) -> str:
    return markdown_page(report_of(folder))


# Tables that are written into a text by hand.


def table_of(text: str, heading: str) -> dict[str, dict[str, str]]:
    """The first Markdown table behind a heading: cells by line and column, without marks."""
    lines = [
        line for line in text.split(heading, 1)[1].split("\n\n| ", 1)[1].split("\n\n")[0].splitlines() if "---" not in line
    ]
    rows = [[cell.strip().replace("*", "").replace("-", MINUS) for cell in line.strip("| ").split(" | ")] for line in lines]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=False)) for row in rows[1:]}


TITLES = {title: method for method, title in METHOD_TITLES.items()} | {"DAT (Algorithm 1)": "dat"}
TITLES |= {
    f"{METHOD_TITLES[method]}, {step}": f"{method}-{direction}"
    for method in ("dat", "dat-official", "dat-free")
    for direction, step in (("random", "a random step"), ("none", "no step"))
}
SUITES = {"Clean": "clean", "FGSM 8/255": "fgsm", "FGSM 1/255": "fgsm", "15 corruptions": "c"}
GAINS = {"Gain under FGSM": "fgsm", "Gain on corruptions": "c"}


@pytest.mark.parametrize(
    ("page", "heading", "name"),
    [
        ("docs/which-method.md", "## On digits", "demo"),
        ("results/cifar10-compare/README.md", "## Equal steps", "cifar10-compare"),
        ("results/cifar10-compare/README.md", "## Equal time", "cifar10-compare/equal-time"),
        ("results/cifar10-controls/README.md", "Accuracy in percent", "cifar10-controls"),
    ],
)
def test_a_table_of_a_text_holds_the_numbers_of_the_results(page: str, heading: str, name: str):
    comparison = comparison_of(ROOT / "results" / name)
    tables = {table.name: table for table in all_tables(comparison)}
    accuracy = {line.method: line.cells for line in tables["accuracy"].lines}
    shown = table_of((ROOT / page).read_text(), heading)
    assert [TITLES[title] for title in shown] == list(comparison.methods)
    for title, cells in shown.items():
        method, place = TITLES[title], with_clean_of_c(comparison).index
        for column, suite in SUITES.items():
            if column in cells:
                cell = accuracy[method][place(suite)]
                assert cells[column] == f"{cell.text} {cell.spread}", (title, column)
        for column, suite in GAINS.items():
            if column in cells and method != "standard":
                gap = comparison.difference(suite, method)
                assert gap is not None
                assert gap.interval is not None
                half = (gap.interval[1] - gap.interval[0]) / 2
                assert cells[column] == f"{gap.mean:+.1f} ± {half:.1f}".replace("-", MINUS), (title, column)
    assert method_title("dat-free") in shown or name == "demo"


def test_the_stronger_attack_on_the_controls_is_told_as_measured():
    folder = ROOT / "results/cifar10-controls"
    comparison = comparison_table(read_rows(folder / "pgd.jsonl"))
    text = (folder / "README.md").read_text()
    for title, suite in (("Clean", "clean"), ("PGD-20", "pgd")):
        found = [comparison.estimate(suite, method) for method in comparison.methods]
        halves = [(value.interval[1] - value.interval[0]) / 2 for value in found if value and value.interval]
        cells = [f"{value.mean:.1f} ± {half:.1f}" for value, half in zip(found, halves, strict=True) if value]
        assert f"| {title} | {' | '.join(cells)} |" in text
    for control in ("standard", "dat-random", "dat-none", "random-codes"):
        gap = comparison.difference("pgd", "dat", to=control)
        assert gap is not None
        assert gap.interval is not None
        assert gap.sign == 1
        assert f"+{gap.mean:.1f} ± {(gap.interval[1] - gap.interval[0]) / 2:.1f}" in text


def test_the_pictures_from_elsewhere_are_told_as_measured():
    folder = ROOT / "results/cifar10-controls"
    rows, kept = read_rows(folder / "imagenet32.jsonl"), np.load(folder / "imagenet32.npz")
    answers: dict[tuple[str, int | None], dict[str, Any]] = {}
    for row in rows:
        right = np.unpackbits(kept[f"{row.method}-seed{row.seed}.{row.suite}"], count=row.n).astype(bool)
        assert 100 * right.mean() == pytest.approx(row.value)
        answers.setdefault((row.method, row.seed), {})[row.suite] = right
    comparison = comparison_table(rows, answers=answers)
    text = (folder / "README.md").read_text()
    shown = table_of(text, "## On pictures from elsewhere")
    assert [TITLES[title] for title in shown] == list(comparison.methods)
    columns = (("As they are", "Minus standard", "clean"), ("FGSM 1/255", "Minus standard, FGSM", "fgsm"))
    for (title, cells), (measured, gained, suite) in product(shown.items(), columns):
        found = comparison.estimate(suite, TITLES[title])
        assert found is not None
        assert cells[measured] == told(found)
        if title != "Standard":
            gap = comparison.difference(suite, TITLES[title])
            assert gap is not None
            assert cells[gained] == told(gap, signed=True)
            assert (f"**{cells[gained].replace(MINUS, '-')}**" in text) == bool(gap.sign)


def told(found: Estimate, *, signed: bool = False) -> str:
    assert found.interval is not None
    half = (found.interval[1] - found.interval[0]) / 2
    return f"{found.mean:{'+' if signed else ''}.1f} ± {half:.1f}".replace("-", MINUS)
