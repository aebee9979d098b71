"""The page of evaluations of detectors: COCO's numbers with intervals over pictures, one detector or several side by side.

Reads files only, as the page of classifiers does. A detector that was measured on several sets has a line for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from dat.errors import DataError
from dat.evaluation.intervals import Scores
from dat.evaluation.robustness import corruption_cell
from dat.evaluation.suites import SEVERITIES
from dat.report.page import Facts, read_facts
from dat.report.scorecard.page import ScorePage, alarms_in, made_by, notes_of, origin, write_page
from dat.report.scorecard.rows import Card, Key, cards_of, in_words, numbers_table, row_cell, settings
from dat.report.tables import ABSENT, Cell, Column, Line, Table, grouped, number, suite_title
from dat.results import EVALUATION, RESULTS, SET, Row, differing, read_rows

COLUMNS: dict[Key, str] = {
    ("clean", "ap"): "AP",
    ("clean", "ap50"): "AP50",
    ("clean", "ap75"): "AP75",
    ("fgsm", "ap"): "FGSM, AP",
    ("fgsm", "ap50"): "FGSM, AP50",
    ("pgd", "ap"): "PGD, AP",
    ("pgd", "ap50"): "PGD, AP50",
    ("c", "ap_clean"): "AP of those corrupted",
    ("c", "mpc"): "mPC",
    ("c", "rpc"): "rPC",
    ("coco-o", "ap"): "COCO-O, AP",
}
FURTHER = {
    "ap_small": "AP, small",
    "ap_medium": "AP, medium",
    "ap_large": "AP, large",
    "ar1": "AR, 1 box a class",
    "ar10": "AR, 10 boxes a class",
    "ar100": "AR, 100 boxes a class",
    "ar_small": "AR, small",
    "ar_medium": "AR, medium",
    "ar_large": "AR, large",
}
"""The others of COCO's twelve, on clean pictures; AR is the mean recall with so many boxes of each class in a picture."""
WORDS = (
    "AP: COCO's average precision, mean over overlaps from 0.50 to 0.95, in percent; AP50 and AP75: at one overlap. mPC: mean "
    "AP over the corruptions, which are made here, of the pictures of the number before it; rPC: its percentage of these "
    "pictures' clean AP."
)
PROTOCOL_TITLES = {"clean": "Clean", "fgsm": "FGSM", "pgd": "PGD", "c": "Corruptions", "coco-o": "COCO-O"}
OF_CLASS, COCO_O = "ap/", "coco-o"


def write_boxes_scorecard(folders: Sequence[Path], *, mixed: bool = False) -> tuple[str, Path]:
    """Write the page of evaluations of detectors, and give its tables as plain text, and its path.

    Of one folder it is `report.md` and `report.html`, of several `comparison.md` and `comparison.html` in the first.

    Raises:
        DataError: a folder holds no results, or a file of it is damaged.
        UsageError: the detectors were not measured alike, and `mixed` does not allow that.
    """
    return write_page(gather(folders, mixed=mixed), folders)


def gather(folders: Sequence[Path], *, mixed: bool = False) -> ScorePage:
    """Everything that the page will show.

    Raises:
        DataError, UsageError: as `write_boxes_scorecard`.
    """
    facts = [read_facts(folder / EVALUATION) for folder in folders]
    of_folders = [cards_in(folder, known) for folder, known in zip(folders, facts, strict=True)]
    owned = [(card, known) for found, known in zip(of_folders, facts, strict=True) for card in found]
    if not mixed:
        refuse_unlike(of_folders)
    cards = cards_of([card for card, _ in owned], mixed=True)
    models = ", ".join(dict.fromkeys(str(known.get("name", folder.name)) for folder, known in zip(folders, facts, strict=True)))
    return ScorePage(
        title=models,
        subtitle=f"Robustness evaluation of {len(folders)} detector{'s' * (len(folders) != 1)}",
        models=tuple(card.title for card in cards),
        reading=(WORDS,),
        tables={table.name: table for table in tables_of(cards)},
        plots={},
        notes=tuple(notes_of(cards[: len(facts)], facts)),
        provenance={card.title: origin(card, known) for card, (_, known) in zip(cards, owned, strict=True)} | made_by(),
        protocols=protocols(cards),
        alarms=tuple(alarms_in(folders, facts)),
        left_out=(),
    )


def refuse_unlike(of_folders: Sequence[Sequence[Card]]) -> None:
    """Of detectors; what one was measured on twice, on two sets, is compared with others on the same set only.

    Raises:
        UsageError: rows of one suite were measured in different ways.
    """
    if all(len(cards) == 1 for cards in of_folders):
        cards_of([card for cards in of_folders for card in cards])
        return
    by_set: dict[object, list[Card]] = {}
    for card in (card for cards in of_folders for card in cards):
        by_set.setdefault(next(iter(card.rows.values())).protocol.get(SET), []).append(card)
    for cards in by_set.values():
        cards_of(cards)


def cards_in(folder: Path, facts: Facts) -> list[Card]:
    """What a folder holds of its detector, by the set that it was measured on; COCO-O stands beside the first.

    Raises:
        DataError: there are no results, or a line of them is damaged.
    """
    rows = read_rows(folder / RESULTS)
    if not rows:
        raise DataError(f"{folder / RESULTS} holds no numbers; evaluate again.")
    sets = dict.fromkeys(str(row.protocol.get(SET, "")) for row in rows if not row.suite.startswith("coco-o")) or {
        "coco-o": None
    }
    name = str(facts.get("name") or rows[0].method)
    cards = []
    for place, pictures in enumerate(sets):
        here = [row for row in rows if row.protocol.get(SET) == pictures or (not place and row.suite.startswith(COCO_O))]
        title = f"{name}, {pictures}" if len(sets) > 1 else name
        cards.append(Card(title, {(row.suite, row.metric): row for row in here}, _no_scores))
    return cards


def _no_scores(row: Row) -> Scores:
    raise NotImplementedError(f"{row.metric} is no mean over pictures")


def tables_of(cards: Sequence[Card]) -> list[Table]:
    """Every table that the rows support, in reading order."""
    further = {("clean", metric): title for metric, title in FURTHER.items()}
    domains = {(suite, "ap"): suite.partition("/")[2] for suite in _suites(cards) if suite.startswith(f"{COCO_O}/")}
    found = [
        _table(cards, COLUMNS, "scorecard", "Average precision of detections in percent."),
        _table(cards, _classes(cards), "parts-classes", "AP by class, in percent, on clean pictures."),
        _table(cards, further, "parts-sizes", "AP by the size of the things, and recall, in percent, on clean pictures."),
        _table(cards, domains, "parts-domains", "AP by domain of COCO-O, in percent."),
        corruptions_table(cards),
    ]
    return [table for table in found if table is not None]


def _suites(cards: Sequence[Card]) -> list[str]:
    return list(dict.fromkeys(suite for card in cards for suite, _ in card.rows))


def _classes(cards: Sequence[Card]) -> dict[Key, str]:
    metrics = dict.fromkeys(metric for card in cards for suite, metric in card.rows if suite == "clean")
    return {("clean", metric): metric.removeprefix(OF_CLASS) for metric in metrics if metric.startswith(OF_CLASS)}


def _table(cards: Sequence[Card], titles: Mapping[Key, str], name: str, caption: str) -> Table | None:
    """Detectors by those of the numbers that are there; None without one."""
    keys = [key for key in titles if any(key in card.rows for card in cards)]
    if not keys:
        return None
    counts = {key: sorted({card.rows[key].n for card in cards if key in card.rows}) for key in keys}
    columns = tuple(Column(titles[key], ", ".join(f"n {count:,}" for count in counts[key])) for key in keys)
    return replace(numbers_table(cards, keys, name=name, caption=caption), corner="Detector", columns=columns)


def corruptions_table(cards: Sequence[Card]) -> Table | None:
    """Corruptions by detectors: mean AP over the severities that were measured."""
    cells = {suite: found for suite in _suites(cards) if (found := corruption_cell(suite)) is not None}
    names = list(dict.fromkeys(name for _, name, _ in cells.values()))
    if not names:
        return None
    severities = sorted({severity for *_, severity in cells.values()})
    lines = [
        Line(suite_title(f"c/{name}"), tuple(_mean_cell(card, name, severities) for card in cards), group=group)
        for group, members in grouped(names).items()
        for name in members
    ]
    which = "the five severities" if tuple(severities) == SEVERITIES else f"severities {', '.join(map(str, severities))}"
    columns = tuple(Column(card.title, method=card.title) for card in cards)
    return Table(
        "parts-corruptions", f"AP in percent on each corruption, the mean over {which}.", "Corruption", columns, tuple(lines)
    )


def _mean_cell(card: Card, corruption: str, severities: Sequence[int]) -> Cell:
    rows = [card.rows.get((f"c/{corruption}/{severity}", "ap")) for severity in severities]
    there = [row for row in rows if row is not None]
    if len(there) == 1 and len(severities) == 1:
        return row_cell(there[0])
    mean = number(fmean(row.value for row in there), decimals=2) if there else ""
    return Cell(mean, quoted=tuple(there)) if len(there) == len(severities) else ABSENT


def protocols(cards: Sequence[Card]) -> dict[str, str]:
    """How each suite was measured; where detectors differ, in what."""
    keys = {suite: key for key in reversed(COLUMNS) if any(key in card.rows for card in cards) for suite in (key[0],)}
    return {
        PROTOCOL_TITLES[suite]: _protocol_text({card.title: settings(card.rows[key]) for card in cards if key in card.rows})
        for suite, key in reversed(keys.items())
    }


def _protocol_text(of_cards: Mapping[str, dict[str, object]]) -> str:
    first, *others = [{key: value for key, value in made.items() if key != "bad"} for made in of_cards.values()]
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    own = {title: differing(shared, {k: v for k, v in made.items() if k != "bad"})[1] for title, made in of_cards.items()}
    return "; ".join([in_words(shared), *(f"{title}: {in_words(values)}" for title, values in own.items() if values)])
