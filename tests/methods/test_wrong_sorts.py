"""Settings and images of another sort than their annotations, as a user meets them: without the checks of the tests."""

import json
import subprocess
import sys

PROGRAM = """
import json
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import torch

import dat
from dat.methods import METHODS

NUMBERS = ("float", "float | None", "int", "int | None", "tuple[int, ...]", "tuple[float, ...]")
CHECKED = (*NUMBERS, "Length", "bool", "Discretizer")
words = dat.load_discretizer("cifar-f2-1024-fast")
images = torch.rand(1, 3, 8, 8)
said, tried = {}, []


def attempt(name, act):
    tried.append(name)
    try:
        act()
    except dat.DatError as error:
        said[name] = str(error)


def losses(shown):
    return shown.flatten(1).sum(1)


for name, method in METHODS.items():
    given = {entry.name: words for entry in fields(method) if entry.default is MISSING}
    for entry in fields(method):
        if entry.type in CHECKED:
            attempt(f"{name}.{entry.name}", lambda: method(**{**given, entry.name: "half"}))
        if entry.type == "int":
            attempt(f"{name}.{entry.name} 2.5", lambda: method(**{**given, entry.name: 2.5}))
attempt("alpha", lambda: dat.discrete_adversary(images, losses, words, alpha={"rate": 0.1}))
attempt("truth", lambda: dat.discrete_adversary(images, losses, words, alpha=True))
for name, value in {"alpha": "half", "modified": {"rate": 0.1}, "steps": 1.5, "step_size": "half"}.items():
    more = {} if name in ("alpha", "modified") else {"alpha": 0.1}
    attempt(f"adversary {name}", lambda: dat.discrete_adversary(images, losses, words, **{name: value}, **more))
for name, value in {"rate": "half", "neighbours": 2.5, "steps": None}.items():
    attempt(f"codes {name}", lambda: dat.code_adversary(images, losses, words, **{"rate": 0.1, name: value}))
for name, value in {"epsilon": "half", "step_size": None, "steps": "3"}.items():
    given = {"epsilon": 0.1, "step_size": 0.1, "steps": 1, name: value}
    attempt(f"pgd {name}", lambda: dat.pgd(images, losses, **given))
attempt("cells", lambda: METHODS["pyramid-at"](cells=("half", 1)))
attempt("pyramid steps", lambda: METHODS["pyramid-at"](steps=1.5))
for given in ((None,), ({},), (0.1, "all")):
    attempt(f"Rate{given}", lambda: dat.Rate(*given))
attempt("no tensor", lambda: dat.discrete_adversary(images, lambda shown: losses(shown).tolist(), words, alpha=0.1))
attempt("file", lambda: dat.discrete_adversary(images, losses, Path("vqgan.ckpt"), alpha=0.1))
attempt("none", lambda: METHODS["dat"](None, alpha=0.1))
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
    if entry.type in CHECKED
}
print(json.dumps([said, wanted, tried]))
"""


def test_values_of_another_sort_are_told_in_a_sentence() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, wanted, tried = json.loads(done.stdout)
    assert set(said) == set(tried) >= set(wanted)
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
    assert said["at.random_start"] == "random_start is 'half'; write True or False."
    assert said["pyramid-at.cells"] == "cells is 'half'; write several numbers, e.g. (2, 1)."
    assert said["cells"] == "cells is 'half'; write a whole number."
    assert said["truth"].startswith("alpha is True; write a number, or modified=0.1 for")
    assert said["adversary modified"].startswith("modified is {'rate': 0.1}, but it is the share of the codes")
    assert said["adversary steps"] == "steps is 1.5; write a whole number."
    assert said["adversary step_size"] == "step_size is 'half'; write a number."
    assert said["codes rate"] == "rate is 'half'; write a number."
    assert said["codes steps"] == "steps is None; write a whole number."
    assert said["pgd epsilon"] == "epsilon is 'half'; write a number."
    assert said["pgd steps"] == "steps is '3'; write a whole number."
    assert said["Rate(None,)"].startswith("rate is None, but it is the share of the codes")
    assert said["Rate(0.1, 'all')"] == "pictures is 'all'; write a whole number."
    assert said["no tensor"].startswith("loss_fn gave what is of type list; return a tensor with one loss per image")
    assert said["file"] == "discretizer is 'vqgan.ckpt', a name; write dat.load_discretizer('vqgan.ckpt')."
    assert said["none"] == "discretizer is None; give what dat.load_discretizer(NAME) gives."
