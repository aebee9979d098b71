"""The tensors of a file of `torch.save`, in its zip form or the older one, without unpickling it.

Source: pytorch/pytorch:torch/serialization.py (both forms), torch/_utils.py (how tensors are described).
"""

from __future__ import annotations

import functools
import math
import mmap
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dat.errors import CheckpointError
from dat.nn.pickles import Global, Made, Pickle, Reference, read_pickle

WRAPPERS = ("state_dict", "model", "ema", "state_dict_ema", "module", "generator")
"""Where the weights may lie below the top of a file; of several, the first that holds tensors is taken."""
AVERAGES = ("state_dict_ema", "model_ema", "ema")
"""Where files of timm and others keep the running average of the weights, which is what they test."""
TOP = ""
"""For the top of a file."""

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
# Modules of one network, each counted once per path to it: a chain of shared ones would take forever to walk.
MOST_MODULES = 10_000
# Offset, sizes and strides of a tensor of 64 dimensions.
MOST_NUMBERS = 129

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
DTYPES = {
    name: getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
"""Of tensors in untyped storages, by their names in torch."""
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2")
PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")


@dataclass(frozen=True)
class Storage:
    """Values in a row, which tensors are views of; `key` is its name in the file."""

    dtype: torch.dtype
    key: str
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize


Sizes = tuple[Any, ...]
Contents = Callable[[Storage], Tensor]
"""The values of a storage, as a tensor of one dimension."""


def read_torch_file(path: Path, places: Sequence[str] = (*WRAPPERS, TOP)) -> tuple[str, dict[str, Tensor]]:
    """The first of the places that holds a dictionary of tensors, or a module, whose state dictionary counts; and these.

    What is no tensor is left out. Values stored outside that dictionary (an optimizer's, mostly) are not even read.

    Raises:
        CheckpointError: no such dictionary is found.
        Exception: of any kind, where the file is damaged or no file of `torch.save`.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            return _find_tensors(*_open_zip(archive, path.stat().st_size), path, places)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return _find_tensors(*_open_old(mapped), path, places)


def _open_zip(archive: zipfile.ZipFile, size: int) -> tuple[object, Contents]:
    """Content of the zip form. No member is extracted: each is found by its whole name, and read into memory."""
    if sum(member.file_size for member in archive.infolist()) > size:
        raise ValueError("its parts are larger than the file, though torch.save never compresses")
    roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise ValueError(f"a zip file with {len(roots)} of the data.pkl that torch.save writes")
    names = set(archive.namelist())
    if f"{roots[0]}byteorder" in names and archive.read(f"{roots[0]}byteorder") != sys.byteorder.encode():
        raise ValueError("it has the byte order of another kind of machine")
    content = read_pickle(BytesIO(archive.read(f"{roots[0]}data.pkl"))).content
    # Reading a member to its end compares its checksum.
    return content, lambda storage: _values(archive.read(f"{roots[0]}data/{storage.key}"), storage)


def _open_old(mapped: mmap.mmap) -> tuple[object, Contents]:
    """Content of the form before torch 1.6: five pickles, then each storage with its length before it."""
    if (read_pickle(mapped).content, read_pickle(mapped).content) != (MAGIC, VERSION):
        raise ValueError("neither safetensors nor of torch.save")
    system = read_pickle(mapped).content
    if not isinstance(system, dict) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("it has the byte order of another kind of machine")
    pickle = read_pickle(mapped)
    starts = dict(_old_storages(pickle, mapped))
    return pickle.content, lambda storage: _values(mapped[starts[storage.key] : starts[storage.key] + storage.size], storage)


def _old_storages(pickle: Pickle, mapped: mmap.mmap) -> Iterator[tuple[str, int]]:
    """Where the values of each storage start."""
    known = {storage.key: storage for storage in map(_storage, pickle.references) if storage}
    keys = read_pickle(mapped).content
    for key in keys if isinstance(keys, list) else []:
        count = int.from_bytes(mapped.read(8), "little")
        if count != known[key].count:
            raise ValueError(f"storage {key} has {count} values instead of {known[key].count}")
        yield key, mapped.tell()
        mapped.seek(known[key].size, os.SEEK_CUR)


def _values(stored: bytes, storage: Storage) -> Tensor:
    if len(stored) != storage.size:
        raise ValueError(f"storage {storage.key} has {len(stored)} bytes instead of {storage.size}")
    # A copy, as torch writes into what it is given; frombuffer takes nothing empty.
    return torch.frombuffer(bytearray(stored), dtype=storage.dtype) if stored else torch.empty(0, dtype=storage.dtype)


def _storage(reference: object) -> Storage | None:
    """The storage that a reference means: `("storage", class, key, device, count)`, in the older form also a view's bounds."""
    match reference:
        case Reference(("storage", Global(_, kind), str(key), _, int(count), *view)) if kind in STORAGES and count >= 0:
            if view not in ([], [None]):
                raise ValueError("it has the shared storages of torch before 0.4; save it again with a newer one")
            return Storage(STORAGES[kind], key, count)
    return None


def _find_tensors(content: object, contents: Contents, path: Path, places: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    top = _entries(content)
    contents = functools.cache(contents)  # tensors may share a storage
    for place in places:
        candidate = content if place == TOP else top.get(place)
        found = dict(_named_tensors(candidate)) if _is_module(candidate) else _entries(candidate)
        if tensors := {str(key): value for key, entry in found.items() if (value := _tensor(entry, contents)) is not None}:
            return place, tensors
    if TOP not in places:
        known = ", ".join(key for key in top if isinstance(key, str))[:200]
        raise CheckpointError(f"{path} holds no tensors under {', '.join(places)!r}; write one of {known or 'nothing'}.")
    raise CheckpointError(
        f"{path} holds no dictionary of tensors, neither at its top nor under {', '.join(map(repr, WRAPPERS))}; "
        "save the network's state_dict, best as .safetensors."
    )


def _entries(node: object) -> Mapping[str | int, object]:
    """Items of a dictionary, of any class; Python 2 gave those of an OrderedDict as pairs to its call."""
    match node:
        case dict():
            return node
        case Made(Global("collections", "OrderedDict"), ([*pairs],)):
            return {key: value for key, value in map(_pair, pairs) if isinstance(key, str)}
        case Made():
            return node.entries
    return {}


def _members(node: object) -> list[Any]:
    """Of a set, which older protocols make of a list by a call."""
    match node:
        case Made(Global("builtins" | "__builtin__", "set"), ([*members],)) | [*members]:
            return members
    return []


def _pair(node: object) -> tuple[object, object]:
    match node:
        case [key, value]:
            return key, value
    raise ValueError("its pickle makes a dictionary of what are no pairs")


def _is_module(node: object) -> bool:
    return isinstance(node, Made) and isinstance(node.state, dict) and {"_parameters", "_modules"} <= node.state.keys()


def _named_tensors(module: object) -> Iterator[tuple[str, object]]:
    """What the state dictionary of a pickled module would hold."""
    ahead, walked = [("", module)], 0
    while ahead:
        prefix, node = ahead.pop()
        if not (_is_module(node) and isinstance(node, Made) and isinstance(node.state, dict)):
            continue
        state = node.state
        walked += 1
        if walked > MOST_MODULES:
            raise ValueError(f"a network of more than {MOST_MODULES} modules")
        passing = _members(state.get("_non_persistent_buffers_set"))
        for kind in ("_parameters", "_buffers"):
            yield from ((f"{prefix}{key}", value) for key, value in _entries(state.get(kind)).items() if key not in passing)
        ahead += [(f"{prefix}{key}.", child) for key, child in _entries(state["_modules"]).items()]


def _tensor(node: object, contents: Contents) -> Tensor | None:
    """The tensor that a call describes; None if it describes none, or one that is not dense and plain."""
    match node:
        case Made(Global("torch._utils", name), (inner, *_)) if name in PARAMETERS:
            return _tensor(inner, contents)
        case Made(Global("torch._tensor", "_rebuild_from_type_v2"), (function, _, tuple(arguments), *_)):
            return _tensor(Made(function, arguments), contents)
        case Made(Global("torch._utils", name), (reference, offset, tuple(size), tuple(stride), *rest)) if name in TENSORS:
            return _view(_storage(reference), offset, size, stride, rest, contents)
        case Made(Global("torch._utils", "_rebuild_tensor_v3"), arguments):
            return _untyped_view(arguments, contents)
    return None


def _untyped_view(arguments: object, contents: Contents) -> Tensor:
    match arguments:
        case (reference, offset, tuple(size), tuple(stride), _, _, Global("torch", name), *rest) if name in DTYPES:
            storage, dtype = _storage(reference), DTYPES[name]
            if storage is not None:
                storage = Storage(dtype, storage.key, storage.size // dtype.itemsize)
            return _view(storage, offset, size, stride, [None, None, *rest], contents)
    raise ValueError("it has tensors of a dtype that no weights have")


def _view(storage: Storage | None, offset: Any, size: Sizes, stride: Sizes, rest: list[Any], contents: Contents) -> Tensor:
    if storage is None or rest[2:3] not in ([], [None], [{}]):
        raise ValueError("it has tensors of a storage that is not known here, or conjugated ones")
    numbers = (offset, *size, *stride)
    if len(numbers) > MOST_NUMBERS or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("it has tensors of no possible size")
    # Values may stand for several only where a dimension was expanded, which weights are not: a short file would fill memory.
    if math.prod(size) > storage.count:
        raise ValueError(f"a tensor of size {size} on the {storage.count} values of storage {storage.key}")
    return contents(storage).as_strided(size, stride, offset)
