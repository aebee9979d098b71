"""Whether a test set on the disk is what was published: where it lies, what is missing, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dat.data.address import address_of
from dat.data.folders import EXTENSIONS, ImageSource
from dat.data.images import decode
from dat.data.places import open_place
from dat.data.testsets.class_maps import NOTHING
from dat.data.testsets.layouts import SEVERITIES, Part, benchmark_of, locate, parts
from dat.data.testsets.table import BENCHMARKS, V2, Benchmark
from dat.errors import DataError, UsageError
from dat.progress import Bar

Findings = dict[str, Any]
Read = Callable[[], object]
UNREADABLE_SHOWN = 10


def listing() -> list[Findings]:
    """Every test set that lies in files: its facts."""
    return [
        {
            "suite": name,
            "title": benchmark.title,
            "pictures": benchmark.pictures,
            "classes": benchmark.classes,
            "parts": len(part_names(name)),
            "folder": V2[benchmark.parts[0]][0] if benchmark.layout == "variants" else benchmark.folders[0],
            "view": benchmark.view,
            "licence": benchmark.licence,
            "size": benchmark.size,
            "citation": benchmark.citation,
            "steps": list(benchmark.steps),
            "remark": benchmark.remark,
        }
        for name, benchmark in BENCHMARKS.items()
    ]


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The list in columns, and a line on what is not in it."""
    lines = [("suite", "title", "pictures", "classes", "folder in ROOT", "licence")]
    for row in rows:
        pictures = "not known" if row["pictures"] is None else f"{row['pictures']:,}"
        pictures = f"{row['parts']} x {pictures}" if row["parts"] > 1 else pictures
        lines.append((row["suite"], row["title"], pictures, str(row["classes"]), row["folder"], row["licence"]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, "", "How to get one: dat data check SUITE --root ROOT. Its citation: --json."])


def part_names(name: str) -> list[str]:
    """Rows that the complete set gives, in their order."""
    benchmark = benchmark_of(name)
    if benchmark.layout == "variants":
        return [f"{name}/{variant}" for variant in benchmark.parts]
    return [f"{name}/{part}/{severity}" for part, severity in product(benchmark.parts, SEVERITIES)] or [name]


def check(name: str, root: str | Path, *, every: bool = False) -> Findings:
    """What there is of a set, and under `faults` what is not as published; none means that all is well.

    The first and the last picture of each part are read, with `every` all of them.

    Raises:
        UsageError: no such set.
    """
    benchmark = benchmark_of(name)
    findings: Findings = {"suite": name, "title": benchmark.title, "root": str(root), "looked_in": [], "parts": []}
    findings |= {"steps": list(benchmark.steps), "licence": benchmark.licence, "citation": benchmark.citation}
    classes = benchmark.classes if benchmark.own_classes else 1000
    try:
        findings["looked_in"] = [str(place) for place in locate(name, root)]
        found = parts(name, root, classes)
    except DataError as error:
        return findings | {"faults": [str(error)]}
    there = {part.name for part in found}
    faults = [f"{missing} is missing." for missing in part_names(name) if missing not in there]
    for part in found:
        facts, said = _examined(part, benchmark, every=every)
        findings["parts"].append(facts)
        faults += said
    return findings | {"faults": faults}


def as_text(findings: Findings) -> str:
    """The findings, a line each, and what to do about them."""
    lines = [f"{findings['title']} ({findings['suite']}) in {findings['root']}"]
    for part in findings["parts"]:
        lines.append(
            f"{part['name']}: {part['pictures']} pictures of {part['classes']} classes, {part['class_map']} ({part['place']})"
        )
    lines += [f"fault: {fault}" for fault in findings["faults"]]
    if not findings["faults"]:
        return "\n".join([*lines, "All is as published."])
    if not findings["parts"]:  # the fault itself says how to get the set
        return "\n".join(lines)
    return "\n".join([*lines, "To get what was published:", *(f"- {step}" for step in findings["steps"])])


def check_folder(folder: str) -> Findings:
    """Every visible picture below a folder is read, or all of another place; `faults` has a sentence for each that cannot be.

    Raises:
        UsageError: there is no such folder, or as `open_place`.
        DataError: it holds no pictures, or as `open_place`.
    """
    reads = _reads_of_folder(folder) if address_of(folder).kind == "folder" else _reads_of_place(folder)
    faults: list[str] = []
    with Bar("read", len(reads)) as bar:
        for read in reads:
            try:
                read()
            except DataError as error:
                faults.append(str(error))
            bar.add(f"{len(faults)} damaged", 1)
    return {"folder": folder, "pictures": len(reads), "faults": faults}


def _reads_of_folder(folder: str) -> list[Read]:
    root = Path(folder)
    if not root.is_dir():
        what = f"add --root ROOT to check the test set {folder}" if folder in BENCHMARKS else "name the folder of your pictures"
        raise UsageError(f"There is no folder {folder}; {what}.")
    pictures = [path for path in sorted(root.rglob("*")) if _is_visible_picture(path.relative_to(root)) and path.is_file()]
    if not pictures:
        raise DataError(f"The folder {folder} holds no pictures ({' '.join(EXTENSIONS)}); name another.")
    return [partial(decode, path) for path in pictures]


def _reads_of_place(place: str) -> list[Read]:
    source = open_place(place)
    return [partial(source.read, index) for index in range(len(source))]


def folder_as_text(findings: Findings) -> str:
    """The damaged pictures, a line each, and how many there are of how many."""
    count = len(findings["faults"])
    return "\n".join([*findings["faults"], f"{findings['folder']}: {findings['pictures']} pictures, {count} of them damaged"])


def _is_visible_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _examined(part: Part, benchmark: Benchmark, *, every: bool) -> tuple[Findings, list[str]]:
    """Facts of one part, and its faults."""
    try:
        source = part.source
    except DataError as error:
        return {"name": part.name, "place": str(part.place), "pictures": 0, "classes": 0, "class_map": "not readable"}, [
            str(error)
        ]
    pictures, classes = len(source), len(np.unique(part.labels[np.unique(source.targets)]))
    facts = {"name": part.name, "place": str(part.place), "pictures": pictures, "classes": classes}
    facts["class_map"] = _class_map(source, part)
    faults = []
    expected = benchmark.pictures
    if expected is not None and (pictures < expected or (benchmark.exact and pictures > expected)):
        faults.append(f"{part.name} has {pictures} pictures instead of {expected}; compare no numbers with published ones.")
    if classes != benchmark.classes:
        faults.append(f"{part.name} has pictures of {classes} classes instead of {benchmark.classes}.")
    return facts, faults + _unreadable(source, part.name, every=every)


def _class_map(source: ImageSource, part: Part) -> str:
    """The first and the last class that has pictures, and the outputs that are right for it."""
    own = [int(position) for position in np.unique(source.targets) if part.labels[position] != NOTHING]
    shown = dict.fromkeys((own[0], own[-1])) if own else ()
    return ", ".join(
        f"{source.classes[position]} = output {' '.join(map(str, np.flatnonzero(part.groups == part.labels[position])))}"
        for position in shown
    )


def _unreadable(source: ImageSource, name: str, *, every: bool) -> list[str]:
    """A sentence for each picture that cannot be read, the first ten of them, and how many in all."""
    chosen = range(len(source)) if every else sorted({0, len(source) - 1})
    said = [sentence for index in chosen if (sentence := _why_unreadable(source, index)) is not None]
    shown = [f"{name}: {sentence}" for sentence in said[:UNREADABLE_SHOWN]]
    return shown if len(said) == len(shown) else [*shown, f"{name}: {len(said)} pictures in all cannot be read."]


def _why_unreadable(source: ImageSource, index: int) -> str | None:
    try:
        source.read(index)
    except DataError as error:
        return str(error)
    return None
