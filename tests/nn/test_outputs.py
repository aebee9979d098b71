"""Classifiers of every form and precision give the same logits."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dat
from dat.errors import UsageError
from dat.nn.outputs import logits_of
from dat.tasks.classification import Classification


class Output(OrderedDict):
    """As in transformers: a dictionary whose entries are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Giving(nn.Module):
    def __init__(self, form: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.form = nn.Linear(3, 4), form

    def forward(self, images: Tensor) -> Any:
        return self.form(self.linear(images.mean((2, 3))), images)


FORMS: dict[str, Any] = {
    "tensor": lambda logits, _: logits,
    "dictionary": lambda logits, images: {"features": images[:, 0, 0], "logits": logits},
    "dictionary of one": lambda logits, images: {"out": logits, "map": images},
    "output": lambda logits, _: Output(loss=None, logits=logits),
    "tuple with features": lambda logits, images: (logits, images),
    "tuple with auxiliary logits": lambda logits, _: (logits, logits * 0),
    "list": lambda logits, _: [logits],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_logits_are_found(form: str, dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 4, 4)
    expected = Giving(FORMS["tensor"])(images)
    model = Giving(FORMS[form]).to(dtype)
    assert torch.allclose(logits_of(model, images).float(), expected, atol=0.02)
    losses = Classification().losses(model, images.requires_grad_(), torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(losses.sum(), images)
    assert (gradient.dtype, bool(gradient.abs().sum() > 0)) == (torch.float32, True)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda logits, images: (images.flatten(1), logits), r"tuple of \(2, 48\), \(2, 4\), and no logits by that name"),
        (lambda logits, images: {"a": logits, "b": logits}, r"dict of \(2, 4\), \(2, 4\)"),
        (lambda *_: None, "gives NoneType, and no logits"),
    ],
)
def test_what_may_be_several_things_is_refused(form: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        logits_of(Giving(form), torch.rand(2, 3, 4, 4))


def test_an_evaluation_takes_them(tmp_path: Any) -> None:
    from PIL import Image

    for name in ("ant", "bee", "cow", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            colour = tuple(60 + 20 * number + 10 * len(name) + ord(name[0]) % 7 * step for step in range(3))
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{number}.png")
    values: dict[str, Any] = {"suites": ["clean", "fgsm"], "data": tmp_path, "classes": ("ant", "bee", "cow", "dog"), "size": 8}
    expected = dat.evaluate(Giving(FORMS["tensor"]), **values, cpu=True, self_test=False)
    for form, dtype in (("output", torch.float32), ("dictionary", torch.float64), ("tuple with features", torch.float32)):
        found = dat.evaluate(Giving(FORMS[form]).to(dtype), **values, cpu=True, self_test=False)
        assert [row.value for row in found] == [row.value for row in expected]
    with pytest.raises(UsageError, match="gives NoneType"):
        dat.evaluate(Giving(lambda *_: None), **values, cpu=True)
