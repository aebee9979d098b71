"""The documentation site has a place for every page and every public name; `make docs` builds it, which one slow test does."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pytest

import dat
from dat.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = (ROOT / "mkdocs.yml").read_text()
NOTEBOOKS = {"changed-words": "% of the words changed", "a-comparison": ""}
"""And what each prints."""


def script(name: str) -> ModuleType:
    """One of the scripts of the site, as a module."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r"- (\S+\.md)$", CONFIGURATION.split("\nnav:\n")[1], flags=re.MULTILINE))
    written = {f"docs/{path.relative_to(ROOT / 'docs').as_posix()}" for path in (ROOT / "docs").rglob("*.md")}
    notebooks = {f"docs/notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")}
    assert len(written) > 10
    assert {path.removeprefix("docs/notebooks/").removesuffix(".md") for path in notebooks} == set(NOTEBOOKS)
    made = {"reference/api.md", "reference/methods.md"}
    beside = {path.name for path in ROOT.glob("*.md")} | {"results/README.md", "benchmarks/README.md"}
    assert named == written | notebooks | made | beside


def test_pictures_are_markdown():
    """The site moves a page into a folder of its own, and mends the paths of Markdown only."""
    pages = [
        *ROOT.glob("*.md"),
        *(page for place in ("docs", "results", "benchmarks", "findings") for page in (ROOT / place).rglob("*.md")),
    ]
    assert [page.name for page in pages if "<img" in page.read_text()] == []


def test_the_reference_has_every_public_name_once():
    page = script("gather").api()
    shown = re.findall(r"^::: dat\.(.+)$", page, flags=re.MULTILINE)
    public = [name for name in dir(dat) if name != "__version__"]
    assert sorted(name.rsplit(".", 1)[1] for name in shown) == sorted(public)
    assert all(getattr(dat, name).__doc__ for name in public)


def test_the_page_of_the_methods_has_a_card_for_each():
    page = script("gather").methods()
    assert re.findall(r"^### `(.+)`$", page, flags=re.MULTILINE) == list(METHODS)
    assert page.count("\n::: dat.methods.") == len(METHODS)


def test_a_link_to_a_page_that_was_not_made_is_text(tmp_path: Path):
    linked = script("gather").linked
    link = re.match(r"\[(.*)\]\((.*)\)", "[report.html](report.html)")
    assert linked(tmp_path, link) == "report.html"
    (tmp_path / "report.html").touch()
    assert linked(tmp_path, link) == "[report.html](report.html)"


def test_the_evidence_shows_the_gains_of_the_tables():
    evidence = script("evidence")
    figure = evidence.drawn()
    assert len(figure.axes) == 3 * len(evidence.RUNS)
    for line, name in enumerate(evidence.RUNS):
        run = evidence.compared(name)
        for column, suite in enumerate(evidence.SUITES):
            dots = [mark for mark in figure.axes[3 * line + column].lines if mark.get_marker() == "o"]
            gains = [run.difference(suite, label) for label in evidence.shown(run)]
            assert [mark.get_xdata()[0] for mark in dots] == [gain.mean for gain in gains if gain]


def cells(name: str) -> Iterator[str]:
    """The code of a notebook."""
    notebook: dict[str, Any] = json.loads((ROOT / "docs" / "notebooks" / f"{name}.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])  # kept without what it printed
    yield from ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "IPython.display", ModuleType("IPython.display"))
    monkeypatch.setattr(sys.modules["IPython.display"], "Markdown", str, raising=False)
    namespace: dict[str, Any] = {}
    with mpl.rc_context({"backend": "agg"}):
        for source in cells(name):
            exec(compile(source, name, "exec"), namespace)
    assert NOTEBOOKS[name] in capsys.readouterr().out


@pytest.mark.slow
def test_the_site_builds_without_a_warning():
    pytest.importorskip("mkdocs", reason="make docs installs what builds the site")
    subprocess.run(["make", "docs"], cwd=ROOT, check=True, timeout=3000)
    assert "Discrete Adversarial Training" in (ROOT / "build" / "site" / "index.html").read_text()
