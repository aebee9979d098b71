"""Files that commands read, changed at random: whatever they hold now, it is read, or refused with a sentence."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_evaluation import Skill, write_evaluation
from PIL import Image

from dat.commands.evaluation_plan import settings_of
from dat.commands.trained import _class_names
from dat.data.testsets.listed import from_table
from dat.engine.steps import _step_of
from dat.errors import DatError
from dat.recipe import file as recipe_file
from dat.recipe import read as recipes
from dat.report.page import read_facts, read_log
from dat.report.scorecard.page import all_tables, notes_of, origin, read_card
from dat.report.scorecard.rows import cards_of, protocols

FEW, MANY = 40, 2000
VALUES: list[Any] = [None, True, -1, 0, 10**400, 1e308, float("nan"), "", "x", [], [[]], [None], {}, {"": None}, "\ud800", "é"]
TEXTS = [
    "!!int ten",
    "!!timestamp x",
    "&a [*a]",
    "<<: 3",
    "? [1]\n: 2",
    "{",
    "\t",
    "\0",
    "- x",
    "!!set 1",
    "1e999",
    "\n",
    '"',
    ",",
]
TEXTS += ["!!python/object:os.system x", "[" * 500, "9" * 5000, "\ufeff", "!!binary x", "!!omap 1", "!!float [1]", "!!bool 3"]


def bytes_changed(content: bytes, numbers: random.Random) -> bytes:
    """Cut off, doubled, overwritten or with something put in."""
    place, length = numbers.randrange(len(content) + 1), numbers.randrange(12)
    put = numbers.choice([bytes([numbers.randrange(256)]), numbers.choice(TEXTS).encode(), content[:length], b""])
    return content[:place] + put + (b"" if numbers.random() < 0.1 else content[place + length * numbers.randrange(2) :])


def value_changed(values: Any, numbers: random.Random) -> Any:
    """One value somewhere inside is another one, or gone."""
    keys = list(values) if isinstance(values, dict) else list(range(len(values))) if isinstance(values, list) else []
    if not keys or numbers.random() < 0.15:
        return numbers.choice(VALUES)
    key = numbers.choice(keys)
    changed: Any = dict(values) if isinstance(values, dict) else list(values)
    if numbers.random() < 0.1:
        del changed[key]
    else:
        changed[key] = value_changed(changed[key], numbers)
    return changed


def lines_changed(text: str, numbers: random.Random) -> str:
    lines = text.splitlines()
    line = numbers.randrange(len(lines))
    lines[line] = json.dumps(value_changed(json.loads(lines[line]), numbers))
    return "\n".join(lines) + "\n"


def shown(folder: Path) -> None:
    """What the page of an evaluation is made of, without its figures."""
    facts = read_facts(folder / "evaluation.json")
    cards = cards_of([read_card(folder, facts)])
    made = all_tables(cards), notes_of(cards, [facts]), origin(cards[0], facts), protocols(cards)
    assert len(made) == len(cards) + 3


def steps_of(folder: Path) -> None:
    for line in read_log(folder / "log.jsonl"):
        _step_of(json.dumps(line), "A line")


READ: Mapping[str, Callable[[Path], object]] = {
    "recipe.yaml": lambda folder: recipes.load(str(folder / "recipe.yaml")),
    "run.json": _class_names,
    "results.jsonl": shown,
    "evaluation.json": shown,
    "log.jsonl": steps_of,
    "labels.csv": lambda folder: from_table(folder / "labels.csv", ("cat", "dog")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything, whole."""
    folder = tmp_path_factory.mktemp("whole")
    write_evaluation(folder, "one", Skill(1, 1.0), count=12, suites=("clean", "fgsm"), corruptions=("fog",))
    recipe = recipe_file.read(recipe_file.find("demo"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "run.json").write_text(json.dumps({"recipe_hash": "0", "class_names": ["cat", "dog"], "seconds": {"dat": 1.0}}))
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n')
    (folder / "labels.csv").write_text("path,class,class_index\na.png,cat,0\nb.png,dog,1\n")
    for name in ("a", "b"):
        Image.new("RGB", (2, 2)).save(folder / f"{name}.png")
    return folder


def fuzz(folder: Path, name: str, count: int) -> None:
    path, numbers = folder / name, random.Random(name)
    whole = path.read_bytes()
    READ[name](folder)
    try:
        for number in range(count):
            content = bytes_changed(whole, numbers)
            if number % 2 and name == "recipe.yaml":
                content = json.dumps(value_changed(yaml.safe_load(whole), numbers)).encode()
            elif number % 2 and name != "labels.csv":
                content = lines_changed(whole.decode(), numbers).encode()
            path.write_bytes(content)
            refused_or_read(lambda: READ[name](folder), content)
    finally:
        path.write_bytes(whole)


def refused_or_read(call: Callable[[], object], content: object) -> None:
    try:
        call()
    except DatError:
        pass
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error} of {content!r}") from error


@pytest.mark.parametrize("name", READ)
def test_damaged_files_are_read_or_refused(folder: Path, name: str) -> None:
    fuzz(folder, name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_thousands_of_damaged_files_are_read_or_refused(folder: Path, name: str) -> None:
    fuzz(folder, name, MANY)


@pytest.mark.parametrize(
    "key", ["size", "severities", "corruptions", "seed", "frost", "adain", "precision", "nothing", "", "a.b"]
)
def test_any_value_of_a_setting_is_taken_or_refused(key: str) -> None:
    for text in [*TEXTS, *map(json.dumps, VALUES)]:
        refused_or_read(lambda text=text: settings_of([f"{key}={text}"]), text)
