"""The errors a user can meet. Each message is one sentence: what is wrong, the value, what to write instead."""

from collections.abc import Sequence


class DatError(Exception):
    """The request could not be carried out (exit code 1)."""

    exit_code = 1


class UsageError(DatError, ValueError):
    """The request itself is wrong: a recipe, an argument, an option (exit code 2)."""

    exit_code = 2


class DataError(DatError):
    """Images, labels or folders are not what they should be."""


class CheckpointError(DatError):
    """A file that holds weights or the state of a run is missing, damaged or of another kind."""


class RunFolderError(DatError):
    """A run folder is in use, already filled, or cannot be written."""


class DivergenceError(DatError):
    """A loss, a gradient or an output is not a number."""


def did_you_mean(near: Sequence[str]) -> str:
    """A near miss as a question, with a space behind; empty where there is none."""
    return f"did you mean {near[0]!r}? " if near else ""
