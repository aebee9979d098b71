"""Evaluation folders to one page: in the terminal, as Markdown, and as HTML that needs nothing outside itself.

Reads files only. What a folder does not hold is left out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from dat.errors import DataError
from dat.evaluation import store
from dat.evaluation.mistakes import BINS, CLASS_MEAN
from dat.evaluation.right import Model
from dat.report import figures
from dat.report.answered import Clean, Said
from dat.report.formats import TABLES, markdown_table, write_tables
from dat.report.mistakes import SetOfMistakes
from dat.report.origins import Origins, spelled
from dat.report.page import (
    Facts,
    Plot,
    alarm_list,
    alarms_of,
    attempt,
    definition_list,
    draw,
    mistakes_of,
    read_facts,
    render,
    section,
    tell,
)
from dat.report.scorecard.predicted import Predicted, named_by_set
from dat.report.scorecard.rows import (
    ARROW,
    METRIC_TITLES,
    Card,
    Key,
    beside_keys,
    cards_of,
    differences_table,
    errors_table,
    key_column,
    key_title,
    numbers_table,
    other_keys,
    paper_keys,
    protocols,
    set_title,
    sets_of,
    severity_comparison,
    transposed,
    verdicts,
)
from dat.report.tables import Estimate, Table, method_title, plain_table
from dat.results import EVALUATION, RESULTS, SET, Row, read_rows, without_set, write_text
from dat.version import __version__

PANELS = 5
"""Panels of a figure that stand in one row."""


@dataclass(frozen=True)
class ScorePage:
    """All that a page shows."""

    title: str
    subtitle: str
    models: tuple[str, ...]
    reading: tuple[str, ...]
    tables: dict[str, Table]
    plots: dict[str, Plot]
    notes: tuple[str, ...]
    provenance: dict[str, str]
    protocols: dict[str, str]
    alarms: tuple[str, ...]
    left_out: tuple[str, ...]
    mistakes: tuple[SetOfMistakes, ...] = ()


def write_scorecard(folders: Sequence[Path], *, mixed: bool = False) -> tuple[str, Path]:
    """Write the page of evaluation folders, and give its tables as plain text, and its path.

    Of one folder it is `report.md` and `report.html`, of several `comparison.md` and `comparison.html` in the first.

    Raises:
        DataError: a folder holds no results, or a file of it is damaged.
        UsageError: the models were not measured alike, and `mixed` does not allow that.
    """
    return write_page(gather(folders, mixed=mixed), folders)


def write_page(page: ScorePage, folders: Sequence[Path]) -> tuple[str, Path]:
    """Write a page into the first of the folders that it is of; its tables as plain text, and its path."""
    tell(page.alarms)
    name = "report" if len(folders) == 1 else "comparison"
    found = write_tables(folders[0] / tables_of(name), page.tables.values())
    page = replace(page, provenance={**page.provenance, **found})
    write_text(folders[0] / f"{name}.md", markdown_page(page, name))
    path = folders[0] / f"{name}.html"
    write_text(path, html_page(page, name))
    return terminal_page(page), path


def tables_of(name: str) -> str:
    """The folder of the tables of a page, which is another for a comparison than for the model in whose folder it stands."""
    return TABLES if name == "report" else f"{name}-{TABLES}"


def gather(folders: Sequence[Path], *, mixed: bool = False) -> ScorePage:
    """Everything that the page will show.

    Raises:
        DataError, UsageError: as `write_scorecard`.
    """
    facts = [read_facts(folder / EVALUATION) for folder in folders]
    named = any(has_several_sets(folder) for folder in folders)
    cards = [read_card(folder, known, named=named) for folder, known in zip(folders, facts, strict=True)]
    cards = cards_of(cards, mixed=mixed)
    keys, left_out = paper_keys(cards), list[str]()
    plots = [
        attempt("The figure of all numbers", partial(numbers_plot, cards), left_out),
        *(
            attempt(f"Accuracy against severity on {name}", partial(severity_plot, cards, name), left_out)
            for name in sets_of(cards)
        ),
    ]
    said, titles = answered_sets(folders, cards, left_out), tuple(card.title for card in cards)
    wrong = mistakes_of(said, titles, {}, left_out, clean_of(cards))
    return ScorePage(
        title=", ".join(card.title for card in cards),
        subtitle=f"Robustness evaluation of {len(cards)} model{'s' * (len(cards) != 1)}",
        models=titles,
        reading=tuple(verdicts(cards, [*keys, *other_keys(cards)])),
        tables={table.name: table for table in (*all_tables(cards), *wrong.tables)},
        plots={plot.name: plot for plot in (*plots, *wrong.plots) if plot},
        notes=tuple(notes_of(cards, facts)),
        provenance={card.title: origin(card, known) for card, known in zip(cards, facts, strict=True)} | made_by(),
        protocols=protocols(cards),
        alarms=tuple(alarms_in(folders, facts)),
        left_out=tuple(left_out),
        mistakes=wrong.sets,
    )


def alarms_in(folders: Sequence[Path], facts: Sequence[Facts]) -> list[str]:
    """What of the folders is not as it was written."""
    return [said for folder, known in zip(folders, facts, strict=True) for said in alarms_of(folder, known, EVALUATION)]


def answered_sets(folders: Sequence[Path], cards: Sequence[Card], left_out: list[str]) -> Said:
    """What each model said of the whole sets that were shown as they are, by the title of the set and by model."""
    found: Said = {}
    for folder, card in zip(folders, cards, strict=True):
        for suite, metric in card.rows:
            if metric == CLASS_MEAN:
                place = (without_set(suite)[0], str(card.rows[suite, metric].protocol.get(SET, "")))
                title = key_title((suite, "accuracy"))
                said = attempt(f"Mistakes on {title}", partial(store.read_answered, folder, *place), left_out)
                found.setdefault(title, {}).update({} if said is None else {(card.title, 0): said})
    return {title: models for title, models in found.items() if models}


def clean_of(cards: Sequence[Card]) -> dict[str, Clean]:
    """The rows of the accuracies on these sets, by the title of the set and by model."""
    found: dict[str, dict[Model, Row]] = {}
    for card in cards:
        for suite, metric in card.rows:
            if metric == CLASS_MEAN and (row := card.rows.get((suite, "accuracy"))):
                found.setdefault(key_title((suite, "accuracy")), {})[card.title, 0] = replace(row, method=card.title)
    return dict(found)


def all_tables(cards: Sequence[Card]) -> list[Table]:
    """Every table that the rows support, in reading order."""
    keys, others = paper_keys(cards), other_keys(cards)
    tables = [numbers_table(cards, keys, name="scorecard", caption="The columns of the paper's tables.")] * bool(keys)
    tables += [numbers_table(cards, others, name="further", caption="What else was measured.")] * bool(others)
    tables += [differences_table(cards, [*keys, *others])] * (len(cards) > 1)
    beside = beside_keys(cards)
    tables += [numbers_table(cards, beside, name="balance", caption=BALANCE)] * bool(beside)
    return tables + [errors_table(cards, name) for name in sets_of(cards)]


BALANCE = (
    "Beside the accuracy: its mean over the classes, each counting alike, and the expected calibration error, by how much a "
    f"model is surer or less sure than right ({BINS} bins)."
)

# Folders.


def has_several_sets(folder: Path) -> bool:
    """Whether a number is there on several sets, so that each must name its own.

    Raises:
        DataError: as `read_card`.
    """
    sets: dict[Key, set[object]] = {}
    for row in read_rows(folder / RESULTS):
        sets.setdefault((row.suite, row.metric), set()).add(row.protocol.get(SET))
    return any(len(found) > 1 for found in sets.values())


def read_card(folder: Path, facts: Facts, *, named: bool = False) -> Card:
    """What a folder holds of its model; predictions are read when they are asked for. `named`: suites say their set.

    Raises:
        DataError: there are no results, a line of them is damaged, or a number is there twice.
    """
    rows: dict[Key, Row] = {}
    for row in named_by_set(read_rows(folder / RESULTS)) if named else read_rows(folder / RESULTS):
        if rows.setdefault((row.suite, row.metric), row) is not row:
            raise DataError(f"{folder / RESULTS} holds {row.metric} of {row.suite!r} twice; evaluate again into a new folder.")
    if not rows:
        raise DataError(f"{folder / RESULTS} holds no numbers; evaluate again.")
    title = str(facts.get("name") or next(iter(rows.values())).method)
    return Card(title, rows, Predicted(folder, rows).scores)


def notes_of(cards: Sequence[Card], facts: Sequence[Facts]) -> list[str]:
    """What the evaluations say of numbers that are not there; with the model's name where there are several."""
    found = [
        (card.title, notes) for card, known in zip(cards, facts, strict=True) if isinstance(notes := known.get("notes"), list)
    ]
    return [f"{title}: {note}" if len(cards) > 1 else str(note) for title, notes in found for note in notes]


def origin(card: Card, facts: Facts) -> str:
    """Weights, versions and machine of an evaluation."""
    row = next(iter(card.rows.values()))
    seconds = facts.get("seconds")
    known = {
        "checkpoint SHA-256": row.checkpoint or str(facts.get("checkpoint", "")),
        "seed": "" if row.seed is None else str(row.seed),
        "recipe hash": row.recipe_hash,
        "versions": spelled(section(facts, "versions") or row.versions),
        "machine": str(facts.get("machine", "")),
        "seconds": spelled(seconds) if isinstance(seconds, dict) else str(seconds or ""),
    }
    return "; ".join(f"{name} {text}" for name, text in known.items() if text)


def made_by() -> dict[str, str]:
    """What made the page."""
    return {"Page": f"made by dat {__version__} from {RESULTS} and the predictions beside it"}


# Figures.


def numbers_plot(cards: Sequence[Card]) -> Plot:
    """All numbers with their intervals."""
    keys = paper_keys(cards)
    if not keys:
        raise DataError("No column of the paper was measured.")
    return Plot("numbers", svg(cards, numbers_figure(cards, keys), "numbers"), f"{NUMBERS_CAPTION} {arrow(keys)}".strip())


NUMBERS_CAPTION = (
    "The columns of the paper's tables with 95 % intervals over pictures. Each panel has its own axis, which does not "
    "begin at 0, and its own scale."
)


def arrow(keys: Sequence[Key]) -> str:
    """What the arrow says, where one stands."""
    return ARROW if any("↓" in key_title(key) for key in keys) else ""


def svg(cards: Sequence[Card], figure: Figure, name: str) -> str:
    """A figure of the models as an element of the page."""
    return figures.svg_text(figure, name=name, label=f"figure: {name}", methods=[card.title for card in cards])


@mpl.rc_context(figures.STYLE)
def numbers_figure(cards: Sequence[Card], keys: Sequence[Key]) -> Figure:
    """One panel per number: every model's with its interval."""
    columns, lines = min(PANELS, len(keys)), -(-len(keys) // PANELS)
    figure = Figure(figsize=(9.0, lines * (0.75 + 0.3 * len(cards)) + 0.2), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for panel, key in zip(axes, keys, strict=False):
        for place, (card, look) in enumerate(zip(cards, figures.looks([card.title for card in cards]).values(), strict=True)):
            if row := card.rows.get(key):
                figures.draw_interval(panel, Estimate(row.value, row.ci, 1, row.n), float(place), look)
        title = key_column(cards, key)
        panel.set_title(f"{title.title}{', generated' * title.detail.startswith('generated')}", loc="left", fontweight="bold")
        panel.grid(axis="y", visible=False)
        panel.margins(x=0.12)
    axes[0].set_yticks(range(len(cards)), [method_title(card.title) for card in cards])
    axes[0].set_ylim(len(cards) - 0.45, -0.55)
    for panel in axes[len(keys) :]:
        panel.set_visible(False)
    return figure


def severity_plot(cards: Sequence[Card], suite: str, metric: str = "accuracy") -> Plot:
    """Accuracy against severity, over all corruptions of a set and in each group; `metric`: which accuracy."""
    comparison = severity_comparison(cards, suite, metric)
    if not comparison.corruptions:
        raise DataError("Only extra corruptions were evaluated.")
    by = f" {METRIC_TITLES[metric]}" * (metric != "accuracy")
    return draw(
        comparison,
        f"severity-{suite}" + f"-{metric}" * (metric != "accuracy"),
        figures.severity_figure(comparison),
        f"Accuracy{by} against the severity of the corruption on {set_title(suite)}, over all corruptions and in each "
        "group. Severity 0: the same pictures as they are, where that was measured. Marks are set slightly apart; intervals "
        "are in the tables.",
    )


# The pages.


def terminal_page(page: ScorePage) -> str:
    """The tables as plain text, numbers by models, then what is worth a sentence."""
    upright = ("errors", "parts-corruptions")
    shown = {name: table for name, table in page.tables.items() if not name.startswith("worst")}  # long, and on the page
    tables = [table if name.startswith(upright) else transposed(table) for name, table in shown.items()]
    return "\n\n".join([*map(plain_table, tables), "\n".join([*page.reading, *page.notes])]).rstrip()


def markdown_page(page: ScorePage, name: str) -> str:
    """The tables in GitHub Markdown; the figures, where there are some, are on the other page."""
    parts = [f"# {page.title}", page.subtitle, *alarm_list(page.alarms)]
    parts += ["\n".join(f"- {text}" for text in (*page.reading, *page.notes))]
    parts += ["## Tables", *map(markdown_table, page.tables.values())]
    parts += [f"The figures are in [{name}.html]({name}.html)."] * bool(page.plots)
    parts += ["## How each number was measured", definition_list(page.protocols)]
    parts += ["## Where the numbers come from", definition_list(page.provenance)]
    parts += ["Left out:\n\n" + "\n".join(f"- {text}" for text in page.left_out)] * bool(page.left_out)
    return "\n\n".join(filter(None, parts)) + "\n"


def html_page(page: ScorePage, name: str) -> str:
    """The page: styles and figures inside, one script, no address outside."""
    colours = figures.method_colours(page.models).values()
    return render(
        "scorecard.html.j2",
        report=page,
        name=name,
        tables=tables_of(name),
        origins=Origins([*page.tables.values()]),
        order={model: index for index, model in enumerate(page.models)},
        light=[light for light, _ in colours],
        dark=[dark for _, dark in colours],
    )
