"""`dat export`: what is written runs without this package, and says what ours says."""

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands import export as exporting
from dat.commands.trained import load_pretrained, load_run
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError, DatError, RunFolderError, UsageError
from dat.nn import graphs
from tests.commands.made_up_run import CLASSES, SIDE, made_up_run

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra: pip install '.[onnx]'")
SMALL_RESNET = {"name": "small_resnet", "options": {"depth": 8, "width": 4}}
SELF_SUPERVISED: dict[str, Any] = {
    "kind": "selfsupervised",
    "data": {"source": "digits", "size": SIDE},
    "model": {
        "name": "mae",
        "options": {
            "patch_size": 4,
            "embed_dim": 24,
            "depth": 1,
            "num_heads": 3,
            "decoder_embed_dim": 16,
            "decoder_depth": 1,
            "decoder_num_heads": 2,
        },
    },
    "task": {"kind": "mae"},
    "methods": {"standard": {}},
}
DETECTION: dict[str, Any] = {
    "kind": "detection",
    "data": {"source": "boxes", "train": "train.json", "test": "test.json", "size": [64, 64]},
    "model": {"name": "fcos", "backbone": "test_resnet", "options": {"width": 32, "convs": 1, "score_thresh": 0.0}},
    "methods": {"standard": {}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_run(tmp_path_factory.mktemp("run"))


def pictures(count: int, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def ours(run: Path, images: Tensor) -> Tensor:
    found = load_run(run)
    assert isinstance(found, dat.TrainedModel)
    with torch.no_grad():
        return found.model(images)


def in_onnxruntime(file: Path) -> Callable[[Tensor], Tensor]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda batch: torch.from_numpy(session.run(None, {given.name: batch.numpy()})[0])


def test_an_onnx_classifier_runs_beside_ours(run: Path, tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["export", str(run), "--to", "onnx", "--out", str(tmp_path)], catch_exceptions=False)
    assert printed.exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, SIDE, SIDE]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(CLASSES)
    assert told["input"] == "RGB in [0, 1], batch x 3 x 16 x 16"
    for count in (1, 2, 5, 7):
        found = in_onnxruntime(tmp_path / "model.onnx")(pictures(count))
        assert torch.allclose(found, ours(run, pictures(count)), atol=1e-4, rtol=0)
    row = printed.stdout.splitlines()[1].split()
    assert row[2].isdigit()  # the opset
    assert float(row[-1]) <= 1e-4


def test_a_program_of_torch_runs_beside_ours(run: Path, tmp_path: Path) -> None:
    (written,) = dat.export(run, "torch-export", tmp_path)
    told = {"classes": ""}
    program = torch.export.load(written.file, extra_files=told).module()
    assert json.loads(told["classes"]) == list(CLASSES)
    for count in (1, 5, 6):
        assert torch.allclose(program(pictures(count)), ours(run, pictures(count)), atol=1e-5)
    assert (written.bytes, written.opset) == (written.file.stat().st_size, None)


BY_TIMM_ALONE = """
import json, sys, timm, torch
network = timm.create_model(sys.argv[1], pretrained=True).eval()
config = timm.data.resolve_model_data_config(network)
images = torch.rand(2, 3, *config["input_size"][1:], generator=torch.Generator().manual_seed(2))
mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
with torch.no_grad():
    logits = network((images - mean) / std)
assert not [name for name in sys.modules if name.split(".")[0] == "dat"]
names, kept = network.pretrained_cfg["label_names"], {key: config[key] for key in ("crop_pct", "interpolation", "crop_mode")}
print(json.dumps({"logits": logits.tolist(), "names": names, "kept": kept}))
"""


def said_by_timm(name: str, **environment: str) -> dict[str, Any]:
    """What a process says that has never imported this package."""
    command = [sys.executable, "-c", BY_TIMM_ALONE, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_timm_alone_loads_the_folder(run: Path, tmp_path: Path) -> None:
    written = dat.export(run, "timm", tmp_path / "new" / "folder")
    assert sorted(one.file.name for one in written) == ["config.json", "model.safetensors"]
    said = said_by_timm(f"local-dir:{tmp_path / 'new' / 'folder'}")
    assert torch.allclose(torch.tensor(said["logits"]), ours(run, pictures(2)), atol=1e-5)
    assert said["names"] == list(CLASSES)
    assert said["kept"] == {"crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center"}


def test_an_onnx_discretizer_runs_beside_ours(run: Path, tmp_path: Path) -> None:
    encode, decode = dat.export(run, "onnx", tmp_path, discretizer=True)
    assert (encode.file.name, decode.file.name) == ("encode.onnx", "decode.onnx")
    discretizer = load_discretizer("cifar-f2-1024-fast")
    for count in (1, 5):
        codes = in_onnxruntime(encode.file)(pictures(count))
        assert torch.equal(codes, discretizer.encode(pictures(count)))
        assert torch.allclose(in_onnxruntime(decode.file)(codes), discretizer(pictures(count)), atol=1e-5)


def test_a_discretizer_by_name_of_a_size_that_its_stride_does_not_divide(tmp_path: Path) -> None:
    encode, decode = dat.export("cifar-f2-1024-fast", "torch-export", tmp_path, discretizer=True, size=15)
    first, second = (torch.export.load(one.file).module() for one in (encode, decode))
    discretizer = load_discretizer("cifar-f2-1024-fast")
    assert torch.allclose(second(first(pictures(3, 15))), discretizer(pictures(3, 15)), atol=1e-5)


def test_an_encoder_gives_its_features(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", label="standard", **SELF_SUPERVISED)
    (written,) = dat.export(run, "torch-export")
    assert written.file == run / "exported" / "torch-export" / "model.pt2"
    with torch.no_grad():
        expected = load_pretrained(run).encoder(pictures(3))
    assert torch.allclose(torch.export.load(written.file).module()(pictures(3)), expected, atol=1e-5)


def test_the_run_of_a_discretizer_knows_what_it_was_shown(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"recipe_hash": "0", "data": {"image_size": [12, 16]}}))
    save_discretizer(tmp_path, load_discretizer("cifar-f2-1024-fast").network)
    encode, _ = dat.export(tmp_path, "torch-export", discretizer=True)
    assert encode.file == tmp_path / "exported" / "torch-export" / "encode.pt2"
    assert torch.export.load(encode.file).module()(torch.rand(3, 3, 12, 16)).shape == (3, 6, 8)


def test_a_discretizer_that_is_asked_for_as_a_model_is_told_how(run: Path, tmp_path: Path) -> None:
    file = save_discretizer(tmp_path, load_discretizer("cifar-f2-1024-fast").network)
    for source in ("cifar-f2-1024-fast", "ldm-vq-f8", file, tmp_path):
        for form in ("timm", "torch-export"):
            with pytest.raises(UsageError, match=f"{source} is no model of a run, but .*; add --discretizer"):
                dat.export(source, form)
    with pytest.raises(CheckpointError, match=r"is the folder of a run, not of one of its models; name one, e.g. .*dat-seed0"):
        dat.export(run.parent, "torch-export", discretizer=True)


def test_what_differs_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = graphs.read_graph

    def shifted(form: graphs.Form, path: Path) -> graphs.Run:
        read = exact(form, path)
        return lambda batch: read(batch) + torch.tensor(1 if "encode" in path.name else 2e-4)

    monkeypatch.setattr(exporting, "read_graph", shifted)
    with pytest.raises(CheckpointError, match=r"The logits of model.pt2 differ from ours by 0.0002; it is not kept"):
        dat.export(run, "torch-export", tmp_path)
    with pytest.raises(CheckpointError, match=r"In encode.pt2 64 of 64 codes are others than ours; it is not kept"):
        dat.export(run, "torch-export", tmp_path, discretizer=True)
    assert list(tmp_path.iterdir()) == []


def test_what_a_stopped_call_left_is_removed(run: Path, tmp_path: Path) -> None:
    (tmp_path / f".unfinished-{platform.node()}-4194305").mkdir()
    (tmp_path / f".unfinished-{platform.node()}-4194305" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    dat.export(run, "timm", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"to": "tensorflow"}, UsageError, r"--to is tensorflow; write one of timm, onnx, torch-export"),
        ({"to": "timm", "discretizer": True}, UsageError, "A discretizer is no network of timm"),
        ({"to": "torch-export", "size": 32}, UsageError, r"--size is 32, of what a discretizer is shown; add --discretizer"),
        ({"to": "torch-export", "size": 0, "discretizer": True}, UsageError, r"--size is 0; write a side"),
    ],
)
def test_what_does_not_go_together_is_refused(run: Path, options: dict[str, Any], kind: type[DatError], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        dat.export(run, **options)
    assert not (run / "exported").exists()


def test_mistakes_are_sentences(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="is not the folder of a trained model"):
        dat.export(tmp_path, "torch-export")
    with pytest.raises(UsageError, match=r"of which size cifar-f2-1024-fast is shown is not known; add --size"):
        dat.export("cifar-f2-1024-fast", "torch-export", tmp_path, discretizer=True)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"model.onnx is there already; delete it first, or write --out"):
        dat.export(run, "onnx", tmp_path)
    with pytest.raises(RunFolderError, match=r"cannot be written \(Not a directory\)"):
        dat.export(run, "torch-export", tmp_path / "model.onnx" / "below")
    monkeypatch.setattr(graphs, "is_installed", lambda name: False)
    with pytest.raises(UsageError, match=r"ONNX needs onnx, onnxruntime, onnxscript, which are not installed"):
        dat.export(run, "onnx", tmp_path / "new")
    monkeypatch.setattr(graphs, "is_installed", lambda name: name != "onnxscript")
    with pytest.raises(UsageError, match=r"ONNX needs onnxscript, which is not installed; write pip install .*\[onnx\]"):
        dat.export(run, "onnx", tmp_path / "new")


def test_networks_that_cannot_be_written_so_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has come to step 3 of 8"):
        dat.export(made_up_run(tmp_path / "a", steps=(3, 8)), "torch-export")
    with pytest.raises(UsageError, match="small_resnet is no network of timm"):
        dat.export(made_up_run(tmp_path / "b", model=SMALL_RESNET), "timm")
    with pytest.raises(UsageError, match=r"is a detector: how many boxes it keeps depends on the picture"):
        dat.export(made_up_run(tmp_path / "c", label="standard", **DETECTION), "onnx")
    plain = made_up_run(tmp_path / "d", label="standard", methods={"standard": {}}, discretizer=None)
    with pytest.raises(CheckpointError, match="was trained without a discretizer"):
        dat.export(plain, "torch-export", discretizer=True)
    damaged = made_up_run(tmp_path / "e")
    (weights,) = damaged.glob("checkpoints/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is whole"):
        dat.export(damaged, "torch-export")
