"""Progress of long work on stderr: a bar with time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
_following: ContextVar[float | None] = ContextVar("following", default=0.0)


@contextmanager
def followed_by(seconds: float | None) -> Iterator[None]:
    """Bars made inside also say the time left of the whole: their own, and `seconds` of what follows them.

    Inside another one both follow. None: nobody can tell yet, before the first training is done.
    """
    outer = _following.get()
    token = _following.set(None if seconds is None or outer is None else outer + seconds)
    try:
        yield
    finally:
        _following.reset(token)


def warn(sentence: str) -> None:
    """Say on stderr, from the first process, what a reader of the numbers should know."""
    if os.environ.get("RANK", "0") == "0":
        print(f"Note: {sentence}", file=sys.stderr, flush=True)


def speed_text(images_per_s: float) -> str:
    """Images per second; three digits, so that a slow speed is no 0."""
    return f"{images_per_s:,.0f} images/s" if images_per_s >= 100 else f"{images_per_s:.3g} images/s"


class Bar:
    """One job of `total` steps; use as a context manager.

    `advance(done, note)` may be called at every step: a terminal is redrawn a few times a second, another stream gets a line
    every ten seconds.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, shown: bool = True) -> None:
        self.title, self.total, self.first, self.done = title, total, done, done
        self.started = self.last_line = time.monotonic()
        self.shown, self.following = shown, _following.get()
        self.bar = self._terminal_bar() if shown and sys.stderr.isatty() else None
        self.task = self.bar.add_task(title, total=total, completed=done, note="") if self.bar else None

    def _terminal_bar(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        return Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Bar:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()
        elif self.shown and kind is None:
            self._line(self.total, "")

    def advance(self, done: int, note: str) -> None:
        """Say that `done` steps are finished; `note` holds loss and speed."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, note=f"{note}  {self._whole(done)}".strip())
        elif self.shown and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._line(done, note)

    def add(self, note: str, count: int) -> None:
        """Say that `count` more images are finished; their speed stands behind the note."""
        self.done += count
        elapsed = max(time.monotonic() - self.started, 1e-9)
        self.advance(self.done, f"{note}  {speed_text((self.done - self.first) / elapsed)}")

    def skip(self, note: str, count: int) -> None:
        """Say that `count` images need not be worked on."""
        self.done, self.first = self.done + count, self.first + count
        self.advance(self.done, note)

    def _line(self, done: int, note: str) -> None:
        self.last_line = time.monotonic()
        elapsed, known = self.last_line - self.started, done > self.first or done >= self.total
        left = f", {self._left(done):.0f} s left" * known  # of what was only skipped no speed is known
        notes = f"{note}  {self._whole(done) * known}".strip()
        print(f"{self.title}: {done}/{self.total}, {elapsed:.0f} s{left}  {notes}".rstrip(), file=sys.stderr)

    def _left(self, done: int) -> float:
        return (time.monotonic() - self.started) / max(done - self.first, 1) * (self.total - done)

    def _whole(self, done: int) -> str:
        if self.following is None:
            return "(of the whole: told after the first training)"
        return f"(of the whole: about {self._left(done) + self.following:.0f} s left)" if self.following else ""
