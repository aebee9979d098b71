"""The page of evaluations of frozen features: accuracies by neighbours and by a probe, of one network or several side by side.

Reads files only, as the page of classifiers does, whose tables and paired differences these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dat.evaluation.features import KINDS
from dat.report.page import attempt, read_facts
from dat.report.scorecard.page import (
    ScorePage,
    alarms_in,
    has_several_sets,
    made_by,
    notes_of,
    origin,
    read_card,
    severity_plot,
    write_page,
)
from dat.report.scorecard.rows import (
    Card,
    Key,
    cards_of,
    differences_table,
    errors_table,
    keys_of,
    numbers_table,
    protocols,
    sets_of,
    verdicts,
)
from dat.report.tables import Table
from dat.results import EVALUATION, without_set

ORDER = ("clean", "fgsm", "clean-c", "c")
"""Suites, as columns have them."""
WORDS = (
    "Features are frozen. By k-NN: the nearest labelled pictures vote; by the probe: one linear layer, fitted to the labelled "
    "pictures. FGSM: one step through the probe, of which the neighbours are asked as well; C: the corruptions, made here."
)


def write_features_scorecard(folders: Sequence[Path], *, mixed: bool = False) -> tuple[str, Path]:
    """As `write_scorecard`, of evaluations of features.

    Raises:
        DataError, UsageError: as there.
    """
    return write_page(gather(folders, mixed=mixed), folders)


def gather(folders: Sequence[Path], *, mixed: bool = False) -> ScorePage:
    """Everything that the page will show.

    Raises:
        DataError, UsageError: as `write_features_scorecard`.
    """
    facts = [read_facts(folder / EVALUATION) for folder in folders]
    named = any(has_several_sets(folder) for folder in folders)
    cards = [read_card(folder, known, named=named) for folder, known in zip(folders, facts, strict=True)]
    cards = cards_of(cards, mixed=mixed)
    left_out = list[str]()
    drawn = [
        attempt(f"Accuracy against severity on {suite}", partial(severity_plot, cards, suite, kind), left_out)
        for suite in sets_of(cards)
        for kind in KINDS
    ]
    return ScorePage(
        title=", ".join(card.title for card in cards),
        subtitle=f"Frozen features of {len(cards)} network{'s' * (len(cards) != 1)}",
        models=tuple(card.title for card in cards),
        reading=(*verdicts(cards, keys(cards)), WORDS),
        tables={table.name: table for table in tables_of(cards)},
        plots={plot.name: plot for plot in drawn if plot},
        notes=tuple(notes_of(cards, facts)),
        provenance={card.title: origin(card, known) for card, known in zip(cards, facts, strict=True)} | made_by(),
        protocols=protocols(cards),
        alarms=tuple(alarms_in(folders, facts)),
        left_out=tuple(left_out),
    )


def tables_of(cards: Sequence[Card]) -> list[Table]:
    """Every table that the rows support, in reading order."""
    caption = "Accuracy of frozen features in percent."
    tables = [numbers_table(cards, keys(cards), name="scorecard", caption=caption)]
    tables += [differences_table(cards, keys(cards))] * (len(cards) > 1)
    return tables + [errors_table(cards, suite, kind) for suite in sets_of(cards) for kind in KINDS]


def keys(cards: Sequence[Card]) -> list[Key]:
    """Numbers of whole suites, set by set, the two judges side by side."""
    found = keys_of(cards)
    sets = list(dict.fromkeys(without_set(suite)[1] for suite, _ in found))

    def place(key: Key) -> tuple[int, int, int]:
        suite, pictures = without_set(key[0])
        return sets.index(pictures), ORDER.index(suite), KINDS.index(key[1])

    return sorted(found, key=place)
