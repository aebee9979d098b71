"""Pages in headless Chromium, with their script and without: tables sort, pictures slide, nothing overflows on a phone."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up_evaluation import Skill, write_evaluation
from matplotlib.figure import Figure
from synthetic_run import row, write_run

from dat.report.page import write_report
from dat.report.scorecard.page import write_scorecard
from dat.report.sheet import Sheet, plots_of, rows_table, sheet_page
from dat.report.tables import Column

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here: pages are not tried in a browser")

PHONE, DESKTOP = 390, 1280
TRIAL = Path(__file__).with_name("trial.js")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    run = write_report(write_run(folder / "run"))
    cards = [folder / "one", folder / "other"]
    for seed, card in enumerate(cards):
        write_evaluation(card, card.name, Skill(seed, 0.8 + 0.1 * seed))
    return {"report": run.read_text(), "scorecard": write_scorecard(cards)[1].read_text(), "sheet": sheet()}


def sheet() -> str:
    """The page of an analysis of a model with a long name and wide tables."""
    names = [f"metric_{place}" for place in range(6)]
    protocol: dict[str, object] = {"model": "a-method-with-a-name-that-is-long-seed0", "data": "0" * 64}
    rows = [row("pixel", 12.5, metric=name, ci=(12.0, 13.0), protocol=protocol) for name in names]
    columns = {name: Column(name.capitalize(), "of the pictures") for name in names}
    table = rows_table(rows, caption="What was measured.", lines={"pixel": "pixels (AT)"}, metrics=columns, groups=["model"])
    plots = plots_of({"a": Figure(figsize=(11, 4)), "b": Figure(figsize=(11, 4))}, {"a": "a: first", "b": "b: second"})
    files = tuple(f"spectrum-{place}-{'name' * 9}.png" for place in range(3))
    return sheet_page(Sheet("An analysis", "below", ("A lead.",), {table.name: table}, plots, files))


@pytest.fixture(scope="module")
def browser(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the trial found, and what the browser wrote to its console."""
    folder = tmp_path_factory.mktemp("browser")
    told = json.dumps(pages).replace("<", "\\u003c")
    script = f"<script>const pages = {told};\n{TRIAL.read_text()}</script>"
    (folder / "trial.html").write_text(f"<!doctype html><meta charset=utf-8><body>{script}")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--virtual-time-budget=30000",
    ]
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM or "", *options, profile, "--dump-dom", (folder / "trial.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="outcome">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[-2000:]
    return json.loads(html.unescape(found[1])), "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


def test_nothing_is_wrong_in_the_console(browser: tuple[dict[str, Any], str]):
    assert browser[0]["problems"] == []
    assert browser[1] == ""


@pytest.mark.parametrize("page", ["report", "scorecard"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen(browser: tuple[dict[str, Any], str], page: str, width: int):
    found = browser[0][f"{page} at {width}"]
    assert found["cut"] == []
    assert found["wide"] <= 0
    assert found["captions"] <= 0
    assert found["spills"] == 0, "a table that fits has a bar to scroll it by"
    assert found["buttons"] > 10


@pytest.mark.parametrize("view", [f"at {PHONE}", f"at {DESKTOP}", "without"])
def test_the_page_of_an_analysis_is_not_wider_than_the_screen(browser: tuple[dict[str, Any], str], view: str):
    found = browser[0][f"sheet {view}"]
    assert (found["cut"], found["wide"] <= 0, found["captions"] <= 0, found["spills"]) == ([], True, True, 0)


@pytest.mark.parametrize("page", ["report", "scorecard"])
def test_without_the_script_the_page_is_whole(browser: tuple[dict[str, Any], str], page: str):
    found = browser[0][f"{page} without"]
    assert (found["cut"], found["wide"] <= 0) == ([], True)
    assert (found["pictures"], found["hidden"], found["buttons"]) == (30 if page == "report" else 0, 0, 0)


def numbers(texts: list[str]) -> list[float]:
    return [float(re.findall(r"[\d.]+", text)[0]) for text in texts]


def test_a_heading_sorts_by_number_down_then_up_then_as_it_was(browser: tuple[dict[str, Any], str]):
    before, down, up, again = browser[0]["turns"]
    assert (down[0], up[0], again) == ("descending", "ascending", [None, *before])
    assert numbers(down[1:]) == sorted(numbers(before), reverse=True)
    assert numbers(up[1:]) == sorted(numbers(before))
    assert browser[0]["words"] == ["AT", "DAT", "Random codes", "Standard"]


def test_lines_stay_under_their_group(browser: tuple[dict[str, Any], str]):
    groups = browser[0]["groups"]
    assert [names[0] for names in groups] == ["Noise", "Blur", "Weather", "Digital"]
    assert [len(names) for names in groups] == [4, 5, 5, 5]
    assert set(groups[2][1:]) == {"snow", "frost", "fog", "brightness"}
    assert all(numbers(texts) == sorted(numbers(texts), reverse=True) for texts in browser[0]["numbers"])


def test_the_slider_fades_from_one_view_to_the_next(browser: tuple[dict[str, Any], str]):
    found = browser[0]["range"]
    assert browser[0]["slid"] == [[1, 0, 0], [1, 0.5, 0], [1, 1, 0], [1, 1, 1]]
    assert found.pop("says").startswith("Adver")
    assert found == {"min": "0", "max": "2", "step": "0.1", "focused": True}
    assert browser[0]["stop"] == ["1", [1, 1, 0], 1]
    assert browser[0]["report at 390"]["hidden"] == 30


def test_a_number_tells_where_it_comes_from_with_the_script_and_without(browser: tuple[dict[str, Any], str]):
    for found in (browser[0]["told"], browser[0]["told without"]):
        assert (found["open"], found["inside"], found["closed"]) == (True, True, True)
        name, suite = found["title"].split(": ")
        assert suite == "FGSM"
        facts = found["facts"]
        seeds = [float(value) for value in re.findall(r"seed \d: ([\d.]+) \(weights [0-9a-f]{8}\)", facts[name])]
        assert len(seeds) == 3
        assert sum(seeds) / 3 == pytest.approx(float(re.findall(r"[\d.]+", found["number"])[0]), abs=0.06)
        assert facts["Pictures"] == "450"
        assert facts["Measured"] == "epsilon 0.03137"
        assert facts["Recipe"] == "0123abcd"
        assert facts["Versions"] == "dat 0.1.0, torch 2.0"
    assert browser[0]["told"]["stops"] == 1, "one of a table is reached by Tab"
    assert browser[0]["told without"]["stops"] == browser[0]["told without"]["all"] > 10


def test_arrows_walk_from_number_to_number(browser: tuple[dict[str, Any], str]):
    walked = browser[0]["walked"]
    assert walked[:3] == [[2, 1], [2, 2], [2, 2]], "the first line names a group"
    assert walked[3:] == [[2, 3], [2, 4], [3, 1], [2, 4]]
    assert browser[0]["reached"] == 1


def test_pages_are_small(pages: dict[str, str]):
    assert all(len(text.encode()) < 5e6 for text in pages.values())
