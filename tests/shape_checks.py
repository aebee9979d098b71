"""Every function of the package checks shapes and types of its annotations while tests run, at what that costs at least.

jaxtyping binds the arguments of each call anew to remember the sizes of axes. Functions that name no array have none to
remember: beartype alone checks the same of them, in a fiftieth of the time. Of the others the first calls of each test are
checked, and then one in `RARELY`: a training calls the layers of its networks thousands of times, with the same shapes.
Checks are made when a function is first called, as making those of all functions takes longer than most tests.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType, NoneType
from typing import Any, Literal, NewType, TypeGuard, TypeVar, get_args, get_origin

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError
from jaxtyping._decorator import _destring_annotation  # as jaxtyping reads them, so that the same is checked

OFTEN, RARELY = 8, 32
CALLS: dict[FunctionType, int] = {}
"""Of each function since a test began; `tests/conftest.py` clears it."""
WAITING: dict[str, list[Callable[[], object]]] = {}
"""What makes the checks of each module's functions."""
MAKING: list[FunctionType] = []
"""Whose checks are being made."""
PLAIN = beartype(conf=BeartypeConf(violation_type=TypeCheckError))
original = jaxtyping.jaxtyped


def install() -> None:
    """For what is imported of `dat` from now on."""
    setattr(jaxtyping, "jaxtyped", lambda **settings: functools.partial(checked, **settings))  # noqa: B010
    jaxtyping.install_import_hook("dat", "beartype.beartype")


def checked(what: Any, *, typechecker: Any) -> Any:
    """A function or class, as jaxtyping's own decorator gives it but for functions without arrays, which beartype checks."""
    if not inspect.isclass(what):
        if is_plain(what):
            return plainly(what)
        return sparingly(what, typechecker) if returns_at_once(what) else original(what, typechecker=typechecker)
    made = vars(what).get("__init__")
    if dataclasses.is_dataclass(what) and isinstance(made, FunctionType) and is_plain(made):
        setattr(what, "__init__", plainly(made))  # noqa: B010
        return what
    return original(what, typechecker=typechecker)


def is_plain(what: object) -> bool:
    """Whether it is a function that returns at once and names no array; what cannot be told is not plain."""
    if not returns_at_once(what) or hasattr(what, "__wrapped__"):
        return False
    return not any(map(names_arrays, hints_of(what).values()))


def returns_at_once(what: object) -> TypeGuard[FunctionType]:
    """Whether it is a function, and no generator or coroutine."""
    return isinstance(what, FunctionType) and not inspect.isgeneratorfunction(what) and not inspect.iscoroutinefunction(what)


def hints_of(function: FunctionType) -> dict[str, Any]:
    """Its annotations; `Any` where one cannot be read yet, as in jaxtyping."""
    return {name: _destring_annotation(hint, function.__globals__) for name, hint in function.__annotations__.items()}


def names_arrays(hint: Any) -> bool:
    """Whether jaxtyping checks any of it; so, too, where that cannot be told."""
    if get_origin(hint) is Literal:
        return False
    if parts := get_args(hint):
        return any(names_arrays(part) for part in parts)
    if isinstance(hint, list | tuple):  # the arguments of a Callable
        return any(map(names_arrays, hint))
    if isinstance(hint, TypeVar):
        return any(map(names_arrays, (hint.__bound__, *hint.__constraints__)))
    if isinstance(hint, NewType):
        return names_arrays(hint.__supertype__)
    if isinstance(hint, type):
        return issubclass(hint, AbstractArray)
    return hint not in (None, Ellipsis, NoneType)


def plainly(function: FunctionType) -> Callable[..., Any]:
    """It, checked by beartype alone; to others it looks as it was."""
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, hints_of(function)
    twin.__dict__.update(function.__dict__)
    made = at_first_use(function, lambda: PLAIN(twin))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return made()(*args, **kwargs)

    return call


def sparingly(what: FunctionType, typechecker: Any) -> Callable[..., Any]:
    """It, checked by jaxtyping, but for most of many calls."""
    made = at_first_use(what, lambda: original(what, typechecker=typechecker))

    @functools.wraps(what)
    def call(*args: Any, **kwargs: Any) -> Any:
        CALLS[what] = calls = CALLS.get(what, 0) + 1
        return (made() if calls <= OFTEN or calls % RARELY == 0 else what)(*args, **kwargs)

    return call


def at_first_use(function: FunctionType, make: Callable[[], Callable[..., Any]]) -> Callable[[], Callable[..., Any]]:
    """`make`, once. What a signal calls while a check is made is not checked: it would wait for the locks of beartype."""

    @functools.cache
    def once() -> Callable[..., Any]:
        MAKING.append(function)
        try:
            return make()
        finally:
            MAKING.remove(function)

    if "<locals>" not in function.__qualname__:
        WAITING.setdefault(function.__module__, []).append(once)
    return lambda: function if MAKING else once()


def make_now(package: str) -> None:
    """The checks of all functions of a package, for tests that listen to what the interpreter compiles."""
    for module, makers in WAITING.items():
        for make in makers if f"{module}.".startswith(f"{package}.") else ():
            make()
