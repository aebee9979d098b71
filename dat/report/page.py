"""One run folder to one page: `report.html`, which needs nothing outside itself, and `report.md`.

Reads files only. What a run does not hold is left out, and the page says so.
"""

from __future__ import annotations

import base64
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from matplotlib.figure import Figure

from dat.errors import DataError, UsageError
from dat.evaluation.mistakes import CLASS_MEAN, Answered
from dat.evaluation.right import Kept, Model
from dat.report import figures
from dat.report.answered import Clean, Said, clean_rows, kept_answers, right_of, said_of, unused_answers
from dat.report.boxed_pictures import BoxedPictures
from dat.report.formats import TABLES, markdown_table, write_tables
from dat.report.heat import class_heat, corruption_heat
from dat.report.later import later_table
from dat.report.mistakes import (
    CHOSEN,
    WHOLE,
    SetOfMistakes,
    Strip,
    balance_table,
    confusion_figure,
    over_seeds,
    panels_of,
    read_strips,
    reliability_figure,
    worst_table,
)
from dat.report.origins import Origins, shared, short, spelled
from dat.report.paper import paper_table
from dat.report.reading import opening, sentences
from dat.report.tables import (
    BASELINE,
    Comparison,
    Table,
    accuracy_table,
    all_tables,
    comparison_table,
    method_title,
    plain_table,
    seeds_text,
    spread_words,
    suite_title,
)
from dat.report.trade_figure import costs_of, trade_figures
from dat.results import (
    LATER_MISTAKES,
    MISTAKES,
    RESULTS,
    RUN,
    SET,
    Row,
    altered,
    from_json,
    of_set,
    read_rows,
    write_text,
)
from dat.version import __version__

Part = TypeVar("Part")
Facts = dict[str, object]

ALARMED = "Not as it was written"
"""Heading of the alarms."""
KNOWN = {"kind", "name", "recipe_hash", "methods"}
"""Some of these is in the facts of every run and evaluation."""

PARTS_OF_A_SET = "worst", "by-class", "confusion", "reliability"
"""Tables and figures of what went wrong on a test set."""
PROTOCOL_TITLES = {
    "c": "Corruptions (mean)",
    "codes": "Codes changed",
    "codes/random": "Codes changed by a random step",
    "words/reconstruction": "Loss at Q(x)",
    "words/adversarial": "Loss at Q(x + delta)",
    "words/random": "Loss after a random step",
    "cost": "Cost per step",
}
DISCRETIZER_WORDS = {
    "codebook_size": "codes in the codebook",
    "stride": "pixels along a code",
    "codes_used": "share of codes used",
    "perplexity": "perplexity of the codes",
    "psnr_db": "PSNR of the mean error in dB",
    "perceptual": "perceptual distance",
}


@dataclass(frozen=True)
class Plot:
    """A figure of the page: SVG text and caption."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures as PNG data addresses, each with words below it, under headings; a caption.

    `stops`: so many of a row are views of one picture, between which a page can slide.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], str], ...]
    caption: str
    stops: int = 0


@dataclass(frozen=True)
class Report:
    """All that a page shows. `alarms` say what is not as it was written, `left_out` what the run did not hold.

    `opening` answers in a line or two what `reading` tells at length.
    """

    title: str
    subtitle: str
    methods: tuple[str, ...]
    opening: str
    reading: tuple[str, ...]
    tables: dict[str, Table]
    plots: dict[str, Plot]
    pictures: figures.Pictures | None
    provenance: dict[str, str]
    protocols: dict[str, str]
    recipe: str
    alarms: tuple[str, ...]
    left_out: tuple[str, ...]
    boxed: BoxedPictures | None = None
    galleries: tuple[Gallery, ...] = ()
    mistakes: tuple[SetOfMistakes, ...] = ()


def write_report(run: Path, *, mixed: bool = False) -> Path:
    """Write `report.md`, `report.html` and `tables/` into the folder of a comparison; the path of the page.

    `mixed` allows rows of one suite that were measured in different ways.

    Raises:
        DataError: there are no results, or a line of them is damaged.
        UsageError: the folder is no comparison, or its rows cannot be compared.
    """
    return write_pages(run, gather(run, mixed=mixed))


def write_pages(run: Path, report: Report) -> Path:
    """Write what a page shows as Markdown and HTML, and its tables as files; its path. Alarms go to stderr, too."""
    tell(report.alarms)
    named = replace(report, provenance={**report.provenance, **write_tables(run / TABLES, report.tables.values())})
    write_text(run / "report.md", markdown_page(named))
    write_text(run / "report.html", html_page(named))
    return run / "report.html"


def gather(run: Path, *, mixed: bool = False) -> Report:
    """Everything that the page of a run will show.

    Raises:
        DataError, UsageError: as `write_report`.
    """
    rows = read_rows(run / RESULTS)
    left_out: list[str] = []
    facts = attempt("The facts of the run", partial(read_facts, run / RUN), left_out) or {}
    if facts.get("kind", "classification") != "classification":
        raise UsageError(f"{run} is a run of kind {facts['kind']!r}; give the folder of a classification run.")
    kept = attempt("Answers per picture", partial(kept_answers, run, rows), left_out)
    comparison = comparison_table(in_order(rows, facts), mixed=mixed, answers=right_of(kept or {}))
    left_out += unused_answers(comparison)
    recipe = attempt("The recipe", partial(read_file, run / "recipe.yaml"), left_out) or ""
    later = attempt("What was evaluated later", partial(later_table, run, rows, comparison, left_out), left_out)
    drawn = [attempt(what, partial(draw, run, comparison), left_out) for what, draw in PLOTS.items()]
    wrong = gather_mistakes(run, comparison, said_on_run(kept, rows, left_out), left_out)
    tables = (
        *all_tables(comparison),
        corruption_heat(comparison),
        later,
        paper_table(comparison, rows),
        balance_table(rows),
        *wrong.tables,
    )
    return Report(
        title=str(facts.get("title") or facts.get("name") or run.name),
        subtitle=subtitle(facts, comparison),
        methods=comparison.methods,
        opening=opening(comparison),
        reading=(*sentences(comparison), *no_adversaries(facts), *odd_pictures(facts)),
        tables={table.name: table for table in tables if table},
        plots={plot.name: plot for plot in (*drawn, *wrong.plots) if plot},
        pictures=attempt("The pictures", partial(read_pictures, run, facts), left_out),
        provenance=provenance(facts, rows),
        protocols=protocols(rows, comparison),
        recipe=recipe,
        alarms=tuple(alarms_of(run, facts, RUN)),
        left_out=tuple(left_out),
        mistakes=wrong.sets,
    )


@dataclass(frozen=True)
class Mistakes:
    """What went wrong where: parts of the page, and where each stands."""

    sets: tuple[SetOfMistakes, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot | None, ...] = ()


def said_on_run(kept: Mapping[Model, Kept] | None, rows: Sequence[Row], left_out: list[str]) -> Said:
    """What the models of a run said; nothing where no answers are kept, or could not be read (None), which is said already."""
    return {} if kept is None else attempt("What went wrong where", partial(said_of, kept, rows), left_out) or {}


def gather_mistakes(run: Path, comparison: Comparison, said: Said, left_out: list[str]) -> Mistakes:
    """What the models of a run say of each test set, class by class; of those that were compared.

    `said`: of the sets of the training; what was said of later ones is read here.
    """
    of_later = attempt("What went wrong where, later", partial(later_rows, run, comparison), left_out) or {}
    found = attempt("What went wrong where, later", partial(later_said, run, of_later), left_out) if of_later else None
    later = found or {}
    files = [name for name, told in ((MISTAKES, said), (LATER_MISTAKES, later)) if told]
    strips: dict[str, tuple[Strip, ...]] = {}
    for name in reversed(files):
        strips |= attempt("Pictures that two methods differ on", partial(read_strips, run / name), left_out) or {}
    clean = of_later | clean_rows(comparison)
    compared = {name: kept for name, models in (later | said).items() if (kept := in_comparison(models, comparison))}
    in_turn = {name: compared[name] for name in (*said, *later) if name in compared}
    return mistakes_of(in_turn, comparison.methods, strips, left_out, clean)


def later_rows(run: Path, comparison: Comparison) -> dict[str, dict[Model, Row]]:
    """Accuracies of the models of a run on further sets as they are, which `dat eval` showed; by the name of the set.

    Raises:
        DataError: rows are damaged.
    """
    found: dict[str, dict[Model, Row]] = {}
    for method in comparison.methods:
        for seed in sorted(one for one in comparison.seeds(method) if one is not None):
            for row in _whole_later(run / f"{method}-seed{seed}" / "evaluation" / RESULTS):
                name = str(row.protocol.get(SET, ""))
                title = name if row.suite == "clean" else suite_title(of_set(row.suite, name))
                found.setdefault(title, {})[method, seed] = replace(row, method=method, seed=seed)
    return found


def _whole_later(path: Path) -> list[Row]:
    """The accuracy on each set that was shown as it is."""
    rows = read_rows(path) if path.is_file() else []
    whole = {(row.suite, row.protocol.get(SET)) for row in rows if row.metric == CLASS_MEAN}
    return [row for row in rows if row.metric == "accuracy" and (row.suite, row.protocol.get(SET)) in whole]


def later_said(run: Path, rows: Mapping[str, Mapping[Model, Row]]) -> Said:
    """What the models of a run said of further sets, by the name of the set.

    Raises:
        DataError: predictions are damaged.
    """
    from dat.evaluation import store  # waits for torch

    return {
        title: {
            (method, seed): store.read_answered(
                run / f"{method}-seed{seed}" / "evaluation", row.suite, str(row.protocol.get(SET, ""))
            )
            for (method, seed), row in models.items()
        }
        for title, models in rows.items()
    }


def in_comparison(models: Mapping[Model, Answered], comparison: Comparison) -> dict[Model, Answered]:
    """Those of the models that were compared, in its order."""
    return {
        (method, seed): answered
        for method in comparison.methods
        for (name, seed), answered in models.items()
        if name == method and seed in comparison.seeds(method)
    }


def mistakes_of(
    said: Mapping[str, Mapping[Model, Answered]],
    methods: Sequence[str],
    strips: Mapping[str, tuple[Strip, ...]],
    left_out: list[str],
    clean: Mapping[str, Clean],
) -> Mistakes:
    """Tables and figures of each test set, by its name; `clean`: the rows of the models, by set."""
    sets, tables, plots = list[SetOfMistakes](), list[Table](), list[Plot | None]()
    for place, (name, models) in enumerate(said.items()):
        title = name if len(said) > 1 else ""
        told: Any = {"title": title, "clean": clean.get(name)}
        worst, classes, confusion, calibration = (f"{what}-{place}" for what in PARTS_OF_A_SET)
        of_set = SetOfMistakes(title, worst, classes, confusion, calibration, strips.get(name, ()))
        table = attempt("The worst classes", partial(worst_table, models, name=worst, **told), left_out)
        if table is not None:
            sets.append(of_set)
            by_class = attempt("Differences by class", partial(class_heat, models, name=of_set.classes, **told), left_out)
            tables += [one for one in (table, by_class) if one]
            plots.append(confusion_plot(models, methods, of_set))
            plots.append(attempt("The calibration", partial(reliability_plot, models, methods, of_set), left_out))
    return Mistakes(tuple(sets), tuple(tables), tuple(plots))


def confusion_plot(models: Mapping[Model, Answered], methods: Sequence[str], of_set: SetOfMistakes) -> Plot:
    """What is taken for what."""
    where, labels = f" on {of_set.title}" * bool(of_set.title), list(dict.fromkeys(method for method, _ in models))
    shown = panels_of(labels)
    some = f" Shown are {', '.join(map(method_title, shown))}." * (len(shown) < len(labels))
    classes = len(next(iter(models.values())).classes)
    chosen = f" Shown are the {CHOSEN} of {classes} classes that are most often mistaken." * (classes > WHOLE)
    caption = (
        f"What the pictures of each class{where} are said to be, in percent of the class{over_seeds(models)}. Blue: right; "
        f"orange: mistakes, the darkest the most frequent of all.{chosen}{some}"
    )
    return _plot(of_set.confusion, confusion_figure(models), caption, methods)


def reliability_plot(models: Mapping[Model, Answered], methods: Sequence[str], of_set: SetOfMistakes) -> Plot:
    """How often models are right when they are sure. Raises: DataError: it is not known how sure they were."""
    where = f" on {of_set.title}" * bool(of_set.title)
    caption = (
        f"How often a model is right{where} against how probable it says that is, all seeds together. Below the "
        "dashed line it is surer than right. Bins of fewer than ten pictures are left out above; below: where the pictures "
        "are."
    )
    return _plot(of_set.reliability, reliability_figure(models), caption, methods)


def _plot(name: str, figure: Figure, caption: str, methods: Sequence[str]) -> Plot:
    """A finished plot, in which folders and classes may be called anything."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # letters are the browser's, not of the font here
        return Plot(name, figures.svg_text(figure, name=name, label=escape(caption), methods=methods), caption)


def no_adversaries(facts: Facts) -> list[str]:
    """What the self-test said of the adversary of each model, where it did not find one."""
    found = facts.get("adversary")
    return [str(sentence) for sentence in found] if isinstance(found, list) else []


def odd_pictures(facts: Facts) -> list[str]:
    """What is odd about the pictures, as the training said it."""
    found = section(facts, "data").get("notes")
    return [str(sentence) for sentence in found] if isinstance(found, list) else []


def alarms_of(folder: Path, facts: Facts, name: str) -> list[str]:
    """What of a folder is not as it was written; `name` is the file of its facts."""
    if (folder / name).is_file() and not facts.keys() & KNOWN:
        return [f"{folder.name}/{name} says nothing of what was run: it was emptied or damaged, so nothing can be checked."]
    return altered(folder, facts)


def tell(alarms: Iterable[str]) -> None:
    """Say on stderr what the page says, too."""
    for alarm in alarms:
        print(alarm, file=sys.stderr)


def attempt(what: str, build: Callable[[], Part], left_out: list[str]) -> Part | None:
    """A part of the page; where the run does not hold it, None, and one more line in `left_out`."""
    try:
        return build()
    except DataError as error:
        left_out.append(f"{what}: left out. {error}")
        return None


def terminal_page(run: Path) -> str:
    """The table of test sets, and the numbers of the paper where the recipe quotes them, as plain text.

    Raises:
        DataError, UsageError: as `write_report`.
    """
    rows = read_rows(run / RESULTS)
    kept = attempt("Answers per picture", partial(kept_answers, run, rows), [])
    comparison = comparison_table(rows, answers=right_of(kept or {}))
    tables = accuracy_table(comparison), paper_table(comparison, rows)
    return "\n\n".join(plain_table(table) for table in tables if table)


# Files of a run.


def read_file(path: Path) -> str:
    """Text of a file; raises DataError where it is missing."""
    if not path.is_file():
        raise DataError(f"The run holds no {path.parent.name}/{path.name}.")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error}).") from error


def read_facts(path: Path) -> Facts:
    """What `run.json` says of the run; raises DataError where it is missing or no JSON object."""
    try:
        facts = from_json(read_file(path))
    except ValueError as error:
        raise DataError(f"{path.name} is not JSON ({error}).") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path.name} holds no JSON object.")
    return facts


def read_log(path: Path) -> figures.Log:
    """Lines of a training log; raises DataError where it is missing or a line is no JSON object."""
    try:
        lines = [from_json(line) for line in read_file(path).splitlines()]
    except ValueError as error:
        raise DataError(f"{path.parent.name}/{path.name} is not JSON lines ({error}).") from error
    if not all(isinstance(line, dict) for line in lines):
        raise DataError(f"A line of {path.parent.name}/{path.name} is no JSON object.")
    return lines


def read_pictures(run: Path, facts: Facts) -> figures.Pictures:
    """Pictures of a run; raises DataError where there are none."""
    if not (run / "pictures.npz").is_file():
        raise DataError("The run holds no pictures.npz.")
    stride = section(facts, "discretizer").get("stride")
    pictures = figures.read_pictures(run / "pictures.npz", stride=stride if isinstance(stride, int) else None)
    return replace(pictures, attacked=str(section(facts, "pictures").get("model", "")))


def in_order(rows: Iterable[Row], facts: Facts) -> list[Row]:
    """Rows with the methods in the order of the run; the others after them."""
    named = facts.get("methods")
    order = {method: place for place, method in enumerate(named if isinstance(named, list) else [])}
    return sorted(rows, key=lambda row: order.get(row.method, len(order)))


def section(facts: Facts, name: str) -> dict[str, object]:
    """A group of facts; empty where the run does not say it."""
    found = facts.get(name)
    return found if isinstance(found, dict) else {}


# Plots, each with its caption.


def draw(comparison: Comparison, name: str, figure: Figure, caption: str) -> Plot:
    """A finished plot of the page."""
    return Plot(name, figures.svg_text(figure, name=name, label=caption, methods=comparison.methods), caption)


def overview_plot(_run: Path, comparison: Comparison, *, measure: str = "accuracy") -> Plot:
    """Methods on whole test sets, by what is measured there."""
    return draw(
        comparison,
        "overview",
        figures.overview_figure(comparison, measure=measure),
        f"{measure.capitalize()} of each method on each test set. Large marks: mean over seeds"
        f"{spread_words(comparison, comparison.suites, drawn=True)}; small dots: the seeds. Each panel has its own axis, which "
        "does not begin at 0. Which methods differ, the tables say.",
    )


def trade_plot(_run: Path, comparison: Comparison, **axes: Any) -> Plot:
    """Clean against robust accuracy, with the cost of a step; `axes` as `trade_figures`."""
    label = "Clean against robust accuracy of each method"
    svgs = [
        figures.svg_text(figure, name=f"trade-{place}", label=f"{label}: {comparison.title(suite)}", methods=comparison.methods)
        for place, (suite, figure) in enumerate(trade_figures(comparison, **axes).items())
    ]
    base = method_title(BASELINE).lower()
    dear = f" The area of a mark, and the number behind its name, is what a training step costs, in steps of {base} training."
    parts = (
        "Who pays what: further up is more robust, further right better on clean pictures.",
        dear * bool(costs_of(comparison)),
        f" Dotted: {base} training." * (BASELINE in comparison.methods),
        " Light crosses: 95 % intervals of the means." * bool(comparison.layout(comparison.suites[0])),
    )
    return Plot("trade", "\n".join(svgs), "".join(parts))


def severity_plot(_run: Path, comparison: Comparison) -> Plot:
    """Accuracy against severity."""
    require_corruptions(comparison)
    suites = [f"severity/{severity}" for severity in comparison.severities]
    return draw(
        comparison,
        "severity",
        figures.severity_figure(comparison),
        "Accuracy against the severity of the corruption, over all corruptions and in each group. Severity 0: the same "
        "pictures as they are, where that was measured. Marks: mean over seeds"
        f"{spread_words(comparison, suites, drawn=True)}; they are set slightly apart.",
    )


def training_plot(run: Path, comparison: Comparison) -> Plot:
    """Training curves."""
    logs = {method: [read_log(path) for path in _logs_of(run, comparison, method)] for method in comparison.methods}
    if not any(logs.values()):
        raise DataError("The run holds no <method>-seed<k>/log.jsonl.")
    return draw(
        comparison,
        "training",
        figures.training_figure(comparison.methods, logs),
        "Training loss against step. Thick: mean over seeds; thin: each seed. Each method minimises its own loss, on "
        "its own pictures, so the height of one curve says nothing about another. "
        + "Right: accuracy on the pictures of validation, which are no test pictures."
        * figures.is_validated(logs),
    )


def _logs_of(run: Path, comparison: Comparison, method: str) -> list[Path]:
    """Those of measured models; others of the folder may be of an earlier recipe."""
    measured = {f"{method}-seed{seed}" for seed in comparison.seeds(method)}
    return [path for path in sorted(run.glob(f"{method}-seed*/log.jsonl")) if path.parent.name in measured]


def discretizer_plot(run: Path, comparison: Comparison) -> Plot:
    """The discretizer's own training."""
    log = read_log(run / "discretizer" / "log.jsonl")
    return draw(
        comparison,
        "discretizer",
        figures.health_figure(log),
        "Training of the discretizer, before the methods: losses, and how it reconstructs the test pictures after each epoch.",
    )


def require_corruptions(comparison: Comparison) -> None:
    """Raises: DataError: no corruption was measured."""
    if not comparison.corruptions:
        raise DataError("The results hold no corruption cells (`c/<corruption>/<severity>`).")


PLOTS: dict[str, Callable[[Path, Comparison], Plot]] = {
    "Clean against robust accuracy": trade_plot,
    "The overview": overview_plot,
    "Accuracy against severity": severity_plot,
    "The training curves": training_plot,
    "The curve of the discretizer": discretizer_plot,
}


# Where the numbers come from.


def subtitle(facts: Facts, comparison: Comparison) -> str:
    """Methods, seeds and data in one line."""
    count = seeds_text(comparison, comparison.suites, comparison.methods)
    methods = len(comparison.methods)
    begin = f"{methods} method{'s' * (methods != 1)}, {count} seed{'s' * (count != '1')}"
    return " · ".join([begin, *data_words(section(facts, "data"))])


def data_words(data: Mapping[str, object]) -> list[str]:
    """What is known of the data: name, counts, size, classes."""
    words = {
        "name": str(data.get("name")),
        "train_images": f"{data.get('train_images')} training images",
        "test_images": f"{data.get('test_images')} test images",
        "image_size": f"{short(data.get('image_size'))} pixels",
        "classes": f"{data.get('classes')} classes",
    }
    return [text for key, text in words.items() if key in data]


def provenance(facts: Facts, rows: Iterable[Row]) -> dict[str, str]:
    """What was run, with which versions, where, and for how long; only what the run says."""
    rows = list(rows)
    versions = section(facts, "versions") or (rows[0].versions if rows else {})
    hashes = [str(facts["recipe_hash"])] if "recipe_hash" in facts else sorted({row.recipe_hash for row in rows})
    discretizer = section(facts, "discretizer")
    known = {
        "Run": str(facts.get("name", "")),
        "Recipe hash": ", ".join(hashes),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Machine": str(facts.get("machine", "")),
        "Seconds": spelled(section(facts, "seconds")),
        "Discretizer": spelled({DISCRETIZER_WORDS[key]: discretizer[key] for key in DISCRETIZER_WORDS if key in discretizer}),
        "Page": f"made by dat {__version__} from results.jsonl and the files beside it",
    }
    return {name: text for name, text in known.items() if text}


def protocols(rows: Iterable[Row], comparison: Comparison) -> dict[str, str]:
    """How each suite was measured; of the corruption cells, what they all share."""
    found: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        name = "corruption cells" if row.suite.startswith("c/") else row.suite
        found.setdefault(name, []).append(row.protocol)
    return {protocol_title(name): spelled(shared(all_of)) or "no settings recorded" for name, all_of in found.items()}


def protocol_title(suite: str) -> str:
    """Name of a suite in the list of protocols."""
    return PROTOCOL_TITLES.get(suite, suite_title(suite))


# The two pages.


def html_page(report: Report) -> str:
    """The page: styles, figures, pictures and one script inside, no address outside."""
    colours = figures.method_colours(report.methods)
    return render(
        "page.html.j2",
        report=report,
        origins=Origins([*report.tables.values()]),
        order={method: index for index, method in enumerate(report.methods)},
        light=[light for light, _ in colours.values()],
        dark=[dark for _, dark in colours.values()],
    )


def render(template: str, **values: object) -> str:
    """A template of this folder, filled; it has the script, and the hash by which its policy allows that script alone."""
    loader = jinja2.FunctionLoader(lambda name: resources.files("dat.report").joinpath(name).read_text())
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = resources.files("dat.report").joinpath("page.js").read_text()
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(**values, script=script, script_hash=f"sha256-{digest}")


def markdown_page(report: Report) -> str:
    """The reading and the tables in GitHub Markdown; the figures are on the other page."""
    parts = [f"# {report.title}", report.subtitle, *alarm_list(report.alarms), "## What the numbers show"]
    parts += [report.opening] * bool(report.opening) + ["\n".join(f"- {text}" for text in report.reading)]
    parts += ["## Tables", *map(markdown_table, report.tables.values())]
    parts += ["The figures and pictures are in [report.html](report.html).", "## Where the numbers come from"]
    parts.append(definition_list(report.provenance))
    parts += ["How each suite was measured:", definition_list(report.protocols)]
    parts += ["Left out:\n\n" + "\n".join(f"- {text}" for text in report.left_out)] * bool(report.left_out)
    return "\n\n".join(parts) + "\n"


def alarm_list(alarms: Sequence[str]) -> list[str]:
    """What is not as it was written, as a Markdown section; nothing where all is."""
    return [f"## {ALARMED}\n\n" + "\n".join(f"- {alarm}" for alarm in alarms)] * bool(alarms)


def definition_list(entries: Mapping[str, str]) -> str:
    """Names with what they stand for, as a Markdown list."""
    return "\n".join(f"- **{name}**: {text}" for name, text in entries.items())
