"""Two processes do what one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import ACCUMULATED, SIZES, unlabelled
from safetensors.torch import load_file
from tiny import environment

from dat.engine.processes import processes_asked_for
from dat.methods import METHODS

HERE = Path(__file__).resolve().parent


def run_on(count: int, out: Path) -> Path:
    out.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    command = [sys.executable, *launcher, str(HERE / "processes.py"), str(out)]
    paths = {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, env={**environment(), **paths}, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process made, and what two did."""
    folder = tmp_path_factory.mktemp("processes")
    return run_on(1, folder / "one"), run_on(2, folder / "two")


@pytest.mark.parametrize("name", [*METHODS, "dat-sought", *(f"{name}-accumulated" for name in ACCUMULATED)])
def test_ten_steps_give_the_same_weights(runs: tuple[Path, Path], name: str) -> None:
    one, two = (load_file(out / f"{name}.safetensors") for out in runs)
    assert {*one} == {*two}
    for key, tensor in one.items():
        # Below 1e-2 there are only offsets whose gradient is rounding error, as that of the attention's keys.
        scale = tensor.abs().max().clamp(min=1e-2)
        assert (two[key] - tensor).abs().max() / scale <= 1e-5, key


def test_a_step_that_is_sought_is_the_same_on_one_and_two_processes(runs: tuple[Path, Path]) -> None:
    one, two = ([json.loads(line) for line in (out / "dat-sought" / "log.jsonl").read_text().splitlines()] for out in runs)
    assert {line["epoch"] for line in one} == {0, 1}
    assert one[0]["alpha"] == two[0]["alpha"]
    assert [line["alpha"] for line in one] == pytest.approx([line["alpha"] for line in two], rel=1e-3)
    assert all(line["rate"] == pytest.approx(0.2, rel=0.05) for line in one)


@pytest.mark.parametrize("name", unlabelled())
def test_without_classes_too_though_images_see_those_of_the_other_process(runs: tuple[Path, Path], name: str) -> None:
    """Ten steps in double precision, as rounding grows by a thousand; it stays below 1e-11, anything else is far off."""
    one, two = (load_file(out / f"{name}.safetensors") for out in runs)
    assert {*one} == {*two}
    assert {tensor.dtype for tensor in one.values()} <= {torch.float64, torch.int64}
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-10, msg=key)


@pytest.mark.parametrize("part", ["", "-vqgan"])
def test_all_processes_hold_the_same_also_after_a_resume(runs: tuple[Path, Path], part: str) -> None:
    """Running statistics, the average and the codebook included."""
    expected = load_file(runs[1] / f"alone{part}-0.safetensors")
    for run in ("alone", "resumed"):
        for process in (0, 1):
            met = load_file(runs[1] / f"{run}{part}-{process}.safetensors")
            assert {*met} == {*expected}
            different = [name for name, tensor in met.items() if not torch.equal(tensor, expected[name])]
            assert different == [], f"{run}, process {process}"


def test_a_codebook_of_running_means_is_the_same_on_one_and_two_processes(runs: tuple[Path, Path]) -> None:
    one, first, second = (
        load_file(out / f"means-{process}.safetensors") for out, process in zip(runs[:1] + runs[1:] * 2, (0, 0, 1), strict=True)
    )
    assert {*one} == {"codebook", "used", "counts", "sums"}
    assert one["counts"].unique().numel() > 4
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-6, atol=1e-6)


def test_two_processes_predict_what_one_does_and_both_know_it(runs: tuple[Path, Path]) -> None:
    one, first, second = (
        json.loads((out / f"predicted-{process}.json").read_text())
        for out, process in zip(runs[:1] + runs[1:] * 2, (0, 0, 1), strict=True)
    )
    assert [len(outputs) for size in SIZES for outputs in one[str(size)]] == [size for size in SIZES for _ in range(2)]
    assert first == second == one


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--num_processes", "3"], 3),
        (["--num-processes=4"], 4),
        (["--num_processes=5", "--config_file", "mine.json"], 5),
        (["--config-file", "mine.json"], 6),
        (["--config_file=mine.json"], 6),
        (["--config_file", "nowhere.yaml"], 1),
        ([], 2),
    ],
)
def test_the_number_of_processes_is_read_from_a_command_line_or_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], count: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text('{"num_processes": 6}')
    Path("default.yaml").write_text("num_processes: 2\nmixed_precision: 'no'\n")
    command = ["accelerate", "launch", *words, "-m", "dat", "train", "demo", "training.epochs=1"]
    assert processes_asked_for(command, Path("default.yaml")) == count


@pytest.mark.parametrize("content", ["", "[1]", "num_processes: many", "num_processes: [", "\x00"])
def test_a_configuration_that_tells_no_number_is_one_process(tmp_path: Path, content: str) -> None:
    (tmp_path / "odd.yaml").write_text(content)
    assert processes_asked_for(["accelerate", "launch"], tmp_path / "odd.yaml") == 1
