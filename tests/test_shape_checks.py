"""While tests run, types and shapes of every call are checked; by beartype alone exactly where no array is named."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import pytest
import shape_checks
from beartype import beartype
from jaxtyping import Float64, TypeCheckError

from dat.report.layout import covariance, whole
from dat.report.tables import Estimate

Pair = Float64[np.ndarray, "pair"]
Bound = TypeVar("Bound", bound=Pair)
Free = TypeVar("Free")


def checked(what: Any) -> Any:
    return shape_checks.checked(what, typechecker=beartype)


def halved(number: int, *, by: int = 2) -> int:
    """Half."""
    return number // by if by else "nothing"  # pyright: ignore[reportReturnType]


def added(first: Pair, second: Pair) -> Pair:
    return first + second if second.sum() else first[:1]


def gathered(by_name: Mapping[str, list[Pair]]) -> None:
    del by_name


def given(number: int) -> Iterator[int]:
    yield number


class Root:
    def size(self) -> int:
        return 1


class Leaf(Root):
    def size(self) -> int:
        return 1 + super().size()


@dataclasses.dataclass(frozen=True)
class Numbers:
    count: int


@dataclasses.dataclass(frozen=True)
class Arrays:
    first: Pair
    second: Pair


def test_types_of_what_goes_in_and_comes_out_are_checked_where_no_array_is_named() -> None:
    function = checked(halved)
    assert shape_checks.is_plain(halved)
    assert (function(6), function(6, by=3)) == (3, 2)
    assert (function.__name__, function.__doc__, function.__wrapped__) == ("halved", "Half.", halved)
    for wrong in (lambda: function("6"), lambda: function(6, by="2"), lambda: function(6, by=0)):
        with pytest.raises(TypeCheckError):
            wrong()


def test_shapes_are_held_against_each_other_where_arrays_are_named() -> None:
    function, two, three = checked(added), np.ones(2), np.ones(3)
    assert function(two, two).tolist() == [2, 2]
    for wrong in (lambda: function(two, three), lambda: function(two, np.zeros(2)), lambda: function(two, np.ones(2, int))):
        with pytest.raises(TypeCheckError):
            wrong()
    with pytest.raises(TypeCheckError):
        checked(gathered)({"a": [np.ones((2, 2))]})


def test_of_many_calls_in_a_test_the_first_and_then_a_few_are_checked() -> None:
    function, two, three = checked(added), np.ones(2), np.ones(3)

    def is_checked() -> bool:
        try:
            return not len(function(two, three[:1]))
        except TypeCheckError:
            return True

    found = [is_checked() for _ in range(4 * shape_checks.RARELY)]
    assert found[: shape_checks.OFTEN] == [True] * shape_checks.OFTEN
    assert sum(found) == shape_checks.OFTEN + 4
    shape_checks.CALLS.clear()  # as at the start of the next test
    assert is_checked()


def test_what_a_signal_calls_while_a_check_is_made_makes_none() -> None:
    """It would wait for a lock that is held by what it interrupts."""
    handler, said = checked(halved), list[int]()

    def interrupted() -> Callable[..., Any]:
        said.append(handler("6", by=0) == "nothing")
        return beartype(halved)

    made = shape_checks.at_first_use(halved, interrupted)
    assert made()(6) == 3
    assert said == [True]
    with pytest.raises(TypeCheckError):
        handler("6")


def test_fields_of_dataclasses_are_checked() -> None:
    numbers, arrays = checked(Numbers), checked(Arrays)
    assert numbers(1) == Numbers(1)
    assert arrays(np.ones(2), np.ones(2)).first.tolist() == [1, 1]
    with pytest.raises(TypeCheckError):
        numbers("1")
    with pytest.raises(TypeCheckError):
        arrays(np.ones(2), np.ones(3))


def test_a_method_still_knows_its_class() -> None:
    assert checked(Leaf.size)(Leaf()) == 2


@pytest.mark.parametrize(
    ("hint", "does"),
    [
        (Pair, True),
        (Pair | None, True),
        (dict[str, tuple[int, Pair]], True),
        (Callable[[Pair], int], True),
        (Bound, True),
        (list["Pair"], True),
        (Free, False),
        (np.ndarray, False),
        (dict[str, tuple[int, ...]] | None, False),
        (Callable[..., Any], False),
    ],
)
def test_which_hints_name_arrays(hint: object, does: bool) -> None:
    assert shape_checks.names_arrays(hint) == does
    assert not shape_checks.is_plain(given)


@pytest.mark.skipif(os.environ.get("DAT_SHAPE_CHECKS", "1") != "1", reason="the checks are turned off")
@pytest.mark.parametrize(("function", "given"), [(whole, ("1",)), (covariance, (np.ones(2),)), (Estimate, ("1", None, 1, 1))])
def test_what_is_imported_of_the_package_is_checked(function: Callable[..., object], given: tuple[object, ...]) -> None:
    with pytest.raises(TypeCheckError):
        function(*given)
