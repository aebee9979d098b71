"""A training goes on with its own settings and inputs only; what has not begun may be another."""

import json
from pathlib import Path
from typing import Any

import pytest

from dat.engine.dependence import PACE, RULE, SETTINGS, Dependence, check, keep
from dat.errors import RunFolderError


def depending(inputs: dict[str, str] | None = None, **settings: Any) -> Dependence:
    return Dependence(settings, inputs or {})


def begin(run: Path, *names: str) -> None:
    for name in names:
        (run / name / "checkpoints" / "step-00000001").mkdir(parents=True)


OLD = {
    "weak-seed0": depending(model={"width": 4}, methods={"weak": {"alpha": 0.1}}),
    "strong-seed0": depending(model={"width": 4}, methods={"strong": {"alpha": 0.4}}),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Its first training has begun."""
    keep(tmp_path, OLD, {})
    begin(tmp_path, "weak-seed0")
    return tmp_path


def refusal(run: Path, wanted: dict[str, Dependence], before: dict[str, Dependence] | None = None) -> str:
    kept = {path: path.read_bytes() for path in run.rglob(SETTINGS)}
    with pytest.raises(RunFolderError) as error:
        check(run, wanted, before or {})
    assert {path: path.read_bytes() for path in run.rglob(SETTINGS)} == kept
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    return str(error.value)


def test_what_has_begun_keeps_its_settings_and_the_rest_may_change(run: Path) -> None:
    wanted = {**OLD, "strong-seed0": depending(methods={"strong": {"alpha": 0.5}})}
    check(run, wanted, {})
    keep(run, wanted, {})
    begin(run, "strong-seed0")
    said = refusal(run, OLD)
    assert "(methods.strong.alpha was 0.5, is 0.4; model.width was not there, is 4)" in said
    assert f"remove {run / 'strong-seed0'} to train anew, or write out=ANOTHER_FOLDER. {RULE}" in said
    assert "weak" not in said


def test_what_is_no_longer_in_the_recipe_is_not_forgotten(run: Path) -> None:
    keep(run, {"strong-seed0": OLD["strong-seed0"]}, {})
    check(run, OLD, {})
    assert "alpha was 0.1, is 0.2" in refusal(
        run, {"weak-seed0": depending(model={"width": 4}, methods={"weak": {"alpha": 0.2}})}
    )


def test_weights_alone_are_a_beginning_and_half_a_checkpoint_is_none(run: Path) -> None:
    other = {"strong-seed0": depending(model={"width": 8})}
    (run / "strong-seed0" / "checkpoints" / ".step-00000001.7.tmp").mkdir(parents=True)
    check(run, other, {})
    (run / "strong-seed0" / "discretizer.safetensors").write_bytes(b"")
    assert "model.width was 4, is 8" in refusal(run, other)


def test_of_many_settings_and_folders_the_first_are_named(tmp_path: Path) -> None:
    names = [f"dat-seed{seed}" for seed in range(12)]
    keep(tmp_path, {name: Dependence({f"key{number}": 0 for number in range(20)}, {}) for name in names}, {})
    begin(tmp_path, *names)
    said = refusal(tmp_path, {name: Dependence({f"key{number}": 1 for number in range(20)}, {}) for name in names})
    assert "key7 was 0, is 1; 12 more)" in said
    assert f"{tmp_path / 'dat-seed7'}, 4 more to train anew" in said


def test_what_followed_from_a_training_is_to_be_removed_with_it_and_the_run_itself_as_a_whole(run: Path) -> None:
    begin(run, "equal-time/weak-seed0")
    said = refusal(run, {"weak-seed0": depending(model={"width": 5})})
    assert f"remove {run / 'weak-seed0'}, {run / 'equal-time' / 'weak-seed0'} to train" in said
    keep(run, {".": depending(seed=0)}, {})
    begin(run, ".")
    assert f"remove {run} to train" in refusal(run, {".": depending(seed=1)})


def test_inputs_that_differ_are_named_and_those_that_were_not_noted_are_accepted(tmp_path: Path) -> None:
    keep(tmp_path, {"dat-seed0": depending({"data.train": "1", "model.weights": "2"}, seed=0)}, {})
    check(tmp_path, {"dat-seed0": depending({"data.train": "1", "model.weights": "2", "init": "3"}, seed=0)}, {})
    said = refusal(tmp_path, {"dat-seed0": depending({"data.train": "0", "model.weights": "0"}, seed=0)})
    assert said.startswith("What data.train and model.weights of the recipe name is not what the run in")
    check(tmp_path, {"dat-seed0": depending({"data.train": "0"}, seed=1)}, {})  # another training, which has not begun


def test_of_one_input_with_two_digests_either_will_do(tmp_path: Path) -> None:
    keep(tmp_path, {"dat-seed0": depending({"data.train": "files/pixels"}, seed=0)}, {})
    for same in ("files", "pixels", "files/others"):
        check(tmp_path, {"dat-seed0": depending({"data.train": same}, seed=0)}, {})
    refusal(tmp_path, {"dat-seed0": depending({"data.train": "other/pixel"}, seed=0)})


@pytest.mark.parametrize("key", PACE)
def test_no_training_depends_on_its_pace(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    keep(tmp_path, {"q": depending(train={section: {name: 1}}), ".": Dependence({section: {name: 1, "x": 1}}, {})}, {})
    begin(tmp_path, "q", ".")
    check(tmp_path, {"q": depending(train={section: {name: 2}}), ".": Dependence({section: {name: 3, "x": 1}}, {})}, {})
    assert "(other.workers was not there, is 2)" in refusal(tmp_path, {"q": depending(other={"workers": 2})})


def test_test_pictures_belong_to_the_run_alone(tmp_path: Path) -> None:
    keep(tmp_path, {"q": depending(data={"test": "a", "size": 8}), ".": depending(data={"test": "a"})}, {})
    begin(tmp_path, "q", ".")
    check(tmp_path, {"q": depending(data={"size": 8})}, {})
    assert "(data.test was a, is b)" in refusal(tmp_path, {".": depending(data={"test": "b"})})


def test_a_sentence_on_how_to_go_on_takes_the_place_of_the_rule(run: Path) -> None:
    with pytest.raises(RunFolderError, match=r"ANOTHER_FOLDER\. Write so\.$"):
        check(run, {"weak-seed0": depending(model={"width": 5})}, {}, advice="Write so.")


def test_a_run_of_an_older_version_is_known_by_its_recipe(tmp_path: Path) -> None:
    begin(tmp_path, "weak-seed0")
    assert "Nothing in" in refusal(tmp_path, OLD)
    assert "model.width was 4, is 5" in refusal(tmp_path, {"weak-seed0": depending(model={"width": 5})}, OLD)
    check(tmp_path, OLD, OLD)
    keep(tmp_path, {"strong-seed0": depending(seed=3)}, OLD)
    assert json.loads((tmp_path / "weak-seed0" / SETTINGS).read_text())["settings"] == OLD["weak-seed0"].settings
    check(tmp_path, OLD, {})


@pytest.mark.parametrize("content", ["", "[]", '{"settings": 1, "inputs": {}}', '{"settings": {}}'])
def test_damaged_settings_are_one_sentence(run: Path, content: str) -> None:
    (run / "weak-seed0" / SETTINGS).write_text(content)
    assert "settings.json is damaged" in refusal(run, OLD)
