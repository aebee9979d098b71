"""Shared by all tests: shape checks of calls, and where the development data lie."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import shape_checks

if os.environ.get("DAT_SHAPE_CHECKS", "1") == "1":
    shape_checks.install()

DEAREST = (
    "engine/test_processes.py",
    "commands/test_check_recipes.py",
    "engine/test_resume.py",
    "commands/test_corrected.py",
    "commands/test_train.py",
    "report/test_committed.py",
    "test_readme.py",
)


def pytest_runtest_setup() -> None:
    """The shapes of the first calls of each test are checked."""
    shape_checks.CALLS.clear()


@pytest.hookimpl(tryfirst=True)  # marks are chosen by afterwards
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those of `long.txt`; what takes longest comes first, as a file is one process's, and none shall be left with one."""
    here, long = Path(__file__).parent, long_tests()
    for item in items:
        file = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
        names = (getattr(item, "originalname", item.name), *getattr(item, "fixturenames", ()))
        if any(f"{file}::{name}" in long for name in names):
            item.add_marker(pytest.mark.long)
    places = {here / name: place for place, name in enumerate(DEAREST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def long_tests() -> set[str]:
    """What `long.txt` names, as FILE::NAME."""
    lines = (Path(__file__).parent / "long.txt").read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


def pytest_collection_finish() -> None:
    """Leave what is there now out of garbage collections: each end of a training asks for one, and they took seconds."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end it is garbage, too."""
    gc.unfreeze()


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data, beside the checkout; users do not have them."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the development data (../shared/data) are not beside this checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Callable[[str], Path]:
    """Folder of one item of the golden data: what original implementations gave for stored inputs."""

    def folder(item: str) -> Path:
        path = shared_data / "golden" / item
        assert path.is_dir(), f"no golden item {item}"
        return path

    return folder


@pytest.fixture(scope="session", autouse=True)
def no_garbage_is_collected_for_a_device() -> Iterator[None]:
    """Each training ends by a call of the collector, which goes through all that tests have loaded: a tenth of their time."""
    from accelerate.utils import memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "clear_device_cache", lambda **_: None, raising=False)  # older versions have none
        yield


@pytest.fixture(scope="session", autouse=True)
def hashes_are_kept_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not in the home of whoever runs the tests. Only ours: matplotlib would make its fonts anew in another cache."""
    from dat.data import contents

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@contextmanager
def blank_figures() -> Iterator[None]:
    """Figures of pages are made, but not drawn: that takes as long as a small training, and tests of pages see them drawn."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasSVG, "print_svg", lambda canvas, file, **_: file.write("<svg></svg>"))
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    """A test with `blank_figures`."""
    with blank_figures():
        yield


@pytest.fixture(scope="module")
def all_undrawn() -> Iterator[None]:
    """All tests of a file, and what they share, with `blank_figures`."""
    with blank_figures():
        yield
