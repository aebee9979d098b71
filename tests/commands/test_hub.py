"""`dat push` and `dat pull`, against a folder that a stub of the hub's client fills."""

import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands.trained import load_run
from dat.errors import CheckpointError, DatError, RunFolderError, UsageError
from dat.recipe.shareable import without_places
from dat.results import read_rows
from tests.commands.made_up_run import CLASSES, SIDE, made_up_run
from tests.commands.test_export import DETECTION, SMALL_RESNET, pictures, said_by_timm

NAME = "someone/made-up"
SENT = ["README.md", "config.json", "model.safetensors", "recipe.yaml", "results.jsonl", "run.json"]


class Hub:
    """A folder in place of the hub, behind the methods of its client that are used."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, list[str]()
        self.private: dict[str, bool] = {}
        self.error: Exception | None = None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.error is not None:
            raise self.error

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> str:
        self._call("create_repo")
        assert exist_ok
        self.private.setdefault(repo_id, bool(private))
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, commit_message: str | None = None) -> None:
        self._call("upload_folder")
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    def model_info(
        self, repo_id: str, *, revision: str | None = None, timeout: float | None = None, files_metadata: bool = False
    ) -> Any:
        self._call("model_info")
        place = self.folder / repo_id
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        siblings = [SimpleNamespace(rfilename=path.relative_to(place).as_posix(), size=path.stat().st_size) for path in files]
        return SimpleNamespace(sha=revision or "c0ffee", siblings=siblings, private=self.private.get(repo_id, False))

    def hf_hub_download(
        self, repo_id: str, filename: str, *, revision: str | None = None, local_dir: str | Path | None = None
    ) -> str:
        self._call(f"hf_hub_download {filename} {revision}")
        assert local_dir is not None
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(self.folder / repo_id / filename, local_dir))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: stub)
    return stub


@pytest.fixture
def sent(hub: Hub, tmp_path: Path) -> Path:
    """What lies on the hub after a push."""
    dat.push(made_up_run(tmp_path / "source"), NAME)
    return hub.folder / NAME


def error_of(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, status_code=status, request=None)
    return kind("it says no", response=response)


@pytest.mark.parametrize("name", ["create_repo", "upload_folder", "model_info", "hf_hub_download"])
def test_the_stub_is_called_as_the_client_is(name: str) -> None:
    theirs = inspect.signature(getattr(huggingface_hub.HfApi, name)).parameters
    ours = inspect.signature(getattr(Hub, name)).parameters
    assert [(key, value.kind) for key, value in ours.items() if key not in theirs or theirs[key].kind != value.kind] == []


def test_a_pushed_folder_is_loaded_by_timm_alone(sent: Path) -> None:
    assert sorted(path.name for path in sent.iterdir()) == SENT
    said = said_by_timm(f"local-dir:{sent}")
    run = load_run(sent.parents[2] / "source" / "dat-seed0")
    with torch.no_grad():
        expected = run.model(pictures(2))
    assert torch.allclose(torch.tensor(said["logits"]), expected, atol=1e-5)
    assert said["names"] == list(CLASSES)


def test_timm_asks_the_hub_for_these_files(sent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hf-hub:` reads what `local-dir:` reads; its download is replaced, as there is no server."""
    import timm
    from timm.data import resolve_model_data_config  # pyright: ignore[reportPrivateImportUsage]  # timm's documented import
    from timm.models import _hub

    def download(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == NAME
        return str(sent / filename)

    monkeypatch.setattr(_hub, "hf_hub_download", download)
    network = timm.create_model(f"hf-hub:{NAME}", pretrained=True).eval()
    config = resolve_model_data_config(network)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found, expected = (
            network((pictures(2) - mean) / std),
            load_run(sent.parents[2] / "source" / "dat-seed0").model(pictures(2)),
        )
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": SMALL_RESNET},
        {"label": "advprop"},  # it trained with auxiliary norms, which are not sent
        {"label": "standard", **DETECTION},
    ],
    ids=["timm", "small_resnet", "auxiliary norms", "detector"],
)
def test_what_was_pushed_and_pulled_says_the_same(hub: Hub, tmp_path: Path, changes: dict[str, Any]) -> None:
    source = made_up_run(tmp_path / "source", **changes)
    dat.push(source, NAME)
    printed = CliRunner().invoke(app, ["pull", NAME, "--out", str(tmp_path / "runs" / "mine")], catch_exceptions=False)
    assert printed.exit_code == 0
    model = tmp_path / "runs" / "mine" / source.name
    assert printed.stdout.split()[0] == str(model)
    ours, theirs = load_run(source), load_run(model)
    assert theirs.classes == CLASSES
    images = pictures(2, 64 if "kind" in changes else SIDE)
    with torch.no_grad():
        first, second = ours.model(images), theirs.model(images)
    if "kind" in changes:
        first, second = (torch.cat([found.corners for found in of_all]) for of_all in (first, second))
        assert len(first) > 10
    assert torch.equal(first, second)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_nothing_says_where_things_lie_on_this_machine(sent: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((sent / "recipe.yaml").read_text())
    assert (settings["data"]["train"], settings["data"]["test"]) == ("train", "photos/test")
    for file in sent.iterdir():
        assert b"/home/" not in file.read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert {row.method for row in read_rows(sent / "results.jsonl")} == {"dat"}


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("hf:/home/me/saved::split=train", "hf:saved::split=train"),
        ("hf:../photos::label=a/b", "hf:photos::label=a/b"),
        ("hf:~/photos", "hf:photos"),
        ("hf:user/name::split=test", "hf:user/name::split=test"),
        ("/home/me/photos.csv::label=a/b", "photos.csv::label=a/b"),
        ("/data/train-{000..009}.tar", "train-{000..009}.tar"),
        ("photos/train-{000..009}.tar", "photos/train-{000..009}.tar"),
    ],
)
def test_places_that_are_no_folders_lose_their_folders_too(place: str, told: str) -> None:
    assert without_places({"data": {"train": [place]}}) == {"data": {"train": [told]}}


def test_the_card_tells_what_was_measured(sent: Path) -> None:
    _, metadata, text = (sent / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "license": "unknown",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "adversarial-robustness", "discrete-adversarial-training", "dat"],
    }
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| Clean | the pictures as they are | accuracy 92.3 % | 90.3 to 94.3 | 500 |",
        "| FGSM | epsilon 1/255, linf, steps 1, loss logsumexp(others) - true | accuracy 41.5 % | 39.5 to 43.5 | 500 |",
        "| Corruptions | the pictures as they are | accuracy 63.6 % | 61.6 to 65.6 | 500 |",
    ]
    for part in (
        f'"hf-hub:{NAME}"',
        f"dat pull {NAME}",
        "recipe names them: `train`, 60 pictures",
        "déjà vu",
        "## What it is for",
    ):
        assert part in text
    assert "/home" not in text


def test_a_dry_run_shows_all_and_sends_nothing(hub: Hub, tmp_path: Path) -> None:
    source = made_up_run(tmp_path / "source")
    arguments = ["push", str(source), NAME, "--dry-run", "--licence", "apache-2.0"]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert hub.calls == []
    assert sorted(line.split()[0] for line in printed.splitlines()[1:7]) == SENT
    assert "6 files, " in printed
    assert "license: apache-2.0" in printed
    assert "would be sent to someone/made-up; nothing was." in printed
    as_json = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout
    assert json.loads(as_json)["address"] is None


def test_a_private_model_is_not_sent_to_a_public_place(hub: Hub, tmp_path: Path) -> None:
    source = made_up_run(tmp_path / "source")
    assert dat.push(source, "someone/new", private=True).address == "https://huggingface.co/someone/new"
    hub.private[NAME] = False
    with pytest.raises(CheckpointError, match="is public, so nothing was sent; make it private"):
        dat.push(source, NAME, private=True)
    assert not list((hub.folder / NAME).iterdir())


def test_a_revision_is_one_commit(sent: Path, hub: Hub, tmp_path: Path) -> None:
    found = dat.pull(NAME, tmp_path / "mine", revision="v1")
    assert found == (tmp_path / "mine" / "dat-seed0", "v1")
    asked = [call.split() for call in hub.calls if call.startswith("hf_hub_download")]
    assert sorted(name for _, name, _ in asked) == SENT
    assert {revision for *_, revision in asked} == {"v1"}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return os.mkdir, (self.folder,)


def with_pickled_weights(place: Path) -> None:
    (place / "model.safetensors").rename(place / "pytorch_model.bin")


def with_a_pickle_by_the_name(place: Path) -> None:
    torch.save({"conv1.weight": Bomb(place.parents[2] / "ran")}, place / "model.safetensors")


def with_other_tensors(place: Path) -> None:
    safetensors.torch.save_file({"conv1.weight": torch.zeros(2)}, place / "model.safetensors")


def cut_off(place: Path) -> None:
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def without(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


def with_facts(**changes: object) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        facts = json.loads((place / "run.json").read_text())
        (place / "run.json").write_text(json.dumps(facts | changes))

    return change


def with_model(**changes: object) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        settings = yaml.safe_load((place / "recipe.yaml").read_text())
        settings["model"] |= changes
        (place / "recipe.yaml").write_text(yaml.safe_dump(settings))

    return change


def with_text(name: str, text: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / name).write_text(text)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_pickled_weights, r"has its weights as pytorch_model.bin, which can run code when it is read"),
        (with_a_pickle_by_the_name, r"model.safetensors \(\d+ bytes\) is no safetensors file, whatever its name says"),
        (with_other_tensors, "are not those of this network"),
        (cut_off, r"is damaged, cut short or no weight file"),
        (without("recipe.yaml"), r"holds no recipe.yaml, so `dat push` did not make it"),
        (without("run.json"), r"holds no run.json"),
        (with_facts(model={"method": "../../dat", "seed": 0}), r"names the model .*which its recipe does not"),
        (with_facts(model={"method": "dat", "seed": "0/../../x"}), r"names the model"),
        (with_facts(model=None), r"names the model None"),
        (with_facts(class_names=[]), r"names no classes"),
        (with_text("run.json", "{"), r"run.json of someone/made-up is damaged"),
        (with_text("results.jsonl", "{}\n"), r"The results of someone/made-up are damaged: Line 1"),
        (
            with_text("recipe.yaml", "kind: !!python/object/apply:os.system [ls]"),
            r"The recipe of someone/made-up cannot be used",
        ),
        (with_text("recipe.yaml", "a: " + "x" * 2**24), r"recipe.yaml of someone/made-up has \d+ bytes, and \d+ are the most"),
        (with_model(options={"checkpoint_path": "/etc/passwd"}), r"The option checkpoint_path of test_resnet fetches or reads"),
        (with_model(options={"pretrained": True}), r"The option pretrained of test_resnet fetches or reads"),
    ],
)
def test_what_others_sent_is_refused_in_a_sentence(
    sent: Path, tmp_path: Path, change: Callable[[Path], None], sentence: str
) -> None:
    change(sent)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DatError, match=sentence):
        dat.pull(NAME, tmp_path / "mine")
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_lead_elsewhere_or_are_pickles_are_not_fetched(sent: Path, hub: Hub, tmp_path: Path) -> None:
    (sent / "optimizer.pt").write_bytes(b"\x80\x04")
    (sent / "sub").mkdir()
    (sent / "sub" / "run.json").write_text("{}")
    dat.pull(NAME, tmp_path / "mine")
    assert not [call for call in hub.calls if "optimizer" in call or "sub/" in call]
    info = hub.model_info(NAME)
    for odd in ("../../run.json", "/tmp/run.json", "a\\..\\run.json"):
        hub.model_info = lambda *_, odd=odd, **__: SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
            sha="c0ffee", siblings=[*info.siblings, SimpleNamespace(rfilename=odd, size=1)]
        )
        with pytest.raises(CheckpointError, match="which would lie outside its folder; nothing was fetched"):
            dat.pull(NAME, tmp_path / "other")


def test_a_file_of_another_size_than_the_hub_says_is_refused(sent: Path, hub: Hub, tmp_path: Path) -> None:
    info = hub.model_info(NAME)
    next(one for one in info.siblings if one.rfilename == "model.safetensors").size += 1
    hub.model_info = lambda *_, **__: info  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(
        CheckpointError, match=r"model.safetensors of someone/made-up has \d+ bytes instead of \d+: it was cut off"
    ):
        dat.pull(NAME, tmp_path / "mine")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            error_of(RepositoryNotFoundError, 404),
            "The hub has no model someone/made-up that this machine may see; check the name",
        ),
        (error_of(RevisionNotFoundError, 404), r"someone/made-up has no revision 'v9'"),
        (error_of(HfHubHTTPError, 401), r"does not let this machine do that .*log in with `hf auth login`"),
        (error_of(HfHubHTTPError, 500), r"The hub refuses what was asked of someone/made-up \(it says no"),
        (ConnectionError("[Errno -2] Name or service not known"), r"The hub cannot be reached for .*try again where there is"),
    ],
)
def test_what_the_hub_says_is_one_sentence(hub: Hub, tmp_path: Path, error: Exception, sentence: str) -> None:
    hub.error = error
    with pytest.raises(CheckpointError, match=sentence):
        dat.pull(NAME, tmp_path / "mine", revision="v9")
    assert list(tmp_path.iterdir()) == []
    if "revision" not in sentence:
        with pytest.raises(CheckpointError, match=sentence):
            dat.push(made_up_run(tmp_path / "source"), NAME)


def test_mistakes_are_sentences(hub: Hub, tmp_path: Path) -> None:
    for odd in ("made-up", "a/b/c", "../x", "a/..", "https://huggingface.co/a/b", "a/b c"):
        with pytest.raises(UsageError, match="is no name of a model on the hub; write user/name"):
            dat.pull(odd, tmp_path / "mine")
    with pytest.raises(UsageError, match="is no name of a model"):
        dat.push(tmp_path, "made up")
    with pytest.raises(RunFolderError, match="is there already; delete it first, or write --out"):
        dat.pull(NAME, tmp_path)
    with pytest.raises(CheckpointError, match="has come to step 3 of 8"):
        dat.push(made_up_run(tmp_path / "a", steps=(3, 8)), NAME)
    assert hub.calls == []
