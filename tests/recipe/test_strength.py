"""Whoever changes the size of a recipe's pictures is told what becomes of its alpha."""

import json
from pathlib import Path

import pytest

from dat.recipe import file, read
from dat.recipe.strength import SIDE_POWER, note_on_alpha

KEPT = Path(__file__).parents[2] / "benchmarks" / "results"


def note(*overrides: str) -> str | None:
    """On the recipe of image folders of 64 pixels, whose `dat` has an alpha of 1."""
    path = file.find("folder/small")
    return note_on_alpha(file.read(path), read.load(str(path), overrides), overrides)


def test_another_size_with_the_alpha_of_the_recipe_is_spoken_of() -> None:
    said = note("data.size=224")
    assert said is not None
    assert "data.size is 224 and was 64" in said
    assert "changes fewer of the codes" in said
    assert f"write methods.dat.alpha={3.5**SIDE_POWER:.2g} (docs" in said
    assert "changes more of the codes" in (note("data.size=32") or "")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data.size=64",),
        ("training.epochs=3",),
        ("data.size=null",),
        ("data.size=224", "methods.dat.alpha=1.0"),
        ("data.size=224", "methods.dat={alpha: 1.0}"),
        ("data.size=224", "methods={standard: {}}"),
        ("data.size=224", "methods.dat.gradient_scale=linf"),
        ("data.size=224", "methods.dat.alpha=0"),
    ],
)
def test_nothing_is_said_where_size_or_strength_were_chosen_or_there_is_none(overrides: tuple[str, ...]) -> None:
    assert note(*overrides) is None


def test_the_power_is_the_measured_one() -> None:
    found = [json.loads(path.read_text())["exponent"]["mean"] for path in sorted(KEPT.glob("alpha-by-size-*.json"))]
    assert len(found) == 2
    assert sum(found) / len(found) == pytest.approx(SIDE_POWER, abs=0.05)
