"""Files of public discretizers from the network: only when the user asks, resumed where they broke off, checked.

Knows urls and files, nothing of networks.
"""

from __future__ import annotations

import http.client
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from dat.discretizers import names
from dat.errors import CheckpointError
from dat.nn.weights import file_sha256
from dat.progress import Bar

CHUNK = 2**20
TIMEOUT_SECONDS = 60
NOT_SATISFIABLE, PARTIAL = 416, 206
NO_ZIP = (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError)


def get(row: names.PublicDiscretizer) -> dict[str, str]:
    """Bring the files of a public discretizer into the folder of weights; returns the SHA-256 of what each url gave.

    Raises:
        CheckpointError: the network, the server or the disk failed (the same command continues), the hash differs, or an
            archive does not hold what it should.
    """
    found = {}
    for url, target, sha256 in zip(row.urls, names.files(row), row.sha256, strict=True):
        arrived = target if row.member is None else target.with_suffix(".zip")
        try:
            found[url] = fetch(url, arrived, sha256=sha256)
            if row.member is not None:
                extract(arrived, row.member, target)
        except CheckpointError as error:
            raise CheckpointError(f"{str(error).removesuffix('.')} (its page: {row.page}).") from error
    return found


def fetch(url: str, target: Path, *, sha256: str | None = None) -> str:
    """Download a file and return its SHA-256; `target` appears whole or not at all.

    What came so far is in `target.part`; if it is there, the rest is asked for (HTTP Range).

    Raises:
        CheckpointError: see `get`.
    """
    part = target.with_name(f"{target.name}.part")
    kept = f"what came is kept in {part}, and the same command continues"
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part)
        digest = file_sha256(part)
        if sha256 is None or digest == sha256:
            part.replace(target)
            return digest
        part.unlink()
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{url} is not to be had: the server answers {error.code} ({error.reason}).") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(f"{url} cannot be reached, or broke off ({reason}); {kept}.") from error
    except OSError as error:
        raise CheckpointError(f"{part} cannot be written ({error.strerror}); make room or set DAT_WEIGHTS; {kept}.") from error
    raise CheckpointError(f"{url} gave a file with SHA-256 {digest}, not {sha256}; it was deleted, as it may be harmful.")


def _receive(url: str, part: Path) -> None:
    """Append what is missing of `part`; all of it where the server knows no ranges, or `part` is of another file."""
    done = part.stat().st_size if part.is_file() else 0
    try:
        response = _open(url, done)
    except urllib.error.HTTPError as error:
        if error.code != NOT_SATISFIABLE or not done:
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":
            return  # it was whole already
        error.close()
        response = _open(url, 0)
    with response:
        if response.headers.get_content_type() == "text/html":
            raise CheckpointError(f"{url} gives a web page instead of the file.")
        _append(response, part, done if response.status == PARTIAL else 0)


def _open(url: str, done: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "dat"} | ({"Range": f"bytes={done}-"} if done else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)


def _append(response: http.client.HTTPResponse, part: Path, done: int) -> None:
    total = done + int(response.headers.get("Content-Length") or 0)
    with part.open("ab" if done else "wb") as file, Bar(f"{part.stem}, MiB", total // CHUNK, done=done // CHUNK) as bar:
        while piece := response.read(CHUNK):
            file.write(piece)
            done += len(piece)
            bar.advance(done // CHUNK, "")
        if done < total:
            raise ConnectionError(f"{done} of {total} bytes came")


def extract(archive: Path, member: str, target: Path) -> None:
    """Take one file, by its last name, out of a zip; then the zip is deleted. No path of the archive is ever used.

    Raises:
        CheckpointError: it is no zip, is damaged, or holds no such file; or the disk is full.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [info for info in opened.infolist() if PurePosixPath(info.filename).name == member]
            if not found:
                raise zipfile.BadZipFile(f"it holds no {member}")
            with opened.open(found[0]) as source, part.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
    except NO_ZIP as error:
        archive.unlink()
        part.unlink(missing_ok=True)
        raise CheckpointError(f"{archive} is no zip to take {member} from ({error}); it was deleted.") from error
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(f"{part} cannot be written ({error.strerror}); make room and run it again.") from error
    part.replace(target)
    archive.unlink()
