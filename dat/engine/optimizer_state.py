"""The state of a torch optimizer as tensors and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split `optimizer.state_dict()` into tensors named `<parameter>.<name>` and what JSON can hold."""
    tensors, numbers = {}, {}
    for parameter, entries in state["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{parameter}.{name}"] = value
    return tensors, {"groups": state["param_groups"], "numbers": numbers}


def restore(tensors: Mapping[str, Tensor], rest: Any) -> dict[str, Any]:
    """The `state_dict` that `flatten` was given."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *rest["numbers"].items()):
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = value
    return {"state": state, "param_groups": rest["groups"]}
