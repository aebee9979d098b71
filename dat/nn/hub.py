"""The Hugging Face Hub: which files of a model go there and come from there, and what its client's errors mean.

Nothing of a file is read here. What is asked of the client are methods of `huggingface_hub.HfApi`, by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dat.errors import CheckpointError, DatError, UsageError
from dat.nn.timm_folder import CONFIG, WEIGHTS
from dat.progress import warn

CARD, RECIPE, RUN, ROWS = "README.md", "recipe.yaml", "run.json", "results.jsonl"
NEEDED = (WEIGHTS, RECIPE, RUN)
SENT = (CARD, CONFIG, *NEEDED, ROWS)
"""All that is sent and fetched; other files of a model are left where they are."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy")
"""Ends of names of files that can run code when they are read."""
MOST_TEXT = 2**24
"""Bytes of a file that is no weights."""
WAIT = 10.0
"""Seconds until a server that does not answer counts as out of reach."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def refuse_odd_name(name: str) -> None:
    """Raises: UsageError: it cannot be the name of a model of the hub."""
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(f"{name!r} is no name of a model on the hub; write user/name, of letters, digits and any of . _ -")


def client() -> Any:
    """The hub's own client, with the token that this machine has."""
    return huggingface_hub.HfApi(library_name="dat")


def send(folder: Path, name: str, *, private: bool) -> str:
    """Upload what lies in a folder as one commit, into a new model or over one of that name; gives its address.

    Raises:
        CheckpointError: the hub cannot be reached or refuses; or a model that should be private is public.
    """
    with _told(name, None):
        api = client()
        address = api.create_repo(name, private=private, exist_ok=True)
        if private and not api.model_info(name, timeout=WAIT).private:
            raise CheckpointError(
                f"{name} is there already and is public, so nothing was sent; make it private on the hub first."
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model, recipe and results")
        return str(address)


def fetch(name: str, folder: Path, *, revision: str | None) -> str:
    """Download the files of a model that we know by name into a folder; gives the commit they are of.

    Raises:
        CheckpointError: there is no such model or revision, the hub cannot be reached, or it is no model of `dat push`.
    """
    with _told(name, revision):
        api = client()
        info = api.model_info(name, revision=revision, timeout=WAIT, files_metadata=True)
        sizes = {str(file.rfilename): file.size for file in info.siblings or ()}
        wanted = _checked(name, sizes)
        for file in wanted:
            api.hf_hub_download(name, file, revision=info.sha, local_dir=folder)
    for file, size in wanted.items():
        _check_file(folder, file, size, name)
    return str(info.sha)


def _checked(name: str, sizes: Mapping[str, int | None]) -> dict[str, int | None]:
    """Of the files of a model those that are fetched.

    Raises:
        CheckpointError: one is missing, too large, or of a name that leads elsewhere.
    """
    if odd := [
        file for file in sizes if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or "\\" in file
    ]:
        raise CheckpointError(
            f"{name} holds a file called {odd[0]!r}, which would lie outside its folder; nothing was fetched."
        )
    pickles = [file for file in sizes if file.endswith(PICKLES)]
    if WEIGHTS not in sizes and pickles:
        raise CheckpointError(
            f"{name} has its weights as {pickles[0]}, which can run code when it is read, and not as {WEIGHTS}; "
            "nothing was fetched."
        )
    if missing := [file for file in NEEDED if file not in sizes]:
        raise CheckpointError(f"{name} holds no {missing[0]}, so `dat push` did not make it; name another model.")
    wanted = {file: sizes[file] for file in SENT if file in sizes}
    if large := [file for file, size in wanted.items() if file != WEIGHTS and (size or 0) > MOST_TEXT]:
        raise CheckpointError(f"{large[0]} of {name} has {wanted[large[0]]} bytes, and {MOST_TEXT} are the most; not fetched.")
    if pickles:
        warn(f"{name} also holds {pickles[0]}, which can run code when it is read; it is not fetched.")
    return wanted


def _check_file(folder: Path, file: str, size: int | None, name: str) -> None:
    """Raises: CheckpointError: what came is no plain file of the size that the hub names."""
    path = folder / file
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{file} of {name} did not come as a plain file; try again.")
    if size is not None and (met := path.stat().st_size) != size:
        raise CheckpointError(f"{file} of {name} has {met} bytes instead of {size}: it was cut off; try again.")


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """What the client raises, as one sentence."""
    try:
        yield
    except DatError:
        raise
    except Exception as error:  # the client raises what its layers below raise
        raise CheckpointError(_sentence(name, revision, error)) from error


def _sentence(name: str, revision: str | None, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
    if isinstance(error, GatedRepoError):
        return f"{name} is open only to who asked its owner; ask on its page, then {LOG_IN}."
    if isinstance(error, RepositoryNotFoundError):
        return f"The hub has no model {name} that this machine may see; check the name, or {LOG_IN}."
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; write a branch, a tag or a commit of it, or leave out --revision."
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        return f"The hub does not let this machine do that with {name} ({reason}); {LOG_IN}."
    if isinstance(error, HfHubHTTPError):
        return f"The hub refuses what was asked of {name} ({reason})."
    return f"The hub cannot be reached for {name} ({reason}); try again where there is a network."
