"""Several labelled sets as one."""

import numpy as np
import pytest

from dat.data.concatenated import Concatenated
from dat.data.embedded import ArraySource
from dat.errors import DataError


def source(values: list[int], *, classes: tuple[str, ...] = ("a", "b")) -> ArraySource:
    images = np.stack([np.full((3, 2, 2), value, dtype=np.uint8) for value in values])
    return ArraySource(images, np.array([value % 2 for value in values]), classes, names=[f"p{value}" for value in values])


def test_each_picture_is_that_of_its_source():
    joined = Concatenated([source([0, 1, 2]), source([13]), source([24, 25])])
    assert len(joined) == 6
    assert [joined.name(index) for index in range(6)] == ["p0", "p1", "p2", "p13", "p24", "p25"]
    assert [joined.read(index).getpixel((0, 0)) for index in (0, 2, 3, 5)] == [(v, v, v) for v in (0, 2, 13, 25)]
    assert joined.targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert joined.fingerprint() != Concatenated([source([0, 1, 2]), source([24, 25]), source([13])]).fingerprint()


def test_other_classes_are_refused():
    with pytest.raises(DataError, match=r"differ in their classes, e\.g\. b, c"):
        Concatenated([source([0]), source([1], classes=("a", "c"))])
