"""A network as a graph that runs without this package: a program of `torch.export`, or a file of ONNX."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dat.errors import CheckpointError, UsageError
from dat.installed import is_installed

Form = Literal["onnx", "torch-export"]
SUFFIXES: Mapping[Form, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
NEEDED = ("onnx", "onnxruntime", "onnxscript")
"""Packages that write ONNX, and run it."""
EXAMPLES = 2
"""Inputs that a graph is made from: of one, `torch.export` takes the number 1 for a constant, and refuses other batches."""
LARGEST = 2**31 - 2**20
"""Bytes that one file of ONNX holds: its format counts in 31 bits."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Graph:
    """A network to write, one input of it, and what to tell with it: `given` and `gives` name what goes in and comes out."""

    network: nn.Module
    example: Tensor
    gives: str
    facts: Mapping[str, str]

    @property
    def given(self) -> str:
        """What the network calls its input."""
        return next(iter(inspect.signature(self.network.forward).parameters))


def refuse_without_onnx() -> None:
    """Raises: UsageError: a package that ONNX needs is missing."""
    if missing := [name for name in NEEDED if not is_installed(name)]:
        raise UsageError(
            f"ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "write pip install 'discrete-adversarial-training[onnx]', or export --to torch-export."
        )


def write_graph(form: Form, graph: Graph, path: Path) -> int | None:
    """Write a network for batches of any number; gives the opset of ONNX.

    Raises:
        UsageError: the network cannot be written so, with the reason.
    """
    with _quiet():
        try:
            program = _program_of(graph)
            return _write_onnx(graph, program, path) if form == "onnx" else _write_program(graph, program, path)
        except (UsageError, OSError, MemoryError):
            raise
        except Exception as error:  # torch and onnxscript raise in as many ways as there are operations
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UsageError(
                f"{type(graph.network).__name__} cannot be written as {form} by torch {torch.__version__} ({reason[:200]}); "
                f"export another network, or --to {'torch-export' if form == 'onnx' else 'onnx'}."
            ) from error


def read_graph(form: Form, path: Path) -> Run:
    """What was written, as others run it: by onnxruntime, or by torch alone.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with _quiet():
            return _read_onnx(path) if form == "onnx" else _read_program(path)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} was written, but cannot be read again ({reason[:200]}); write it anew.") from error


def _program_of(graph: Graph) -> torch.export.ExportedProgram:
    batch = torch.cat([graph.example] * EXAMPLES)
    with torch.no_grad():
        dynamic = {graph.given: {0: torch.export.Dim("batch")}}
        return torch.export.export(graph.network, (batch,), dynamic_shapes=dynamic, strict=False)


def _write_onnx(graph: Graph, program: torch.export.ExportedProgram, path: Path) -> int:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > LARGEST:
        raise UsageError(f"The network has {size / 2**30:.1f} GiB, and one file of ONNX holds 2; write --to torch-export.")
    names: dict[str, Any] = {"input_names": [graph.given], "output_names": [graph.gives]}
    shapes = {graph.given: {0: "batch"}}
    made: Any = torch.onnx.export(program, (), dynamo=True, verbose=False, dynamic_shapes=shapes, **names)
    made.model.metadata_props.update(graph.facts)
    made.save(path, external_data=False)
    return made.model.opset_imports[""]


def _write_program(graph: Graph, program: torch.export.ExportedProgram, path: Path) -> None:
    torch.export.save(program, path, extra_files=dict(graph.facts))


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda batch: torch.from_numpy(session.run(None, {given.name: batch.numpy()})[0])


def _read_program(path: Path) -> Run:
    return torch.export.load(path).module()


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch and onnxscript tell of their own insides while they write is no word to the user.

    torch prints the whole graph where it cannot go on; what is raised says why.
    """
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
