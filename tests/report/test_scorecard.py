from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_evaluation import SUITES, Skill, write_evaluation
from scipy import stats
from test_report import Page

from dat.commands.report import write_all
from dat.data.corruptions.table import CORRUPTIONS
from dat.errors import DataError, UsageError
from dat.evaluation import store
from dat.evaluation.cells import Cell
from dat.evaluation.metrics import ALEXNET_ERRORS
from dat.evaluation.robustness import Rows
from dat.report.scorecard.page import ScorePage, gather, html_page, markdown_page, read_card, terminal_page
from dat.report.scorecard.rows import ABSENT, cards_of, difference, in_words, paper_keys, setting_words, verdict
from dat.results import Row, write_rows

N = 60


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models on all suites: the second is a little better."""
    root = tmp_path_factory.mktemp("evaluations")
    write_evaluation(root / "first", "resnet", Skill(1, 1.0), count=N)
    write_evaluation(root / "second", "better", Skill(2, 1.3), count=N)
    return [root / "first", root / "second"]


@pytest.fixture(scope="module")
def page(folders: list[Path]) -> ScorePage:
    return gather(folders)


def small(folder: Path, name: str, skill: float = 1.0, **entries: object) -> Rows:
    """An evaluation without corruptions; `entries` change the protocol of FGSM."""

    def change(cell: Cell) -> Cell:
        return replace(cell, protocol={**cell.protocol, **entries}) if cell.name == "fgsm" else cell

    return write_evaluation(folder, name, Skill(1, skill), count=N, suites=("clean", "fgsm"), corruptions=(), change=change)


def row_of(folder: Path, suite: str, metric: str = "accuracy") -> Row:
    return read_card(folder, {}).rows[suite, metric]


def test_the_page_shows_the_papers_columns_with_n_and_interval(folders: list[Path], page: ScorePage) -> None:
    text, html = terminal_page(page), html_page(page, "comparison")
    parsed = Page(html)
    assert not [tag for tag, _ in parsed.elements if tag == "img"]
    assert len(parsed.all("svg")) == 2
    for words in ("resnet", "better", "C mCE ↓", "Gaussian noise", "epsilon 1/255", "mask 3 of 6 outputs", "0a1b2c"):
        assert words.lower() in html.lower()
    row = row_of(folders[0], "c", "mce")
    assert row.ci is not None
    shown = f"{row.value:.2f} [{row.ci[0]:.2f}, {row.ci[1]:.2f}]"
    assert shown in text
    assert shown in markdown_page(page, "comparison")
    assert f"C mCE ↓ (generated, n {N})" in text


def test_columns_are_in_the_papers_order(page: ScorePage) -> None:
    titles = [column.title for column in page.tables["scorecard"].columns]
    assert titles == ["Clean", "FGSM", "DamageNet", "A", "C mCE ↓", "V2", "R", "Sketch", "Stylized"]
    further = [column.title for column in page.tables["further"].columns]
    assert set(further) == {
        "Clean on the classes of A", "A over all outputs", "C accuracy", "C relative mCE ↓", "V2, top images",
    }  # fmt: skip
    assert len(SUITES) + 5 == len(titles) + len(further)


def right(folder: Path, name: str) -> np.ndarray:
    said = store.read_predictions(folder, name)
    return said.outputs["accuracy"] == said.targets


def test_the_paired_difference_of_mce_is_that_of_the_stored_predictions(folders: list[Path]) -> None:
    first, second = (read_card(folder, {"name": folder.name}) for folder in folders)
    found = difference(second, first, ("c", "mce"))
    assert not isinstance(found, str)

    def per_picture(folder: Path) -> np.ndarray:
        errors = [
            np.mean([~right(folder, f"c/{name}/{s}") for s in range(1, 6)], axis=0) / ALEXNET_ERRORS[name]
            for name in CORRUPTIONS
        ]
        return 100 * np.mean(errors, axis=0)

    gaps = per_picture(folders[1]) - per_picture(folders[0])
    assert found.value == pytest.approx(gaps.mean())
    assert found.ci == pytest.approx(stats.t.interval(0.95, N - 1, loc=gaps.mean(), scale=stats.sem(gaps)))
    assert found.value < 0
    assert verdict(second, first, [("c", "mce")]) == "second against first, on the same pictures: better on C mCE ↓."


def test_of_too_few_pictures_only_accuracies_are_compared(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        write_evaluation(folder, folder.name, Skill(seed, 0.8), count=8)
    page = gather(folders)
    line = page.tables["differences"].lines[0]
    shown = {column.title: cell for column, cell in zip(page.tables["differences"].columns, line.cells, strict=True)}
    assert shown["Clean"] != ABSENT
    assert shown["C mCE \N{DOWNWARDS ARROW}"] == ABSENT
    why = "the number has no interval (fewer than 10 pictures), so there is no paired difference."
    assert f"C mCE \N{DOWNWARDS ARROW}: {why}" in page.tables["differences"].notes
    assert all(cell.spread == "[no interval]" for line in page.tables["errors-c"].lines for cell in line.cells)


def test_errors_of_corruptions_are_means_over_severities(folders: list[Path], page: ScorePage) -> None:
    table = page.tables["errors-c"]
    assert len(table.lines) == len(CORRUPTIONS)
    fog = next(line for line in table.lines if line.title == "fog")
    expected = [100 * np.mean([~right(folder, f"c/fog/{s}") for s in range(1, 6)]) for folder in folders]
    assert [cell.text for cell in fog.cells] == [f"{value:.2f}" for value in expected]
    assert all(cell.spread.startswith("[") for cell in fog.cells)


def test_what_was_measured_differently_is_refused_with_the_key_and_both_values(tmp_path: Path) -> None:
    small(tmp_path / "a", "one")
    small(tmp_path / "b", "two", epsilon_255=4.0)
    with pytest.raises(UsageError, match=r"'fgsm'.*\{'epsilon_255': 1.0\} \(one\) and \{'epsilon_255': 4.0\} \(two\).*--mixed"):
        write_all([tmp_path / "a", tmp_path / "b"])
    page = gather([tmp_path / "a", tmp_path / "b"], mixed=True)
    assert f"FGSM (not alike, n {N})" in terminal_page(page)
    assert "one: epsilon 1/255; two: epsilon 4/255" in markdown_page(page, "comparison")
    clean, fgsm = page.tables["differences"].lines[0].cells[:2]
    assert (clean.text, fgsm) == ("+0.00", ABSENT)
    assert any("protocols differ" in note for note in page.tables["differences"].notes)


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    small(tmp_path / "a", "one")
    small(tmp_path / "b", "two", data="ba9876543210")
    with pytest.raises(UsageError, match=r"'data': '0123456789ab'.*'data': 'ba9876543210'"):
        write_all([tmp_path / "a", tmp_path / "b"])


def test_predictions_that_are_not_those_of_the_rows_are_refused(tmp_path: Path) -> None:
    rows = small(tmp_path / "a", "one").rows
    small(tmp_path / "b", "two")
    write_rows(tmp_path / "a" / "results.jsonl", [replace(rows[0], value=rows[0].value + 1), *rows[1:]])
    with pytest.raises(DataError, match="evaluate again"):
        write_all([tmp_path / "a", tmp_path / "b"])
    write_rows(tmp_path / "a" / "results.jsonl", [*rows, rows[0]])
    with pytest.raises(DataError, match="accuracy of 'clean' twice"):
        write_all([tmp_path / "a"])


def test_an_evaluation_has_a_report_of_its_own_and_two_a_comparison(tmp_path: Path) -> None:
    small(tmp_path / "a", "one")
    small(tmp_path / "b", "two")
    text, path = write_all([tmp_path / "a"])
    before = path.read_bytes()
    assert path.name == "report.html"
    assert path.with_suffix(".md").is_file()
    assert "minus" not in text
    assert write_all([tmp_path / "a", tmp_path / "b"])[1] == tmp_path / "a" / "comparison.html"
    assert write_all([tmp_path / "a"])[1].read_bytes() == before


def test_without_mce_stands_the_mean_accuracy_and_the_reason(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", "one", Skill(1, 1.0), count=12, suites=("clean",), corruptions=("fog", "snow"))
    text, _ = write_all([tmp_path / "a"])
    assert "C accuracy (generated, n 12)" in text
    assert "mCE of c is not given: 65 of its 75 cells are missing" in text
    assert "mCE ↓" not in text


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        small(tmp_path / folder, "net")
    cards = cards_of([read_card(tmp_path / folder, {"name": "net"}) for folder in ("a", "b")])
    assert [card.title for card in cards] == ["net (1)", "net (2)"]
    assert paper_keys(cards) == [("clean", "accuracy"), ("fgsm", "accuracy")]


@pytest.mark.parametrize(
    ("seeds", "titles"),
    [
        ((0, 2, None), ["net, seed 0", "net, seed 2", "other"]),
        ((0, 0, 0), ["net (1)", "net (2)", "other"]),
        ((0, None, 0), ["net (1)", "net (2)", "other"]),
    ],
)
def test_models_of_one_method_are_called_by_their_seeds(
    tmp_path: Path, seeds: tuple[int | None, ...], titles: list[str]
) -> None:
    small(tmp_path, "net")
    card, names = read_card(tmp_path, {"name": "net"}), ("net", "net", "other")
    cards = [
        replace(card, title=name, rows={key: replace(row, seed=seed) for key, row in card.rows.items()})
        for name, seed in zip(names, seeds, strict=True)
    ]
    assert [one.title for one in cards_of(cards)] == titles


def test_a_training_run_is_no_evaluation(tmp_path: Path) -> None:
    small(tmp_path / "a", "one")
    with pytest.raises(UsageError, match="run is no evaluation"):
        write_all([tmp_path / "a", tmp_path / "run"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epsilon_255", 1.0, "epsilon 1/255"),
        ("generated", True, "generated"),
        ("generated", False, "not generated"),
        ("crop_pct", None, "no crop pct"),
        ("bad", 0, "0 pictures unreadable"),
        ("parameters", {"fog": [1.5, 2.0]}, "parameters (fog 1.5 2)"),
    ],
)
def test_a_protocol_in_words(name: str, value: object, words: str) -> None:
    assert setting_words(name, value) == words
    assert in_words({name: value, "resize": 256}) == f"{words}, resize 256"
