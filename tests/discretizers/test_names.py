"""Discretizers by name: the table, where files are looked for, the download against a server of this machine, converting."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from dat.discretizers import download, listing, names
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.layouts import LAYOUTS
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import convert, load_discretizer, read_extra, save_discretizer
from dat.errors import CheckpointError, UsageError

Golden = Callable[[str], Path]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "discretizers.md"
TINY = VQGANConfig(n_embed=12, embed_dim=3, z_channels=5, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=())
PROMISED = """
taming-imagenet-f16-1024 taming-imagenet-f16-16384 taming-openimages-gumbel-f8-8192 ldm-vq-f4 ldm-vq-f4-noattn ldm-vq-f8
ldm-vq-f8-n256 ldm-vq-f16 dalle-dvae llamagen-vq-8 llamagen-vq-16 maskgit-vqgan-imagenet-f16 titok-l-32 titok-b-64
titok-s-128 open-magvit2-128 open-magvit2-256 ibq-1024 ibq-8192 ibq-16384 ibq-262144
vq-diffusion-ithq amused-512 var-vqvae simvq-262144
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights."""
    monkeypatch.setenv("DAT_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def network() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(TINY)


def save_public(network: VQGAN, path: Path) -> Path:
    """The network as taming-transformers publishes one."""
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    return path


# ---- the table


def test_every_promised_name_is_there():
    assert set(PROMISED.split()) <= set(names.PUBLIC)
    assert len(names.PUBLIC) == 29


@pytest.mark.parametrize("row", names.PUBLIC.values(), ids=lambda row: row.name)
def test_each_row_is_whole(row: names.PublicDiscretizer):
    assert row.layout in LAYOUTS
    assert row.licence
    assert row.remark
    assert all(url.startswith("https://") for url in (row.page, *row.urls))
    assert len(row.sha256) == len(row.urls)
    assert all(digest is None or re.fullmatch("[0-9a-f]{64}", digest) for digest in row.sha256)
    assert (row.tokens is None) == (row.image_size is None)
    assert row.member is None or row.urls[0].endswith(".zip")


def test_no_two_rows_share_a_file():
    assert len({row.file for row in names.PUBLIC.values()}) == len(names.PUBLIC)
    assert len({url for row in names.PUBLIC.values() for url in row.urls}) == len(names.PUBLIC) + 1


@pytest.mark.shared
@pytest.mark.parametrize(
    ("item", "name", "codes", "mult"),
    [
        ("full_ldm_vq_f8", "ldm-vq-f8", "n_embed", "ch_mult"),
        ("full_taming_f16_1024", "taming-imagenet-f16-1024", "n_embed", "ch_mult"),
        ("full_llamagen_vq16", "llamagen-vq-16", "codebook_size", "encoder_ch_mult"),
    ],
)
def test_the_table_agrees_with_public_configurations(golden: Golden, item: str, name: str, codes: str, mult: str):
    config = json.loads((golden(item) / "config.json").read_text())["config"]
    levels = len({**config, **config.get("ddconfig", {})}[mult])
    assert (names.PUBLIC[name].codebook_size, names.PUBLIC[name].stride) == (config[codes], 2 ** (levels - 1))


def test_the_documentation_has_the_table():
    assert listing.as_markdown() in DOCS.read_text(), "replace the table in docs/discretizers.md by listing.as_markdown()"


def test_the_documentation_names_every_layout():
    said = DOCS.read_text().partition("## Layouts")[2].partition("```")[0]
    assert set(re.findall(r"`([a-z0-9]+)`", said)) == set(LAYOUTS)


# ---- where a name leads


def test_a_name_is_looked_for_in_the_folder_of_weights(weights: Path, network: VQGAN):
    save_public(network, weights / "ldm-vq-f8.ckpt")
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(load_discretizer("ldm-vq-f8")(images), FrozenDiscretizer(network)(images))


def test_a_converted_file_goes_first(weights: Path, network: VQGAN):
    save_public(network, weights / "ldm-vq-f8.ckpt")
    convert("ldm-vq-f8", weights / "ldm-vq-f8.safetensors")
    (weights / "ldm-vq-f8.ckpt").write_bytes(b"damaged")
    assert load_discretizer("ldm-vq-f8").codebook_size == 12


def test_a_path_goes_before_a_name(weights: Path, network: VQGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (weights / "ldm-vq-f8.ckpt").write_bytes(b"damaged")
    save_discretizer(tmp_path / "here.safetensors", network).rename(tmp_path / "ldm-vq-f8")
    monkeypatch.chdir(tmp_path)
    assert load_discretizer("ldm-vq-f8").codebook_size == 12


def test_an_absent_file_is_one_sentence_that_says_how_to_get_it(weights: Path):
    with pytest.raises(CheckpointError) as caught:
        load_discretizer("taming-imagenet-f16-1024")
    assert str(caught.value) == (
        "The weights of taming-imagenet-f16-1024 (https://github.com/CompVis/taming-transformers, licence MIT, 958 MB) are not "
        f"in {weights}; `dat discretizer get taming-imagenet-f16-1024` downloads them."
    )


def test_half_of_a_pair_of_files_is_absent(weights: Path):
    (weights / "dalle-dvae").mkdir()
    (weights / "dalle-dvae" / "encoder.pkl").touch()
    assert names.stored(names.PUBLIC["dalle-dvae"]) is None
    (weights / "dalle-dvae" / "decoder.pkl").touch()
    assert names.stored(names.PUBLIC["dalle-dvae"]) == weights / "dalle-dvae"


def test_near_misses_are_suggested():
    with pytest.raises(CheckpointError, match=r"at ldm-vqf8; did you mean 'ldm-vq-f8'\?"):
        load_discretizer("ldm-vqf8")
    with pytest.raises(UsageError, match=r"'titok_l_32'; did you mean 'titok-l-32'\?"):
        names.public("titok_l_32")
    with pytest.raises(UsageError, match="cifar-f4-1024 comes with the package"):
        names.public("cifar-f4-1024")
    with pytest.raises(CheckpointError, match=r"at nowhere\.ckpt; give the path .* a name that `dat discretizer list` shows"):
        load_discretizer("nowhere.ckpt")


def test_weights_lie_beside_torch_hubs_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("DAT_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert names.cache_folder() == tmp_path / "dat"


def test_a_file_among_ours_has_a_name_and_facts(network: VQGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_discretizer(tmp_path / "tiny-f2.safetensors", network, {"licence": "Apache-2.0", "remark": "noise"})
    monkeypatch.setattr(names, "SHIPPED", tmp_path)
    assert load_discretizer("tiny-f2").network.config == TINY
    assert read_extra("tiny-f2")["remark"] == "noise"
    first, *others = listing.rows()
    facts = {"name": "tiny-f2", "layout": "vqgan", "stride": 2, "codebook_size": 12, "tokens_at_256": 128**2, "here": str(path)}
    assert facts.items() <= first.items()
    assert (first["licence"], first["remark"]) == ("Apache-2.0", "noise")
    assert [row["name"] for row in others] == list(names.PUBLIC)
    assert listing.as_table(listing.rows()).splitlines()[1].split()[:5] == ["tiny-f2", "2", "12", "16384", "Apache-2.0"]


# ---- downloads, from a server of this machine


class Server(ThreadingHTTPServer):
    """Serves `files` by path; notes the ranges that were asked for. `cut`: bytes after which a body breaks off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.kind, self.knows_ranges = "application/octet-stream", True
        self.cut: int | None = None
        self.asked: list[str | None] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no fault of the server."""

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, wanted = cast(Server, self.server), self.headers.get("Range")
        server.asked.append(wanted)
        content = server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.knows_ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : server.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


CONTENT = bytes(range(256)) * 5000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_comes_whole_with_its_hash(server: Server, tmp_path: Path):
    server.files["a"] = CONTENT
    assert download.fetch(server.address("a"), tmp_path / "new" / "a", sha256=sha256(CONTENT)) == sha256(CONTENT)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
    assert (tmp_path / "new" / "a").read_bytes() == CONTENT


def test_a_download_that_broke_off_is_continued(server: Server, tmp_path: Path):
    server.files["a"], server.cut = CONTENT, 300_000
    with pytest.raises(CheckpointError, match=r"broke off \(300000 of 1280000 bytes came\); what came is kept in .*a\.part"):
        download.fetch(server.address("a"), tmp_path / "a")
    server.cut = None
    download.fetch(server.address("a"), tmp_path / "a")
    assert server.asked == [None, "bytes=300000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kept", "knows_ranges"),
    [(CONTENT[:1000], False), (CONTENT, True), (CONTENT + b"of another file", True)],
    ids=["no ranges", "whole already", "longer than the file"],
)
def test_what_is_kept_never_spoils_the_file(server: Server, tmp_path: Path, kept: bytes, knows_ranges: bool):
    server.files["a"], server.knows_ranges = CONTENT, knows_ranges
    (tmp_path / "a.part").write_bytes(kept)
    assert download.fetch(server.address("a"), tmp_path / "a") == sha256(CONTENT)


def test_another_hash_is_refused_and_the_file_deleted(server: Server, tmp_path: Path):
    server.files["a"] = CONTENT
    with pytest.raises(CheckpointError, match=f"SHA-256 {sha256(CONTENT)}, not 0000"):
        download.fetch(server.address("a"), tmp_path / "a", sha256=64 * "0")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_said(server: Server, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"the server answers 404 \(Not Found\)"):
        download.fetch(server.address("nothing"), tmp_path / "a")
    server.files["page"], server.kind = b"<html>Please log in</html>", "text/html; charset=utf-8"
    with pytest.raises(CheckpointError, match="gives a web page instead of the file"):
        download.fetch(server.address("page"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_no_network_is_said(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CheckpointError, match=r"cannot be reached, or broke off \(.*refused.*\); what came is kept"):
        download.fetch(f"http://127.0.0.1:{port}/a", tmp_path / "a")


def test_a_full_disk_is_said(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    server.files["a"] = CONTENT
    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(CheckpointError, match=r"a\.part cannot be written \(No space left on device\); make room"):
        download.fetch(server.address("a"), tmp_path / "a")


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_only_the_wanted_file_leaves_a_zip(server: Server, weights: Path):
    archive = zipped({"../../evil.sh": b"evil", "../../../models/model.ckpt": CONTENT, "/etc/other.ckpt": b"other"})
    server.files["vq.zip"] = archive
    row = replace(names.PUBLIC["ldm-vq-f8"], urls=(server.address("vq.zip"),))
    assert download.get(row) == {server.address("vq.zip"): sha256(archive)}
    assert {path.name: path.read_bytes() for path in weights.iterdir()} == {"ldm-vq-f8.ckpt": CONTENT}
    assert [path.name for path in weights.parent.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"no zip at all", "not a zip"),
        (zipped({"readme.txt": b"hello"}), "it holds no model.ckpt"),
        (zipped({"model.ckpt": CONTENT}).replace(zipped({"model.ckpt": CONTENT})[60:80], bytes(20)), ""),
    ],
    ids=["text", "without the file", "damaged"],
)
def test_a_zip_without_the_file_is_deleted(server: Server, weights: Path, archive: bytes, reason: str):
    server.files["vq.zip"] = archive
    row = replace(names.PUBLIC["ldm-vq-f8"], urls=(server.address("vq.zip"),))
    with pytest.raises(CheckpointError, match=rf"no zip to take model.ckpt from .*{reason}.*its page: {row.page}"):
        download.get(row)
    assert list(weights.iterdir()) == []


def test_two_files_come_into_one_folder(server: Server, weights: Path):
    server.files |= {"encoder.pkl": b"encoder", "decoder.pkl": b"decoder"}
    row = replace(names.PUBLIC["dalle-dvae"], urls=(server.address("encoder.pkl"), server.address("decoder.pkl")))
    assert list(download.get(row).values()) == [sha256(b"encoder"), sha256(b"decoder")]
    assert (weights / "dalle-dvae" / "decoder.pkl").read_bytes() == b"decoder"


# ---- converting


@pytest.mark.shared
@pytest.mark.parametrize("item", ["ldm_vq_f8", "llamagen_vq", "maskgit_vqgan", "titok", "openmagvit2_lfq"])
def test_a_converted_file_gives_the_same_bits_and_tells_its_origin(golden: Golden, tmp_path: Path, item: str):
    config = json.loads((golden(item) / "config.json").read_text())["config"]
    source = next(path for path in sorted(golden(item).iterdir()) if path.stem == "weights")
    written, images = convert(source, tmp_path / "new.safetensors", config), load_file(golden(item) / "io.safetensors")["x"]
    before, after = load_discretizer(source, config), load_discretizer(written)
    assert torch.equal(before.encode(images), after.encode(images))
    assert torch.equal(before(images), after(images))
    made_of = {"file": source.name, "bytes": source.stat().st_size, "sha256": sha256(source.read_bytes())}
    assert read_extra(written) == {"layout": before.network.layout, "source": [made_of]}


@pytest.mark.shared
@pytest.mark.parametrize("source", [".", "weights_encoder.safetensors"], ids=["folder", "file"])
def test_both_halves_of_a_dvae_become_one_file(golden: Golden, tmp_path: Path, source: str):
    folder = golden("dalle_dvae")
    written = convert(folder / source, tmp_path / "new.safetensors")
    assert [made["file"] for made in read_extra(written)["source"]] == [
        "weights_decoder.safetensors",
        "weights_encoder.safetensors",
    ]
    images = load_file(folder / "io.safetensors")["x"]
    assert torch.equal(load_discretizer(folder)(images), load_discretizer(written)(images))


def test_a_public_name_keeps_page_and_licence(weights: Path, network: VQGAN, tmp_path: Path):
    save_public(network, weights / "ldm-vq-f8.ckpt")
    extra = read_extra(convert("ldm-vq-f8", tmp_path / "folder"))
    assert (extra["name"], extra["licence"]) == ("ldm-vq-f8", "MIT")
    assert extra["source"][0]["file"] == "ldm-vq-f8.ckpt"


def test_converting_keeps_how_a_file_was_trained(network: VQGAN, tmp_path: Path):
    source = save_discretizer(tmp_path / "run", network, {"steps": 3})
    extra = read_extra(convert(tmp_path / "run", tmp_path / "new.safetensors"))
    assert (extra["steps"], extra["source"][0]["file"]) == (3, source.name)


def test_nothing_is_overwritten_and_no_other_format_written(network: VQGAN, tmp_path: Path):
    source = save_discretizer(tmp_path / "q.safetensors", network)
    with pytest.raises(UsageError, match="is there already"):
        convert(source, source)
    with pytest.raises(UsageError, match=r"write new\.safetensors"):
        convert(source, tmp_path / "new.ckpt")


# ---- configuration files


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("model: {target: a.B, params: {n_embed: 3, ddconfig: {ch: 32}}}", {"n_embed": 3, "ddconfig": {"ch": 32}}),
        ("model: {class_path: a.B, init_args: {n_embed: 3}}\ndata: {}", {"n_embed": 3}),
        ("model: {vq_model: {token_size: 5}}", {"model": {"vq_model": {"token_size": 5}}}),
        ('{"codebook_size": 72}', {"codebook_size": 72}),
    ],
    ids=["taming", "seed-voken", "titok", "json"],
)
def test_public_configuration_files_are_read(tmp_path: Path, text: str, values: dict[str, object]):
    (tmp_path / "config.yaml").write_text(text)
    assert listing.read_config(tmp_path / "config.yaml") == values
    assert listing.read_config(tmp_path / "config.yaml", "ibq") == {**values, "layout": "ibq"}
    assert listing.read_config(None, "ibq") == {"layout": "ibq"}
    assert listing.read_config(None) is None


@pytest.mark.parametrize("content", [b"[1, 2]", b"a: [", bytes(range(256)), b"!!python/object/apply:os.mkdir [executed]"])
def test_other_files_are_no_configuration(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"config\.yaml"):
        listing.read_config(Path("config.yaml"))
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        listing.read_config(Path("nowhere.yaml"))
    assert not Path("executed").exists()
