"""Attacks on compiled models: compiled once, and left as they were."""

import inspect
from collections.abc import Callable, Iterator
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from dat.attacks import gradient
from dat.attacks.gradient import input_gradient, untouched_modules

Compile = Callable[[nn.Sequential, CompileCounter], nn.Module]


def wrapped(network: nn.Sequential, backend: CompileCounter) -> nn.Module:
    return torch.compile(network, backend=backend)  # pyright: ignore[reportReturnType]  # torch does not tell a module from a function


def in_place(network: nn.Sequential, backend: CompileCounter) -> nn.Module:
    network.compile(backend=backend)
    return network


def one_part(network: nn.Sequential, backend: CompileCounter) -> nn.Module:
    network[1].compile(backend=backend)
    return network


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # of the hook, which is ours
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch looks at the features that a part is given
@pytest.mark.parametrize("compiled", [wrapped, in_place, one_part])
def test_many_attacks_compile_a_model_once(compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gradient, "_note", inspect.unwrap(gradient._note)
    )  # without the checks of the tests, which are compiled, too
    torch._dynamo.reset()
    network, backend = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3)), CompileCounter()
    images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    network(images)
    model, counts = compiled(network, backend), []
    for _ in range(4):
        before = [buffer.clone() for buffer in network.buffers()]
        input_gradient(images, lambda shown: F.cross_entropy(model(shown), targets, reduction="none"))
        assert all(torch.equal(buffer, old) for buffer, old in zip(network.buffers(), before, strict=True))
        model(images)  # a step of training
        assert not any(torch.equal(buffer, old) for buffer, old in zip(network.buffers(), before, strict=True))
        counts.append(backend.frame_count)
    assert counts == [counts[0]] * 4


def test_two_attacks_at_once_both_put_back() -> None:
    """As of two threads: the first to begin may end first."""
    norm, images = nn.BatchNorm1d(2), torch.rand(4, 2)
    before = [buffer.clone() for buffer in norm.buffers()]
    first, second = untouched_modules(), untouched_modules()
    first.__enter__()
    second.__enter__()
    norm(images)
    first.__exit__(None, None, None)
    assert all(torch.equal(buffer, old) for buffer, old in zip(norm.buffers(), before, strict=True))
    norm(images)
    second.__exit__(None, None, None)
    assert all(torch.equal(buffer, old) for buffer, old in zip(norm.buffers(), before, strict=True))
    norm(images)
    assert not any(torch.equal(buffer, old) for buffer, old in zip(norm.buffers(), before, strict=True))


def test_an_attack_that_ends_while_another_begins_to_note_costs_the_other_nothing() -> None:
    first, second, images = untouched_modules(), untouched_modules(), torch.rand(4, 2)

    class Ending(nn.BatchNorm1d):
        def buffers(self, recurse: bool = True) -> Iterator[torch.Tensor]:
            if gradient._noted[1:]:
                first.__exit__(None, None, None)
            return super().buffers(recurse)

    norm = Ending(2)
    before = [buffer.clone() for buffer in nn.Module.buffers(norm)]
    first.__enter__()
    second.__enter__()
    norm(images)
    second.__exit__(None, None, None)
    assert all(torch.equal(buffer, old) for buffer, old in zip(norm.buffers(), before, strict=True))


def test_an_attack_that_begins_while_the_last_ends_keeps_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, images, second = nn.BatchNorm1d(2), torch.rand(4, 2), untouched_modules()
    before, remove = [buffer.clone() for buffer in norm.buffers()], gradient._hook.remove
    begins = Thread(target=second.__enter__)

    def slowly() -> None:
        begins.start()
        begins.join(timeout=0.2)
        remove()

    with monkeypatch.context() as patched, untouched_modules():
        patched.setattr(gradient._hook, "remove", slowly)
    begins.join()
    norm(images)
    second.__exit__(None, None, None)
    assert all(torch.equal(buffer, old) for buffer, old in zip(norm.buffers(), before, strict=True))
