"""The page of any run, whatever it trained."""

from __future__ import annotations

from pathlib import Path

from dat.report.page import read_facts, write_report

COMPARISON = "classification"


def write(run: Path) -> Path:
    """Write the page that fits the kind of the run; its path.

    Raises:
        DataError: the folder lacks what the page is made of, or a file of it is damaged.
    """
    facts = run / "run.json"
    if not facts.is_file() or read_facts(facts).get("kind", COMPARISON) == COMPARISON:
        return write_report(run)
    from dat.report.discretizer_page import write_discretizer_report  # reads weights, so it waits for torch

    return write_discretizer_report(run)
