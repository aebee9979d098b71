"""The row of the paper's tables for each evaluated model, and what two models differ by on the same pictures.

Knows rows and scores per picture; neither files nor HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dat.errors import UsageError
from dat.evaluation.intervals import PERCENT, Difference, Scores, paired_difference, picture_interval
from dat.evaluation.mistakes import CALIBRATION, CLASS_MEAN
from dat.evaluation.robustness import corruption_cell, members_of
from dat.evaluation.suites import SEVERITIES, clean_beside
from dat.report.tables import (
    ABSENT,
    CLEAN_OF_C,
    Cell,
    Column,
    Comparison,
    Estimate,
    Line,
    Table,
    comparison_table,
    conditions,
    grouped,
    number,
    refuse_mixed_protocols,
    suite_title,
)
from dat.results import INTERVAL, Row, differing, of_set, without_set

Key = tuple[str, str]
"""Suite and metric of a number."""

PAPER: tuple[Key, ...] = (
    ("clean", "accuracy"),
    ("fgsm", "accuracy"),
    ("damagenet", "accuracy"),
    ("a", "accuracy"),
    ("c", "mce"),
    ("v2/matched-frequency", "accuracy"),
    ("r", "accuracy"),
    ("sketch", "accuracy"),
    ("stylized", "accuracy"),
)
"""The columns of the paper's tables, in their order; a set that was made here stands in the place of the published one."""
C_ACCURACY: Key = ("c", "accuracy")
TITLES = {
    "a": "A",
    "c": "C",
    "c-bar": "C-bar",
    "r": "R",
    "v2/matched-frequency": "V2",
    "v2/threshold-0.7": "V2, threshold 0.7",
    "v2/top-images": "V2, top images",
    "pgd": "PGD",
    "autoattack": "AutoAttack",
    "objectnet": "ObjectNet",
    "laion-c": "LAION-C",
    "cifar-10-c": "CIFAR-10-C",
    "cifar-100-c": "CIFAR-100-C",
}
METRIC_TITLES = {
    "accuracy": "",
    "mce": "mCE ↓",
    "relative_mce": "relative mCE ↓",
    "accuracy_unmasked": "over all outputs",
    "accuracy_a_classes": "on the classes of A",
    "accuracy_r_classes": "on the classes of R",
    "knn": "by k-NN",
    "probe": "by the probe",
    CLASS_MEAN: "class mean",
    CALIBRATION: "calibration error ↓",
}
BESIDE = (CLASS_MEAN, CALIBRATION)
"""What stands beside an accuracy, in a table of its own."""
SETS = ("c", "c-bar", "cifar-10-c", "cifar-100-c", "laion-c")
"""Whose accuracy is a mean over cells, and stands beside other numbers."""
LOWER = ("mce", "relative_mce", CALIBRATION)
GENERATED = "-generated"
ARROW = "↓: of these, less is better; all others are accuracies in percent."


@dataclass(frozen=True, eq=False)
class Card:
    """What was measured of one model, by suite and metric; `scores` gives the score of each picture behind a row."""

    title: str
    rows: Mapping[Key, Row]
    scores: Callable[[Row], Scores]


def cards_of(cards: Sequence[Card], *, mixed: bool = False) -> list[Card]:
    """The cards under names of their own, if they can be compared; `mixed` allows rows measured in different ways.

    Raises:
        UsageError: rows of one suite were measured in different ways (which entry of the protocol, and both values).
    """
    named = [replace(card, title=title) for card, title in zip(cards, _titles_apart(cards), strict=True)]
    if not mixed:
        refuse_mixed_protocols(replace(row, method=card.title) for card in named for row in card.rows.values())
    return named


def _titles_apart(cards: Sequence[Card]) -> list[str]:
    """The titles, with their seeds where several models have the same, or with their number where seeds are no help."""
    alike = {title: [card for card in cards if card.title == title] for title in {card.title for card in cards}}
    return [_title_among(card, alike[card.title]) for card in cards]


def _title_among(card: Card, alike: Sequence[Card]) -> str:
    seeds = [next((row.seed for row in one.rows.values()), None) for one in alike]
    place = next(number for number, one in enumerate(alike) if one is card)
    if len(alike) == 1:
        return card.title
    told = None not in seeds and len(set(seeds)) == len(seeds)
    return f"{card.title}, seed {seeds[place]}" if told else f"{card.title} ({place + 1})"


def keys_of(cards: Iterable[Card]) -> list[Key]:
    """Whatever was measured of any model, without the single cells of corruptions, and what stands beside an accuracy."""
    found = dict.fromkeys(key for card in cards for key in card.rows)
    return [key for key in found if not corruption_cell(key[0]) and key[1] not in BESIDE]


def beside_keys(cards: Iterable[Card]) -> list[Key]:
    """Class means and calibration errors, set by set."""
    return [key for key in dict.fromkeys(key for card in cards for key in card.rows) if key[1] in BESIDE]


def paper_keys(cards: Sequence[Card]) -> list[Key]:
    """The columns of the paper that are there; the mean accuracy on C where there is no mCE."""
    found = keys_of(cards)
    plain = [(without_set(suite)[0], metric) for suite, metric in found]
    wanted = [C_ACCURACY if key == ("c", "mce") and key not in plain else key for key in PAPER]
    ordered = [variant for suite, metric in wanted for variant in ((suite, metric), (suite + GENERATED, metric))]
    return [key for variant in ordered for key, bare in zip(found, plain, strict=True) if bare == variant]


def other_keys(cards: Sequence[Card]) -> list[Key]:
    """Everything else, the sets of the paper first."""
    shown = paper_keys(cards)
    order = [suite for suite, _ in PAPER]
    rest = [key for key in keys_of(cards) if key not in shown]
    plain = {key: without_set(key[0])[0] for key in rest}
    return sorted(rest, key=lambda key: order.index(plain[key]) if plain[key] in order else len(order))


def key_title(key: Key) -> str:
    """Heading of a number: `C mCE ↓`, with the name of the pictures where there are several."""
    (suite, pictures), metric = without_set(key[0]), key[1]
    base, named = suite.removesuffix(GENERATED), f" ({pictures})" * bool(pictures)
    if metric == "accuracy" and base in SETS:
        return f"{TITLES[base]} accuracy{named}"
    return f"{TITLES.get(base, suite_title(base))} {METRIC_TITLES.get(metric, metric.replace('_', ' '))}".strip() + named


def set_title(suite: str) -> str:
    """The name of a set of corruptions."""
    plain, pictures = without_set(suite)
    return TITLES.get(plain.removesuffix(GENERATED), plain) + f" ({pictures})" * bool(pictures)


def rows_of(cards: Iterable[Card], key: Key) -> dict[str, Row]:
    """The rows of one number, by model."""
    return {card.title: card.rows[key] for card in cards if key in card.rows}


def is_mixed(cards: Iterable[Card], key: Key) -> bool:
    """Whether the models were not measured alike."""
    first, *others = [conditions(row) for row in rows_of(cards, key).values()]
    return any(other != first for other in others)


def key_column(cards: Sequence[Card], key: Key) -> Column:
    """Heading of a column, with n, and whether its pictures were made here, or differ between the models."""
    rows = rows_of(cards, key).values()
    counts = sorted({row.n for row in rows})
    generated = ["generated"] * any(
        bool(row.protocol.get("generated")) or without_set(row.suite)[0] in (f"c{GENERATED}", f"stylized{GENERATED}")
        for row in rows
    )
    words = [*generated, *["not alike"] * is_mixed(cards, key), *[f"n {count:,}" for count in counts]]
    return Column(key_title(key), ", ".join(words))


def interval_text(interval: tuple[float, float] | None, *, signed: bool = False) -> str:
    """`[75.76, 76.50]`."""
    if interval is None:
        return "[no interval]"
    return f"[{', '.join(number(end, decimals=2, signed=signed) for end in interval)}]"


def row_cell(row: Row | None) -> Cell:
    """A number with its interval."""
    return (
        ABSENT
        if row is None
        else Cell(number(row.value, decimals=2), interval_text(row.ci), estimate=Estimate(row.value, row.ci, 1, row.n, (row,)))
    )


def numbers_table(cards: Sequence[Card], keys: Sequence[Key], *, name: str, caption: str) -> Table:
    """Models by numbers."""
    lines = [Line(card.title, tuple(row_cell(card.rows.get(key)) for key in keys), card.title) for card in cards]
    return Table(
        name=name,
        caption=f"{caption} In brackets: 95 % intervals.",
        corner="Model",
        columns=tuple(key_column(cards, key) for key in keys),
        lines=tuple(lines),
        notes=(ARROW,) * any(metric in LOWER for _, metric in keys),
    )


def transposed(table: Table) -> Table:
    """Numbers by models, which is narrow enough for a terminal."""
    lines = [
        Line(
            f"{column.title} ({column.detail})" if column.detail else column.title,
            tuple(line.cells[place] for line in table.lines),
        )
        for place, column in enumerate(table.columns)
    ]
    columns = tuple(Column(line.title) for line in table.lines)
    return replace(table, corner="", columns=columns, lines=tuple(lines))


# Corruptions.


def sets_of(cards: Iterable[Card]) -> list[str]:
    """Sets of corruptions of which there are cells."""
    return list(dict.fromkeys(key[0] for card in cards for suite, _ in card.rows if (key := corruption_cell(suite))))


def corruption_error(card: Card, suite: str, corruption: str, severities: Sequence[int], metric: str) -> Estimate | None:
    """Error in percent on a corruption, the mean over severities; None where one of them is missing.

    The interval is Student's over the pictures, each with its mean over the severities: these show the same pictures.
    """
    cells = [card.rows.get((f"{suite}/{corruption}/{severity}", metric)) for severity in severities]
    rows = [row for row in cells if row is not None]
    if len(rows) < len(severities):
        return None
    value = 100 - float(np.mean([row.value for row in rows]))
    counted = [card.scores(row) for row in rows]
    paired = all(np.array_equal(scores.positions, counted[0].positions) for scores in counted)
    per_picture = 100 - np.mean([scores.values for scores in counted], axis=0) if paired else np.zeros(0)
    interval = picture_interval(per_picture, bounds=PERCENT) if paired else None
    return Estimate(value, interval, 1, min(row.n for row in rows), tuple(rows))


def error_cell(value: Estimate | None) -> Cell:
    """An error with its interval."""
    return ABSENT if value is None else Cell(number(value.mean, decimals=2), interval_text(value.interval), estimate=value)


def errors_table(cards: Sequence[Card], suite: str, metric: str = "accuracy") -> Table:
    """Corruptions by models; `metric` is the accuracy whose errors are shown."""
    cells = [key for card in cards for cell, _ in card.rows if (key := corruption_cell(cell)) and key[0] == suite]
    severities = sorted({severity for *_, severity in cells})
    lines = []
    counts: set[int] = set()
    for group, members in grouped([name for _, name, _ in cells]).items():
        for name in members:
            found = [corruption_error(card, suite, name, severities, metric) for card in cards]
            counts |= {value.n for value in found if value}
            lines.append(Line(suite_title(f"c/{name}"), tuple(map(error_cell, found)), group=group))
    n, named = " or ".join(f"{count:,}" for count in sorted(counts)) or "no", f"{set_title(suite)} {METRIC_TITLES[metric]}"
    return Table(
        name=f"errors-{suite}" + f"-{metric}" * (metric != "accuracy"),
        caption=f"Error in percent on each corruption of {named.strip()}, the mean over "
        f"{severities_words(severities)} ({n} pictures at each). Less is better. In brackets: 95 % intervals over pictures.",
        corner="Corruption",
        columns=tuple(Column(card.title, method=card.title) for card in cards),
        lines=tuple(lines),
    )


def severities_words(severities: Sequence[int]) -> str:
    """Which severities a mean is over."""
    if tuple(severities) == SEVERITIES:
        return "five severities"
    return f"severit{'y' if len(severities) == 1 else 'ies'} {', '.join(map(str, severities))}"


def severity_comparison(cards: Sequence[Card], suite: str, metric: str = "accuracy") -> Comparison:
    """What the curves against severity are drawn of; accuracy on the clean pictures is severity 0. `metric`: which one.

    Raises:
        DataError: there is no accuracy to draw.
    """
    plain, pictures = without_set(suite)
    clean, same = of_set("clean", pictures), of_set(clean_beside(plain), pictures)
    cells = {cell: cell.replace(suite, "c", 1) for cell in cells_of(cards, suite)}
    renamed = {**cells, suite: "c", clean: "clean", same: CLEAN_OF_C}
    rows = [
        replace(row, suite=renamed[name], method=card.title, seed=None, metric="accuracy")
        for card in cards
        for (name, counted), row in card.rows.items()
        if name in renamed and counted == metric
    ]
    return comparison_table(rows, mixed=True)


def cells_of(cards: Iterable[Card], suite: str) -> list[str]:
    """Names of the cells of a set that count for its mean."""
    return list(members_of(suite, dict.fromkeys(name for card in cards for name, _ in card.rows)).values())


# Differences.


def difference(first: Card, second: Card, key: Key) -> Difference | str:
    """By how much the first model's number is above the second's, or why that cannot be said."""
    if key not in first.rows or key not in second.rows:
        return "not measured of both models"
    try:
        return paired_difference(first.scores(first.rows[key]), second.scores(second.rows[key]))
    except UsageError as error:
        return str(error)


def difference_cell(found: Difference | str, rows: Iterable[Row] = ()) -> Cell:
    """A signed difference, of which rows; marked where its interval excludes 0."""
    if isinstance(found, str):
        return ABSENT
    return Cell(
        number(found.value, decimals=2, signed=True),
        interval_text(found.ci, signed=True),
        "" if found.is_open else "best",
        estimate=Estimate(found.value, found.ci, 1, found.n, tuple(rows)),
    )


def differences_table(cards: Sequence[Card], keys: Sequence[Key]) -> Table:
    """Every other model minus the first, on the same pictures."""
    first, *others = cards
    found = {(card.title, key): difference(card, first, key) for card in others for key in keys}
    lines = [
        Line(
            card.title,
            tuple(difference_cell(found[card.title, key], rows_of((card, first), key).values()) for key in keys),
            card.title,
        )
        for card in others
    ]
    why = dict.fromkeys(f"{key_title(key)}: {text}" for (_, key), text in found.items() if isinstance(text, str))
    return Table(
        name="differences",
        caption=f"Each model minus {first.title}, in points, paired by picture. In brackets: 95 % intervals.",
        corner="Model",
        columns=tuple(key_column(cards, key) for key in keys),
        lines=tuple(lines),
        notes=("Bold: the interval excludes 0; not corrected for the number of comparisons.", *_arrow(keys), *why),
    )


def _arrow(keys: Sequence[Key]) -> tuple[str, ...]:
    return ("↓: less is better, so a difference below 0 is a gain.",) * any(metric in LOWER for _, metric in keys)


def verdicts(cards: Sequence[Card], keys: Sequence[Key]) -> list[str]:
    """For each model but the first: where it is better, where it is worse, and where that stays open."""
    return [verdict(card, cards[0], keys) for card in cards[1:]]


def verdict(card: Card, first: Card, keys: Sequence[Key]) -> str:
    """One model against the first, by paired intervals; no claim where one holds 0."""
    places: dict[str, list[str]] = {"better": [], "worse": [], "cannot be told apart": [], "not compared": []}
    for key in keys:
        found = difference(card, first, key)
        if isinstance(found, str):
            side = "not compared"
        elif found.is_open:
            side = "cannot be told apart"
        else:
            side = "better" if (found.value < 0) == (key[1] in LOWER) else "worse"
        places[side].append(key_title(key))
    clauses = [f"{side} on {', '.join(names)}" for side, names in places.items() if names]
    return f"{card.title} against {first.title}, on the same pictures: {'; '.join(clauses)}."


# How each number was measured.


def protocols(cards: Sequence[Card]) -> dict[str, str]:
    """How each number was measured, in words; where models differ, in what."""
    return {f"{key_title(key)}{_made(cards, key)}": protocol_text(cards, key) for key in keys_of(cards)}


def _made(cards: Sequence[Card], key: Key) -> str:
    return " (generated)" if key_column(cards, key).detail.startswith("generated") else ""


def protocol_text(cards: Sequence[Card], key: Key) -> str:
    """What the models share of a protocol, then what is one's own."""
    rows = rows_of(cards, key)
    first, *others = [settings(row) for row in rows.values()]
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    own = {title: differing(shared, settings(row))[1] for title, row in rows.items()}
    parts = [in_words(shared), *(f"{title}: {in_words(values)}" for title, values in own.items() if values)]
    return "; ".join(parts)


def settings(row: Row) -> dict[str, object]:
    """A protocol with what else a reader asks for: counts, what could not be read, and the kind of interval."""
    kind = {INTERVAL: "Wilson"} if row.ci is not None else {}
    return {"n": row.n, "bad": 0, **kind, **row.protocol}


def in_words(protocol: Mapping[str, object]) -> str:
    """`resize 256, epsilon 1/255, generated, not masked`."""
    return ", ".join(setting_words(name, value) for name, value in protocol.items())


def setting_words(name: str, value: object) -> str:
    """One entry of a protocol."""
    words = name.replace("_", " ")
    if name.endswith("_255"):
        return f"{words.removesuffix(' 255')} {number_words(value)}/255"
    if name == "data":
        return f"list of pictures {value}"
    if name == "bad":
        return f"{value} pictures unreadable"
    if isinstance(value, bool):
        return words if value else f"not {words}"
    if value is None:
        return f"no {words}"
    if isinstance(value, Mapping):
        return f"{words} ({in_words(value)})"
    return f"{words} {number_words(value)}"


def number_words(value: object) -> str:
    """A value as text; numbers to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(map(number_words, value))
    return str(value)
