"""The page of a model that is given to others: what it is, how to load it, and what was measured of it, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dat.report.tables import is_part, method_title, number, suite_title
from dat.results import SET, Row, of_set

METRIC_TITLES = {"accuracy": "accuracy", "ap": "AP"}
"""What is shown of classifiers, and of detectors."""
UNTOLD = ("data", "height", "width", "crop_pct", "interpolation", "resize", SET)
"""Entries of a protocol that are told elsewhere, or say nothing to others."""
WORDS = {"epsilon_255": "epsilon {}/255", "norm": "{}", "steps": "steps {}", "loss": "loss {}", "generated": ""}
"""How entries of a protocol are read; of others the name goes before the value."""
OWN_ATTACK = {
    "words/reconstruction": "Q(x), the discretizer's picture",
    "words/adversarial": "DAT's adversary, Q(x + delta)",
    "words/random": "Q of a random step as long",
}
"""Titles of what is measured with the discretizer of the run."""
REPOSITORY = "discrete-adversarial-training"
USE = (
    "To study how robust networks are, to compare with, and to begin a training with. It was judged by what stands above "
    "alone: what it does on other pictures is not known, and no number is a guarantee. An attack that is not listed was not "
    "tried; a single step of FGSM is a weak one."
)


@dataclass(frozen=True)
class Subject:
    """A model as its card tells it: `name` is that on the hub, `settings` its recipe, `facts` what its run says of itself."""

    name: str
    label: str
    seed: int
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    rows: Sequence[Row]
    of_timm: bool
    licence: str


def model_card(subject: Subject) -> str:
    """Markdown behind the block of metadata that the hub reads."""
    settings, facts = subject.settings, subject.facts
    parts = [
        f"# {settings['title']}",
        f"`{settings['model']['name']}`, trained by {method_title(subject.label)} (seed {subject.seed}) "
        f"to tell {len(facts['class_names'])} {'kinds of things' if _is_detector(subject) else 'classes'} apart.",
        f"## How to use it\n\n{_how_to_use(subject)}",
        f"## What was measured\n\n{_measured(subject.rows)}",
        f"## What it is for\n\n{USE}",
        f"## What it was trained on\n\n{_trained_on(settings, facts)}",
        f"## How it was trained\n\n{_trained_how(subject)}",
        f"## Classes\n\n{', '.join(facts['class_names'])}",
    ]
    return f"---\n{yaml.safe_dump(_metadata(subject), sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(parts) + "\n"


def _is_detector(subject: Subject) -> bool:
    return subject.settings["kind"] == "detection"


def _metadata(subject: Subject) -> dict[str, Any]:
    task = "object-detection" if _is_detector(subject) else "image-classification"
    tags = [
        task,
        *(["timm"] if subject.of_timm else []),
        "adversarial-robustness",
        "discrete-adversarial-training",
        subject.label,
    ]
    library = {"library_name": "timm"} if subject.of_timm else {}
    return {"license": subject.licence, **library, "pipeline_tag": task, "tags": tags}


def _how_to_use(subject: Subject) -> str:
    place = subject.name.partition("/")[2]
    model = f"runs/{place}/{subject.label}-seed{subject.seed}"
    height, width = subject.facts["data"]["image_size"]
    by_dat = [
        f"With `{REPOSITORY}`, on pictures in [0, 1] (RGB, {height} x {width} pixels), normalised inside:",
        f"```sh\ndat pull {subject.name} --out runs/{place}\ndat predict {model} PICTURES\n```",
    ]
    if not subject.of_timm:
        return "\n\n".join([*by_dat, "Its network is none of timm's; it is loaded by this package."])
    mean, std = (list(subject.settings["model"][key]) for key in ("mean", "std"))
    by_timm = [
        f"With timm alone, on pictures normalised by mean {mean} and deviation {std}:",
        f'```python\nimport timm\n\nnetwork = timm.create_model("hf-hub:{subject.name}", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))\n```",
    ]
    return "\n\n".join([*by_timm, *by_dat])


def _measured(rows: Sequence[Row]) -> str:
    """A table of whole test sets, as the rows are; intervals are at 95 %, over the pictures."""
    lines = [_line(row) for row in _shown(rows)]
    if not lines:
        return "Nothing: this model comes without results."
    head = ["| test set | how | | 95 % interval | pictures |", "|---|---|---:|---:|---:|"]
    return (
        "\n".join([*head, *lines]) + "\n\nIntervals are over pictures; another training with another seed may differ by more."
    )


def _shown(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.source == "ours" and row.metric in METRIC_TITLES and not is_part(row.suite)]


def _line(row: Row) -> str:
    interval = "-" if row.ci is None else f"{number(row.ci[0])} to {number(row.ci[1])}"
    named = of_set(row.suite, str(row.protocol.get(SET, ""))) if "@" not in row.suite else row.suite
    title = OWN_ATTACK.get(row.suite) or suite_title(named)
    cells = (title, _how(row), f"{METRIC_TITLES[row.metric]} {number(row.value)} %", interval, str(row.n))
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _how(row: Row) -> str:
    told = {name: value for name, value in row.protocol.items() if name not in UNTOLD and value is not None}
    order = [name for name in WORDS if name in told] + [name for name in sorted(told) if name not in WORDS]
    parts = [WORDS.get(name, name.replace("_", " ") + " {}").format(_number(told[name])) for name in order]
    return ", ".join(filter(None, parts)) or "the pictures as they are"


def _number(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _trained_on(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    data, known = settings["data"], facts["data"]
    name = data.get("train") or data["source"]
    begun = settings["model"].get("weights") or (settings["model"]["name"] if settings["model"].get("pretrained") else None)
    sentences = [
        f"Training data, as the recipe names them: `{name}`, {known.get('train_images', 'an unknown number of')} pictures.",
        f"It began with the weights `{begun}`, whose own training data are not told here." if begun else "It began at random.",
    ]
    return " ".join(sentences)


def _trained_how(subject: Subject) -> str:
    settings = subject.settings
    section = settings.get("discretizer") or {}
    words = f" The discretizer is `{section['load']}`." if section.get("load") else ""
    return (
        f"Every setting is in `recipe.yaml` (method `{subject.label}`, recipe {subject.facts['recipe_hash']}); all rows, "
        f"with the protocol of each, are in `results.jsonl`.{words} Versions: "
        + ", ".join(f"{name} {version}" for name, version in subject.facts.get("versions", {}).items())
        + "."
    )
