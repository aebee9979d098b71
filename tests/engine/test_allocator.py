"""What is freed is used again, without the system."""

import platform
import resource
import subprocess
import sys

import pytest

from dat.engine.allocator import keep_freed_memory

TOUCHED = """
import os, resource, sys
for name in [name for name in os.environ if name.startswith("MALLOC_")]:
    del os.environ[name]
from dat.engine.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(50):
    one, other = bytearray(2**24), bytearray(2**24)
    del one, other
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only GNU's C library can be asked")
def test_pages_of_freed_blocks_are_not_asked_for_again() -> None:
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", TOUCHED, kind], capture_output=True, text=True, check=True).stdout)
        for kind in ("kept", "returned")
    )
    pages = 2 * 2**24 // resource.getpagesize()
    assert kept < 3 * pages
    assert returned > 20 * pages


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()
