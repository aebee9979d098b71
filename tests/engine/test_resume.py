"""A run that was interrupted, by whatever, ends with the same bits as one that was left alone."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import KilledInCall, assert_same_state, final_state

from dat.data.pipeline import ImageDataset
from dat.discretizers.objective import VQGANObjective
from dat.discretizers.pretrained import read_extra
from dat.engine import checkpoint, steps
from dat.engine.codebook import CodebookUpdate
from dat.engine.discretizer_loop import DiscretizerTraining, TwoPlayerLearner, train_discretizer
from dat.errors import CheckpointError
from dat.methods import METHODS
from dat.nn.perceptual import multiscale_gradient_distance
from dat.types import Batch, Method, Task

# Everything that could depend on what came before: average, moments, warm-up, mixup, dropout, statistics, two micro-batches.
RICH: dict[str, Any] = {
    "mixup": 0.4,
    "cutmix": 0.4,
    "ema_decay": 0.8,
    "accumulate": 2,
    "warmup_epochs": 1,
    "optimizer": "adamw",
    "lr": 0.01,
}
STEPS = 10  # two epochs of five


@pytest.fixture
def saves_every_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that steps are lost and made again."""
    monkeypatch.setattr(steps._Saver, "is_due", lambda saver: _count(saver) % 3 == 0)


def _count(saver: object) -> int:
    vars(saver)["asked"] = vars(saver).get("asked", 0) + 1
    return vars(saver)["asked"]


def train_dropping_out(folder: Path, method: Method) -> None:
    tiny.trained(folder, method, model=tiny.network(dropout=0.3), **RICH)


@pytest.mark.usefixtures("saves_every_third_step")
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_runs_end_with_the_same_bits(tmp_path: Path, name: str) -> None:
    method = tiny.methods()[name]
    train_dropping_out(tmp_path / "alone", method)
    alone = final_state(tmp_path / "alone")
    assert {*alone.tensors} == {"model", "optimizer", "ema"}
    # Two calls per step: before the first checkpoint, between the halves of a step, at the end of the epoch, after it.
    for last in (1, 5, 10, 13) if name in ("standard", "dat") else (5,):
        folder = tmp_path / f"killed-{last}"
        with pytest.raises(tiny.Killed):
            train_dropping_out(folder, KilledInCall(method, last, after_loss=last % 2 == 0))
        train_dropping_out(folder, method)
        assert_same_state(final_state(folder), alone)


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    method = tiny.methods()["dat"]
    train_dropping_out(tmp_path / "alone", method)
    moments, deaths = random.Random(0), 0
    while True:
        dying = KilledInCall(method, moments.randrange(1, 12), after_loss=moments.random() < 0.5)
        try:
            tiny.trained(tmp_path / "again", dying, model=tiny.network(dropout=0.3), **RICH, save_minutes=0.0)
            break
        except tiny.Killed:
            deaths += 1
    assert deaths >= 2
    assert_same_state(final_state(tmp_path / "again"), final_state(tmp_path / "alone"))


def test_different_steps_draw_different_numbers(tmp_path: Path) -> None:
    """The equalities above would also hold if every step drew the same."""
    method = tiny.methods()["at"]
    seen: list[torch.Tensor] = []

    def recording(model: torch.nn.Module, batch: Batch, task: Task) -> Iterator[torch.Tensor]:
        seen.append(batch.draw(torch.rand, 2))
        yield from method(model, batch, task)

    tiny.trained(tmp_path / "run", recording, accumulate=2)
    assert len(torch.unique(torch.cat(seen))) == 2 * 8 * STEPS


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    method = METHODS["standard"]()
    train_dropping_out(tmp_path / "alone", method)
    folder = tmp_path / "damaged"
    with pytest.raises(tiny.Killed):
        tiny.trained(folder, KilledInCall(method, 9), model=tiny.network(dropout=0.3), **RICH, save_minutes=0.0)
    newest = checkpoint.list_checkpoints(folder / "checkpoints")[-1]
    (newest / "model.safetensors").write_bytes(b"")
    train_dropping_out(folder, method)
    said = capfd.readouterr()
    assert "model.safetensors has 0 bytes" in said.err
    assert "Continuing from step-00000003" in said.err
    assert said.out == ""
    assert_same_state(final_state(folder), final_state(tmp_path / "alone"))


def test_a_run_with_damaged_checkpoints_only_does_not_begin_again(tmp_path: Path) -> None:
    tiny.trained(tmp_path)
    for path in checkpoint.list_checkpoints(tmp_path / "checkpoints"):
        (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        tiny.trained(tmp_path)


def test_a_finished_run_takes_no_further_step(tmp_path: Path) -> None:
    first = tiny.trained(tmp_path)
    again = tiny.trained(tmp_path, KilledInCall(METHODS["standard"](), 0))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_the_log_of_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    with pytest.raises(tiny.Killed):
        tiny.trained(tmp_path, KilledInCall(METHODS["standard"](), 7), log_every=1)  # nothing saved yet
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # the line during which a process was killed
    tiny.trained(tmp_path, log_every=1)
    logged = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == list(range(1, STEPS + 1))


def train_two_players(folder: Path, dataset: ImageDataset, update: CodebookUpdate) -> None:
    train_discretizer(
        tiny.vqgan(codes=256),  # more than one step uses, so that a lost record of use changes what is revived
        VQGANObjective(disc_start=2, disc_weight=0.5),
        multiscale_gradient_distance,
        DiscretizerTraining(
            epochs=2,
            batch_size=8,
            lr=1e-3,
            cosine=True,
            codebook_update=update,
            revive_every=4,
            accumulate=2,
            disc_layers=1,
            disc_width=8,
        ),
        dataset,
        tiny.pictures(8, augmented=False),
        seed=0,
        folder=folder,
        weights=folder / "weights.safetensors",
        provenance={},
        cpu=True,
    )


@pytest.mark.usefixtures("saves_every_third_step")
@pytest.mark.parametrize(("update", "statistics"), [("gradient", {"used"}), ("ema", {"used", "counts", "sums"})])
def test_interrupted_training_of_a_discretizer_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: CodebookUpdate, statistics: set[str]
) -> None:
    train_two_players(tmp_path / "alone", tiny.pictures(), update)
    alone, said = final_state(tmp_path / "alone"), read_extra(tmp_path / "alone" / "weights.safetensors")
    assert {*alone.tensors} == {"vqgan", "vqgan_optimizer", "critic", "critic_optimizer", "codebook"}
    assert {*alone.tensors["codebook"]} == statistics
    step = TwoPlayerLearner.step
    for last in (0, 2, 4, 8):
        folder = tmp_path / f"killed-{last}"

        def dying(learner: TwoPlayerLearner, batches: Sequence[Batch], number: int, last: int = last) -> object:
            if number == last:
                raise tiny.Killed
            return step(learner, batches, number)

        monkeypatch.setattr(TwoPlayerLearner, "step", dying)
        with pytest.raises(tiny.Killed):
            train_two_players(folder, tiny.pictures(), update)
        monkeypatch.setattr(TwoPlayerLearner, "step", step)
        train_two_players(folder, tiny.pictures(), update)
        assert_same_state(final_state(folder), alone)
        weights, expected = (load_file(run / "weights.safetensors") for run in (folder, tmp_path / "alone"))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
        assert read_extra(folder / "weights.safetensors") == said
        assert (folder / "reconstructions.npz").read_bytes() == (tmp_path / "alone" / "reconstructions.npz").read_bytes()


# ---- signals and kills of real processes


def checkpoints_of(folder: Path) -> dict[str, checkpoint.State]:
    """The last checkpoint of each part of a run."""
    parts = sorted(path.parent for path in folder.glob("*/checkpoints"))
    return {part.name: final_state(part) for part in parts}


def assert_same_run(folder: Path, expected: dict[str, checkpoint.State]) -> None:
    met = checkpoints_of(folder)
    assert {*met} == {*expected} == {"discretizer", "dat-seed0"}
    for part, state in expected.items():
        assert_same_state(met[part], state)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.recipe_file(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def undisturbed(recipe: Path) -> dict[str, checkpoint.State]:
    code, said = tiny.finished(str(recipe), f"out={recipe.parent / 'alone'}")
    assert code == 0, said
    return checkpoints_of(recipe.parent / "alone")


def wait_for(process: subprocess.Popen[str], pattern: str, folder: Path) -> None:
    """Until the run has written a file, or has ended."""
    for _ in range(6000):
        if process.poll() is not None or next(folder.glob(pattern), None) is not None:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} within a minute")


@pytest.mark.parametrize(
    ("part", "number", "code"),
    [("dat-seed0", signal.SIGTERM, 143), pytest.param("discretizer", signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_saves_and_says_so_in_one_sentence(
    tmp_path: Path, recipe: Path, undisturbed: dict[str, checkpoint.State], part: str, number: signal.Signals, code: int
) -> None:
    process = tiny.started(str(recipe), f"out={tmp_path}")
    wait_for(process, f"{part}/checkpoints/step-*", tmp_path)
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert printed == ""
    sentences = [line for line in said.splitlines() if line.startswith("dat: ")]
    assert len(sentences) == 1
    assert "saved; continue with --resume." in sentences[0]
    step = int(sentences[0].split("step ")[1].split()[0])
    assert final_state(tmp_path / part).numbers["step"] == step
    assert "Traceback" not in said

    assert tiny.finished(str(recipe), f"out={tmp_path}", "--resume")[0] == 0
    assert_same_run(tmp_path, undisturbed)


def kill_and_resume(recipe: Path, folder: Path, *, kills: int, seed: int) -> int:
    """Kill -9 at random moments, from the first file of the run on; gives how many runs were killed before the end."""
    moments, killed = random.Random(seed), 0
    for attempt in range(kills):
        process = tiny.started(str(recipe), f"out={folder}", *["--resume"] * (attempt > 0))
        wait_for(process, ".owner.json" if attempt == 0 else "*/checkpoints", folder)
        before = {*folder.glob("*/checkpoints/step-*")}
        while process.poll() is None and {*folder.glob("*/checkpoints/step-*")} == before:
            time.sleep(0.005)  # until it has made a step, so that it gets on
        time.sleep(moments.uniform(0, 0.6))
        killed += process.poll() is None
        process.kill()
        process.communicate(timeout=60)
    code, said = tiny.finished(str(recipe), f"out={folder}", "--resume")
    assert code == 0, said
    return killed


@pytest.mark.slow  # killed inside its process, a run is tried always
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, recipe: Path, undisturbed: dict[str, checkpoint.State]) -> None:
    assert kill_and_resume(recipe, tmp_path, kills=2, seed=0) >= 1
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_run_killed_many_times_ends_with_the_same_bits(
    tmp_path: Path, recipe: Path, undisturbed: dict[str, checkpoint.State], seed: int
) -> None:
    kill_and_resume(recipe, tmp_path, kills=5, seed=seed)
    assert_same_run(tmp_path, undisturbed)
