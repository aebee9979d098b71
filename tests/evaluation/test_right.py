from pathlib import Path

import numpy as np
import pytest

from dat.errors import DataError
from dat.evaluation.mistakes import OTHER, Answered
from dat.evaluation.right import Kept, path_of, read_all, read_kept, write_kept
from dat.results import write_arrays

SAID = Answered(("cat", "dog"), np.array([0, 1, 1]), np.array([0, OTHER, 1]), np.array([0.5, 0.25, 1.0]))
UNSURE = Answered(SAID.classes, np.array([0, 1]), np.array([0, 0]), None)
RIGHT = {
    "clean": np.array([True, False, True]),
    "c@my__art/fog/3": np.array([False, True]),
    "clean@my__art": np.array([True, False]),
    "clean-c": np.array([True]),
}
ANSWERS = Kept(RIGHT, {"clean": SAID, "clean@my__art": UNSURE})


def test_answers_are_read_as_they_were_written(tmp_path: Path):
    path = path_of(tmp_path, "dat-free", 2)
    write_kept(path, ANSWERS)
    assert path == tmp_path / "right" / "dat-free-seed2.npz"
    found = read_kept(path)
    assert {suite: right.tolist() for suite, right in found.right.items()} == {s: right.tolist() for s, right in RIGHT.items()}
    assert list(found.said) == ["clean", "clean@my__art"]
    for suite, said in ANSWERS.said.items():
        assert found.said[suite].classes == said.classes
        assert found.said[suite].targets.tolist() == said.targets.tolist()
        assert found.said[suite].said.tolist() == said.said.tolist()
    assert found.said["clean@my__art"].sure is None
    assert found.said["clean"].sure == pytest.approx(SAID.sure)
    first = path.read_bytes()
    write_kept(path, ANSWERS)
    assert path.read_bytes() == first


def test_a_file_of_arrays_holds_these_and_never_objects(tmp_path: Path):
    path = tmp_path / "arrays.npz"
    arrays = {"file": np.arange(3), "allow_pickle": np.array("text"), "path": np.ones((2, 3), order="F")}
    write_arrays(path, **arrays)
    first = path.read_bytes()
    with np.load(path, allow_pickle=False) as found:
        assert {name: found[name].tolist() for name in found.files} == {name: array.tolist() for name, array in arrays.items()}
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(path, said=np.array([{}, None]))
    assert path.read_bytes() == first


def test_of_models_without_answers_there_are_none(tmp_path: Path):
    write_kept(path_of(tmp_path, "dat", 0), ANSWERS)
    assert set(read_all(tmp_path, [("dat", 0), ("dat", 0), ("standard", 0), ("paper", None)])) == {("dat", 0)}
    assert read_kept(tmp_path / "right" / "no.npz").right == {}


def test_a_file_of_an_older_version_says_which_were_right_and_no_more(tmp_path: Path):
    path = path_of(tmp_path, "dat", 0)
    write_arrays(path, **RIGHT)
    found = read_kept(path)
    assert (list(found.right), found.said) == (list(RIGHT), {})


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("", None, "is damaged"),
        ("clean", np.array([1.0]), "other arrays, as clean"),
        ("clean", np.array([True, True, True]), "what was said on clean does not belong"),
        ("said.clean", np.array([0, 0]), "what was said on clean does not belong"),
        ("said.clean", np.array([0, 2, 1]), "what was said on clean does not belong"),
        ("targets.clean", np.array([0, -1, 1]), "what was said on clean does not belong"),
        ("sure.clean", np.array([0.5, 0.25, 1.5]), "probabilities on clean are not in"),
        ("said.fgsm", np.array([0]), r"other arrays, as said\.fgsm"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, name: str, wrong: np.ndarray | None, words: str):
    path = path_of(tmp_path, "dat", 0)
    write_kept(path, ANSWERS)
    if wrong is None:
        path.write_bytes(path.read_bytes()[:-30])
    else:
        with np.load(path) as content:
            arrays = dict(content)
        np.savez(path, **{**arrays, name: wrong})
    with pytest.raises(DataError, match=rf"right/dat-seed0\.npz is damaged.*{words.removeprefix('is damaged')}"):
        read_kept(path)
