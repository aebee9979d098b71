from pathlib import Path

import numpy as np
import pytest

from dat.errors import DataError
from dat.evaluation.right import path_of, read_all, read_right, write_right

ANSWERS = {"clean": np.array([True, False, True]), "c@my__art/fog/3": np.array([False, True]), "clean-c": np.array([True])}


def test_answers_are_read_as_they_were_written(tmp_path: Path):
    path = path_of(tmp_path, "dat-free", 2)
    write_right(path, ANSWERS)
    assert path == tmp_path / "right" / "dat-free-seed2.npz"
    found = read_right(path)
    assert {suite: right.tolist() for suite, right in found.items()} == {s: right.tolist() for s, right in ANSWERS.items()}
    first = path.read_bytes()
    write_right(path, ANSWERS)
    assert path.read_bytes() == first


def test_of_models_without_answers_there_are_none(tmp_path: Path):
    write_right(path_of(tmp_path, "dat", 0), ANSWERS)
    assert set(read_all(tmp_path, [("dat", 0), ("dat", 0), ("standard", 0), ("paper", None)])) == {("dat", 0)}
    assert read_right(tmp_path / "right" / "no.npz") == {}


@pytest.mark.parametrize("damage", ["cut", "no bools"])
def test_what_is_damaged_is_named(tmp_path: Path, damage: str):
    path = path_of(tmp_path, "dat", 0)
    write_right(path, ANSWERS)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        np.savez(path, clean=np.array([1.0]))
    with pytest.raises(DataError, match=r"right/dat-seed0\.npz is damaged"):
        read_right(path)
