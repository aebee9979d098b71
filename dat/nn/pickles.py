"""What a pickle says, without doing it: its program is read into inert descriptions; nothing is imported or called.

A pickle is a program that may call anything. Here its opcodes are followed on strings, numbers, lists, tuples and
dictionaries alone; what it would import is a `Global`, what it would call or make is a `Made`, what it would fetch
from elsewhere is a `Reference`. Nothing of these can be called, so no file reaches code by any opcode. Costs grow
linearly with the file, as each opcode moves what is on the stack and copies nothing that it refers to.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from mmap import mmap
from typing import Any


@dataclass(frozen=True)
class Global:
    """The name of what would be imported."""

    module: str
    name: str


@dataclass(eq=False)
class Made:
    """What a call of `function` with `arguments` would give, and what would be put into that.

    `entries`: items under words or numbers, as of an OrderedDict; `state`: what `__setstate__` or `__dict__` would get.
    """

    function: object
    arguments: object
    entries: dict[str | int, object] = field(default_factory=dict)
    state: object = None


@dataclass(eq=False)
class Reference:
    """The persistent id of what lies outside the pickle, as do the storages of torch."""

    identity: object


@dataclass(frozen=True, eq=False)
class Pickle:
    """The object that a pickle describes, and all references in the order in which they are met."""

    content: object
    references: list[Reference]


def read_pickle(stream: BytesIO | mmap) -> Pickle:
    """The next pickle of a stream, which is left behind its end. Sets are lists here, and frozen sets tuples.

    Raises:
        ValueError: it is damaged, cut short, no pickle, or one with buffers outside of it.
    """
    machine = _Machine()
    program: Any = stream  # a map of memory reads as a file does, but is not typed as one
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name not in OPERATIONS:
            raise ValueError(f"its pickle has the opcode {opcode.name}, of which torch.save makes no use")
        OPERATIONS[opcode.name](machine, argument)
    return Pickle(machine.take(1)[0], machine.references)


class _Machine:
    """Stack and memory of a pickle's program."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, object] = {}  # no list, whose length a huge index could blow up
        self.references: list[Reference] = []

    def push(self, value: object) -> None:
        self.stack.append(value)

    def top(self) -> object:
        if not self.stack:
            raise ValueError("its pickle takes from an empty stack")
        return self.stack[-1]

    def take(self, count: int) -> list[Any]:
        """The last `count` values, off the stack."""
        if len(self.stack) < count:
            raise ValueError("its pickle takes from an empty stack")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def take_marked(self) -> list[Any]:
        """All values behind the last mark, off the stack."""
        if not self.marks:
            raise ValueError("its pickle takes from an empty stack")
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def pop(self) -> None:
        """Drop the last value, or the mark that stands above it."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.take(1)

    def remember(self, index: int) -> None:
        self.memory[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memory:
            raise ValueError("its pickle recalls what it never stored")
        self.push(self.memory[index])

    def name(self, module: object, name: object) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("its pickle names a class by something else than words")
        return Global(module, name)

    def make(self, function: object, arguments: object) -> None:
        self.push(Made(function, arguments))

    def refer(self, identity: object) -> None:
        self.references.append(Reference(identity))
        self.push(self.references[-1])

    def append(self, values: list[Any]) -> None:
        """Lengthen the list on top; what is made by a call keeps no list, as no file of weights needs it."""
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Made):
            raise ValueError("its pickle appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        """Fill the dictionary on top; of keys, only words and numbers: others may be costly to hash, and name no tensor."""
        target = self.top()
        entries = target.entries if isinstance(target, Made) else target
        if not isinstance(entries, dict):
            raise ValueError("its pickle sets items of what is no dictionary")
        entries.update(_pairs(items))

    def build(self, state: object) -> None:
        """Note the state of what was made; dictionaries and classes have none that matters."""
        target = self.top()
        if isinstance(target, Made):
            target.state = state


def _pairs(items: list[Any]) -> Iterable[tuple[str | int, object]]:
    return ((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, str | int))


Operation = Callable[[_Machine, Any], object]

VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
"""Opcodes that push their argument."""

OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(VALUES, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "LIST": lambda machine, _: machine.push(machine.take_marked()),
    "DICT": lambda machine, _: machine.push(dict(_pairs(machine.take_marked()))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.take_marked())),
    "FROZENSET": lambda machine, _: machine.push(tuple(machine.take_marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.append(machine.take_marked())),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.take_marked()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.take_marked(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memory)),
    "GLOBAL": lambda machine, names: machine.push(machine.name(*names.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, _: machine.push(machine.name(*machine.take(2))),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, code: machine.push(Global("copyreg", f"extension {code}"))),
    "REDUCE": lambda machine, _: machine.make(*machine.take(2)),
    "NEWOBJ": lambda machine, _: machine.make(*machine.take(2)),
    "NEWOBJ_EX": lambda machine, _: machine.make(*machine.take(3)[:2]),
    "INST": lambda machine, names: machine.make(machine.name(*names.split(" ", 1)), tuple(machine.take_marked())),
    "OBJ": lambda machine, _: machine.make(*_class_and_arguments(machine.take_marked())),
    "BUILD": lambda machine, _: machine.build(machine.take(1)[0]),
    "PERSID": _Machine.refer,
    "BINPERSID": lambda machine, _: machine.refer(machine.take(1)[0]),
}
"""What each opcode of a pickle does here: all but those for buffers that are handed over beside it."""


def _class_and_arguments(values: list[Any]) -> tuple[object, tuple[Any, ...]]:
    if not values:
        raise ValueError("its pickle makes an object of no class")
    return values[0], tuple(values[1:])
