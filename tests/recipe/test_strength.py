"""Whoever changes the size of a recipe's pictures is told what becomes of its alpha."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from dat.recipe import file, read
from dat.recipe.strength import SIDE_POWER, note_on_alpha

KEPT = Path(__file__).parents[2] / "benchmarks" / "results"


def note(*overrides: str) -> str:
    """On the recipe of image folders of 224 pixels, with a `dat` of alpha 0.1."""
    return noted(file.read(file.find("folder/gpu")) | {"methods": {"dat": {"alpha": 0.1}}}, *overrides)


def test_another_size_with_the_alpha_of_the_recipe_is_spoken_of() -> None:
    said = note("data.size=64")
    assert "data.size is 64 and was 224" in said
    assert "changes more of the codes" in said
    assert f"write methods.dat.alpha={0.1 * (64 / 224) ** SIDE_POWER:.2g} (docs" in said
    assert "changes fewer of the codes" in note("data.size=320")


def test_every_length_in_l2_is_spoken_of_by_its_own_name() -> None:
    """The radius of `dat-official` is its epsilon, and no step may be longer than the radius."""
    scale = 2**SIDE_POWER
    said = note("data.size=128", "methods.other={method: dat-official, epsilon: 1.0, step_size: 0.5}")
    assert "methods.other" not in said  # whoever wrote it chose it
    values: dict[str, Any] = file.read(file.find("folder/small"))
    values["methods"] = {"other": {"method": "dat-official", "epsilon": 1.0, "step_size": 0.5}, "at": {}}
    said = noted(values, "data.size=128")
    assert "but epsilon is what it was there" in said
    assert f"write methods.other.epsilon={scale:.2g} methods.other.step_size={0.5 * scale:.2g} (docs" in said
    assert noted(values, "data.size=128", "methods.other.epsilon=1.0") == ""
    values["methods"] |= {"dat": {"alpha": 1.0, "steps": 2, "step_size": 0.5}}
    said = noted(values, "data.size=128")
    assert "but epsilon and alpha are what they were there, and change fewer" in said
    assert said.count(f"step_size={0.5 * scale:.2g}") == 2


def test_a_control_without_a_step_has_no_length() -> None:
    values: dict[str, Any] = file.read(file.find("folder/small"))
    values["methods"] = {
        name: {"method": name, "direction": "none"} for name in ("dat", "dat-official", "dat-free", "dat-fast")
    }
    assert noted(values, "data.size=128") == ""
    values["methods"] = {"random": {"method": "dat", "alpha": 1.0, "direction": "random"}}
    assert f"write methods.random.alpha={2**SIDE_POWER:.2g} (docs" in noted(values, "data.size=128")


def noted(stated: dict[str, Any], *overrides: str) -> str:
    """On values of a recipe; empty where there is nothing to say."""
    changed = copy.deepcopy(stated)
    for text in overrides:
        file.override(changed, text)
    return note_on_alpha(stated, read.parse(changed, where="test"), overrides) or ""


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data.size=224",),
        ("training.epochs=3",),
        ("data.size=null",),
        ("data.size=64", "methods.dat.alpha=1.0"),
        ("data.size=64", "methods.dat={alpha: 1.0}"),
        ("data.size=64", "methods={standard: {}}"),
        ("data.size=64", "methods.dat.gradient_scale=linf"),
        ("data.size=64", "methods.dat.alpha=0"),
        ("data.size=64", "methods.dat.direction=none"),
        ("data.size=64", "methods.dat.alpha={rate: 0.1}"),
    ],
)
def test_nothing_is_said_where_size_or_strength_were_chosen_or_there_is_none(overrides: tuple[str, ...]) -> None:
    assert note(*overrides) == ""


def test_the_power_is_the_measured_one() -> None:
    found = [json.loads(path.read_text())["exponent"]["mean"] for path in sorted(KEPT.glob("alpha-by-size-*.json"))]
    assert len(found) == 2
    assert sum(found) / len(found) == pytest.approx(SIDE_POWER, abs=0.05)
