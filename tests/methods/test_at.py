"""Options of adversarial training in pixel space."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dat.attacks.pixels import pgd
from dat.errors import UsageError
from dat.methods.at import AT
from dat.tasks.classification import Classification
from dat.types import Batch

torch.set_num_threads(1)  # the tensors are tiny


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5)]
    return nn.Sequential(*layers).train()


def batch() -> Batch:
    numbers = torch.Generator().manual_seed(1)
    return Batch(torch.rand(6, 3, 8, 8, generator=numbers), torch.arange(6) % 5, numbers)


def run(method: AT, model: nn.Module) -> tuple[list[float], list[tuple[bool, Tensor]]]:
    """The losses, and for each pass whether it was in train mode and what was shown."""
    shown: list[tuple[bool, Tensor]] = []
    hook = model.register_forward_pre_hook(lambda module, images: shown.append((module.training, images[0].detach())))
    torch.manual_seed(2)
    losses = []
    for loss in method(model, batch(), Classification()):
        loss.backward()
        losses.append(loss.item())
    hook.remove()
    return losses, shown


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_defaults_are_the_plain_loss_of_pgd_to_the_bit() -> None:
    """Three steps in eval mode from the images themselves, no clean term."""
    model, twin, given = network(), network(), batch()
    losses, shown = run(AT(), model)
    adversarial = pgd(
        given.images,
        lambda x: Classification().losses(network().eval(), x, given.targets),
        epsilon=4 / 255,
        step_size=8 / 3 / 255,
        steps=3,
    )
    torch.manual_seed(2)
    loss = Classification().losses(twin, adversarial, given.targets).mean()
    loss.backward()
    assert [training for training, _ in shown] == [False, False, False, True]
    assert torch.equal(shown[-1][1], adversarial)
    assert losses == [loss.item()]
    assert torch.equal(gradients(model), gradients(twin))


def test_the_clean_term_takes_its_weight_from_the_adversarial_one() -> None:
    model, twin, given = network(), network(), batch()
    losses, shown = run(AT(clean_weight=0.3), model)
    assert [training for training, _ in shown] == [True, False, False, False, True]
    assert torch.equal(shown[0][1], given.images)
    torch.manual_seed(2)
    clean = Classification().losses(twin, given.images, given.targets).mean()
    adversarial = Classification().losses(twin, shown[-1][1], given.targets).mean()
    assert losses == pytest.approx([0.3 * clean.item(), 0.7 * adversarial.item()], rel=1e-6)
    (0.3 * clean + 0.7 * adversarial).backward()
    torch.testing.assert_close(gradients(model), gradients(twin), atol=1e-6, rtol=1e-5)


def test_an_attack_in_train_mode_sees_dropout_and_leaves_no_trace() -> None:
    model = network()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with_mode, without_mode = run(AT(eval_mode=False), model)[1], run(AT(), network())[1]
    assert [training for training, _ in with_mode] == [True, True, True, True]
    assert not torch.equal(with_mode[-1][1], without_mode[-1][1])
    twin = network()
    twin(with_mode[-1][1])
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, twin.get_buffer(name))
        assert not torch.equal(buffer, before[name])


@pytest.mark.parametrize("settings", [{"epsilon": -1.0}, {"steps": -1}, {"clean_weight": -0.1}, {"clean_weight": 1.0}], ids=str)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        AT(**settings)
