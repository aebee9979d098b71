"""Lay the pages of the repository out for the documentation site, at their own places, so that their links stay right.

python docs/site/gather.py build/pages        (then `mkdocs build`, which `make docs` does)
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dat import _HOME
from dat.commands.report import write
from dat.methods import METHODS
from dat.methods.serving import markdown
from dat.results import RESULTS, RUN

ROOT = Path(__file__).resolve().parents[2]
PLACES = (":(glob)*.md", "LICENSE", "docs", "results", ":(glob)benchmarks/*.md", "examples", "findings", "weights/README.md")
ROOMS = {
    "attacks": "Adversaries",
    "discretizers": "Discretizers",
    "methods": "Methods",
    "tasks": "Tasks",
    "commands": "Whole runs",
    "analysis": "Analyses",
    "augment": "Augmentations",
    "data": "Corruptions",
    "nn": "Networks",
    "types": "Words",
    "boxes": "Words",
    "results": "Words",
    "errors": "Words",
}
"""Title of the part of the reference in which the public names of a room stand."""


def main() -> None:
    """Copy and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the pages; what it held is removed")
    out: Path = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    for path in tracked():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, out / path)
    show_runs(out / "results")
    run_notebooks(out / "docs" / "notebooks")
    (out / "reference").mkdir()
    (out / "reference" / "api.md").write_text(api())
    (out / "reference" / "methods.md").write_text(methods())


def tracked() -> list[str]:
    """Files of the places that belong to the repository, or will."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PLACES]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def show_runs(results: Path) -> None:
    """The page of every kept run, with figures; where there is none, its name is no link."""
    for facts in sorted(results.rglob(RUN)):
        if (facts.parent / RESULTS).is_file():
            write(facts.parent)
    for page in results.rglob("*.md"):
        page.write_text(re.sub(r"\[([^]]*)\]\((\w+\.html)\)", partial(linked, page.parent), page.read_text()))


def linked(folder: Path, link: re.Match[str]) -> str:
    """The link where its page is there, else its text."""
    text, name = link.groups()
    return link[0] if (folder / name).is_file() else text


def run_notebooks(folder: Path) -> None:
    """Each notebook as a page with what it prints and draws; one that fails ends this.

    Raises:
        CalledProcessError: a cell failed; its traceback was printed.
    """
    command = [sys.executable, "-m", "nbconvert", "--to", "markdown", "--execute", "--log-level", "ERROR"]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}  # of packages that notebooks bring
    for notebook in sorted(folder.glob("*.ipynb")):
        subprocess.run([*command, str(notebook)], check=True, env=quiet)


def api() -> str:
    """Every public name, by subject; each with its docstring, which `mkdocstrings` fills in."""
    return "# API\n\nEverything below is public as `dat.NAME`.\n" + "".join(parts())


def parts() -> Iterator[str]:
    """A heading and its names."""
    for title in dict.fromkeys(ROOMS.values()):
        names = sorted(name for name, home in _HOME.items() if ROOMS[home.split(".")[0]] == title)
        yield f"\n## {title}\n\n"
        yield from (f"::: dat.{_HOME[name]}.{name}\n\n" for name in names)


def methods() -> str:
    """What each method is, as its docstring says, and which tasks it serves."""
    cards = "".join(f"\n### `{name}`\n\n::: {kind.__module__}.{kind.__name__}\n" for name, kind in METHODS.items())
    return f"# The methods\n\n## Methods and tasks\n\n{markdown()}\n\n## Cards\n{cards}"


if __name__ == "__main__":
    main()
