"""Settings and images of another sort than their annotations, as a user meets them: without the checks of the tests."""

import json
import subprocess
import sys

PROGRAM = """
import json
from dataclasses import MISSING, fields

import numpy as np
import torch

import dat
from dat.methods import METHODS
from dat.methods.settings import SORTS

words = dat.load_discretizer("cifar-f2-1024-fast")
images = torch.rand(1, 3, 8, 8)
said = {}


def attempt(name, act):
    try:
        act()
    except dat.DatError as error:
        said[name] = str(error)


def losses(shown):
    return shown.flatten(1).sum(1)


for name, method in METHODS.items():
    given = {entry.name: words for entry in fields(method) if entry.default is MISSING}
    for entry in fields(method):
        if entry.type in SORTS or entry.type == "Discretizer":
            attempt(f"{name}.{entry.name}", lambda: method(**{**given, entry.name: "half"}))
        if entry.type == "int":
            attempt(f"{name}.{entry.name} 2.5", lambda: method(**{**given, entry.name: 2.5}))
attempt("alpha", lambda: dat.discrete_adversary(images, losses, words, alpha={"rate": 0.1}))
attempt("name", lambda: dat.discrete_adversary(images, losses, "cifar-f2-1024", alpha=0.1))
attempt("codes", lambda: dat.code_adversary(images, losses, "cifar-f2-1024", rate=0.1))
attempt("numpy", lambda: dat.discrete_adversary(images.numpy(), losses, words, alpha=0.1))
attempt("list", lambda: words.encode([images]))
attempt("array", lambda: words(np.zeros((1, 3, 8, 8), np.float32)))
wanted = {
    f"{name}.{entry.name}{more}": entry.type
    for name, method in METHODS.items()
    for entry in fields(method)
    for more in (["", " 2.5"] if entry.type == "int" else [""])
    if entry.type in SORTS or entry.type == "Discretizer"
}
print(json.dumps([said, wanted]))
"""


def test_values_of_another_sort_are_told_in_a_sentence() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, wanted = json.loads(done.stdout)
    assert set(said) == {*wanted, "alpha", "name", "codes", "numpy", "list", "array"}
    assert len(wanted) > 40
    assert said["at.epsilon"] == "epsilon is 'half'; write a number."
    assert said["at.steps 2.5"] == "steps is 2.5; write a whole number."
    assert said["dat.alpha"] == (
        "alpha is 'half'; write a number, or dat.Rate(0.1) for the length that changes a tenth of the codes."
    )
    assert said["dat.discretizer"] == "discretizer is 'half', a name; write dat.load_discretizer('half')."
    assert said["alpha"].startswith("alpha is {'rate': 0.1}; write a number, or modified=0.1 for")
    assert (
        said["name"] == said["codes"] == "discretizer is 'cifar-f2-1024', a name; write dat.load_discretizer('cifar-f2-1024')."
    )
    assert said["numpy"] == said["array"]
    assert said["numpy"] == "Images are of type ndarray; give a tensor (batch, 3, height, width) in [0, 1]."
    assert said["list"] == "Images are of type list; give a tensor (batch, 3, height, width) in [0, 1]."
