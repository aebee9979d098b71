"""A backbone that does not train."""

from pathlib import Path

import tiny
import torch


def test_what_is_frozen_stays_and_its_running_statistics_too(tmp_path: Path) -> None:
    model = tiny.network()
    for part in (model.network.get_submodule("0"), model.network.get_submodule("1")):
        part.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = tiny.trained(tmp_path, model=model, epochs=1).state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"network.5.weight", "network.5.bias"}
