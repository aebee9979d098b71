"""PGD and AutoAttack against linear models, whose robust accuracy is known exactly."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.errors import UsageError
from dat.evaluation import attacked
from dat.evaluation.attacked import PGD, AttacksLogits, AutoAttack
from dat.evaluation.suites import FGSM, Suite

SIDE, PICTURES = 8, 12
LINEAR = 3 * SIDE * SIDE


def linear(classes: int, *, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(LINEAR, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 7)
    return model.eval()


def pictures(count: int = PICTURES, *, low: float = 0.3, high: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(count, 3, SIDE, SIDE, generator=generator)


def loss_of(model: Callable[[Tensor], Tensor], targets: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: F.cross_entropy(model(images), targets, reduction="none")


def radii(model: nn.Sequential, images: Tensor, targets: Tensor, norm: str) -> Tensor:
    """How far each picture is from being wrong: margin over dual norm, the smallest over the other classes."""
    weights = next(model[1].parameters()).detach()
    logits = model(images).detach()
    margins = logits.gather(1, targets[:, None]) - logits
    lengths = torch.linalg.vector_norm(weights[targets][:, None] - weights[None], ord=1 if norm == "linf" else 2, dim=2)
    return (margins / lengths).scatter(1, targets[:, None], torch.inf).min(dim=1).values


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_of_a_linear_model_is_the_closed_form(norm: attacked.Norm) -> None:
    model, images = linear(2), pictures()
    targets = model(images).argmax(dim=1)
    epsilon = float(radii(model, images, targets, norm).sort().values[5:7].mean())
    suite = PGD(epsilon, epsilon / 4, 40, norm=norm, restarts=2)
    shown = suite.images(images, torch.arange(PICTURES), loss_of(model, targets))
    weights = next(model[1].parameters()).detach()
    direction = (weights[1 - targets] - weights[targets]).reshape(images.shape)
    unit = direction.sign() if norm == "linf" else direction / torch.linalg.vector_norm(direction[0])
    torch.testing.assert_close(shown, images + epsilon * unit, rtol=0, atol=1e-3 if norm == "l2" else 1e-6)
    robust = radii(model, images, targets, norm) > epsilon
    assert robust.sum() == PICTURES // 2
    assert torch.equal(model(shown).argmax(dim=1) == targets, robust)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_its_ball_and_among_images(norm: attacked.Norm) -> None:
    model, images = linear(5), pictures(low=0, high=1)
    shown = PGD(0.2, 0.15, 3, norm=norm).images(images, torch.arange(PICTURES), loss_of(model, torch.arange(PICTURES) % 5))
    change = (shown - images).flatten(1)
    length = change.abs().amax(dim=1) if norm == "linf" else torch.linalg.vector_norm(change, dim=1)
    assert length.max() <= 0.2 + 1e-6
    assert length.min() > 0.1
    assert shown.min() >= 0
    assert shown.max() <= 1


def bumpy(images: Tensor) -> Tensor:
    """Logits with many local maxima: where one ends depends on where one begins."""
    flat = images.flatten(1)
    return torch.stack([torch.sin(40 * flat).sum(dim=1), torch.cos(33 * flat).sum(dim=1)], dim=1)


def test_the_start_of_a_picture_does_not_depend_on_its_batch() -> None:
    images, ids = pictures(), torch.arange(PICTURES) + 100
    targets = torch.arange(PICTURES) % 2
    suite = PGD(0.2, 0.02, 3, restarts=3)
    state = torch.get_rng_state()
    together = suite.images(images, ids, loss_of(bumpy, targets))
    assert torch.equal(state, torch.get_rng_state())
    for rows in ([3], [7, 3, 0], list(range(11, -1, -1))):
        part = suite.images(images[rows], ids[rows], loss_of(bumpy, targets[rows]))
        torch.testing.assert_close(part, together[rows], rtol=0, atol=1e-6)
    assert not torch.allclose(suite.images(images, ids + 1, loss_of(bumpy, targets)), together)
    assert not torch.allclose(PGD(0.2, 0.02, 3, restarts=3, seed=1).images(images, ids, loss_of(bumpy, targets)), together)


def test_of_several_restarts_the_worst_is_shown() -> None:
    images, ids, loss_fn = pictures(), torch.arange(PICTURES), loss_of(bumpy, torch.arange(PICTURES) % 2)
    losses = [loss_fn(PGD(0.2, 0.02, 3, restarts=count).images(images, ids, loss_fn)) for count in (1, 2, 4)]
    assert (losses[0] <= losses[1]).all()
    assert (losses[1] <= losses[2]).all()
    assert losses[2].mean() > losses[0].mean() + 0.1


def test_one_step_without_a_random_start_is_fgsm() -> None:
    images, ids, loss_fn = pictures(), torch.arange(PICTURES), loss_of(bumpy, torch.arange(PICTURES) % 2)
    shown = PGD(0.03, 0.03, 1, random_start=False).images(images, ids, loss_fn)
    assert torch.equal(shown, FGSM(0.03).images(images, ids, loss_fn))


def test_the_protocol_tells_all_settings() -> None:
    told = PGD().protocol(224, 224)
    rvt = {"norm": "linf", "epsilon_255": 1, "step_255": 0.5, "steps": 5, "restarts": 1, "start": "random", "seed": 0}
    l2 = {"norm": "l2", "epsilon": 0.5, "step": 0.1, "steps": 5, "restarts": 1, "start": "clean"}
    climbed = {"loss": "logsumexp(others) - true"}
    assert told == rvt | climbed
    assert PGD(0.5, 0.1, norm="l2", random_start=False).protocol(8, 8) == l2 | climbed
    assert isinstance(PGD(), Suite)
    assert not isinstance(PGD(), AttacksLogits)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epsilon": 8.0}, "8/255"),
        ({"epsilon": 0.0}, "suite clean"),
        ({"epsilon": float("nan")}, "nan"),
        ({"step_size": 0.0}, "step_size of 0.0"),
        ({"steps": 0}, "0 steps"),
        ({"restarts": 0}, "0 restarts"),
        ({"restarts": 2, "random_start": False}, "are the same"),
        ({"seed": -1}, "seed of PGD is -1"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        PGD(**settings)  # pyright: ignore[reportArgumentType]  # one dict of all types


# The following stands in for the package, which is an optional extra.
PACKAGE = """
import sys
import torch
class AutoAttack:
    def __init__(self, model, *, norm, eps, seed, device):
        self.model, self.norm, self.eps = model, norm, eps
        self.apgd_targeted, self.fab = type("Attack", (), {})(), type("Attack", (), {})()
        torch.manual_seed(seed)
    def run_standard_evaluation(self, images, targets, *, batch_size):
        sys.settrace(None)
        told.append((self.norm, self.eps, self.apgd_targeted.n_target_classes, self.fab.n_target_classes, batch_size))
        with torch.enable_grad():
            images = images.clone().requires_grad_()
            self.model(images).gather(1, targets[:, None]).sum().backward()
        return images - self.eps * images.grad.sign() * torch.rand(1), targets
told = []
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[object, ...]]:
    (tmp_path / "made_up_autoattack.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_up_autoattack", raising=False)
    monkeypatch.setattr(attacked, "PACKAGE", "made_up_autoattack")
    import made_up_autoattack  # pyright: ignore[reportMissingImports]  # written above

    return made_up_autoattack.told


def test_autoattack_leaves_no_trace(stand_in: list[tuple[object, ...]]) -> None:
    model, images, suite = linear(10), pictures(), AutoAttack(0.1, "l2", target_classes=5)
    targets, state = model(images).argmax(dim=1), torch.get_rng_state()

    def trace(frame: object, event: str, argument: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        shown = suite.images_against(model, images, targets, torch.arange(PICTURES))
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert stand_in == [("L2", 0.1, 5, 5, PICTURES)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    weights = next(model[1].parameters()).detach()
    assert torch.equal((images - shown).sign(), weights[targets].reshape(images.shape).sign())
    assert isinstance(suite, Suite)
    assert isinstance(suite, AttacksLogits)
    with pytest.raises(UsageError, match="images_against"):
        suite.images(images, torch.arange(PICTURES), loss_of(model, targets))


@pytest.mark.parametrize(
    ("classes", "width", "sentence"),
    [(3, SIDE, "has 3 classes.*suite pgd"), (6, SIDE, "write target_classes=5"), (10, SIDE - 1, "square")],
)
def test_autoattack_refuses_models_and_images(
    stand_in: list[tuple[object, ...]], classes: int, width: int, sentence: str
) -> None:
    images = pictures()[..., :width]
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * width, classes))
    with pytest.raises(UsageError, match=sentence):
        AutoAttack().images_against(model, images, torch.zeros(PICTURES, dtype=torch.int64), torch.arange(PICTURES))


def test_absent_package_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacked, "PACKAGE", "no_such_autoattack")
    with pytest.raises(UsageError, match=r"pip install 'discrete-adversarial-training\[autoattack\]', or take the suite pgd"):
        AutoAttack()
    with pytest.raises(UsageError, match="epsilon of AutoAttack is 4"):
        AutoAttack(4.0)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_autoattack_finds_the_exact_robust_accuracy(norm: attacked.Norm) -> None:
    pytest.importorskip("pyautoattack", reason=f"AutoAttack is an optional extra: pip install '{attacked.EXTRA}'")
    model, images, ids = linear(10), pictures(4), torch.arange(4)
    targets = model(images).argmax(dim=1)
    epsilon = float(radii(model, images, targets, norm).sort().values[1:3].mean())
    suite = AutoAttack(epsilon, norm)
    shown = suite.images_against(model, images, targets, ids)
    assert torch.equal(model(shown).argmax(dim=1) == targets, radii(model, images, targets, norm) > epsilon)
    change = (shown - images).flatten(1)
    length = change.abs().amax(dim=1) if norm == "linf" else torch.linalg.vector_norm(change, dim=1)
    assert length.max() <= epsilon + 1e-6
    assert torch.equal(shown, suite.images_against(model, images, targets, ids))
    ours = PGD(epsilon, epsilon / 4, 20, norm=norm).images(images, ids, loss_of(model, targets))
    assert (model(shown).argmax(dim=1) == targets).sum() <= (model(ours).argmax(dim=1) == targets).sum()
    assert str(suite.protocol(SIDE, SIDE)["package"]).startswith("pyautoattack 0.2")
