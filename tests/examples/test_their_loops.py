"""The loops of other libraries in `examples/`: two processes, and an accumulation, end with the weights of one large batch."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.tiny import environment

ROOT = Path(__file__).resolve().parents[2]
LOOPS = {
    "lightning_module.py": ["lightning", "lightning-static"],
    "hugging_face_trainer.py": ["trainer"],
    "timm_task.py": ["timm"],
    "fastai_callback.py": ["fastai"],
}
LONGEST = 40


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what every loop made; it is watched there which weights learn, and in which mode."""
    pytest.importorskip("transformers", reason="pip install '.[transformers]'")
    out = tmp_path_factory.mktemp("loops")
    variables = {**environment(), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}  # theirs
    command = [sys.executable, str(Path(__file__).with_name("their_loops.py")), str(out)]
    done = subprocess.run(command, env=variables, cwd=out, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.parametrize("how", ["2-1-0", "2-1-1", "1-2-0"])
@pytest.mark.parametrize("name", [name for names in LOOPS.values() for name in names])
def test_the_weights_are_those_of_one_process_and_one_large_batch(weights: Path, name: str, how: str) -> None:
    """Of two processes, on each of them; and of two micro-batches a step."""
    if name == "fastai" and find_spec("fastai") is None:
        pytest.skip("pip install fastai")
    whole, found = (load_file(weights / f"{name}-{which}.safetensors") for which in ("1-1-0", how))
    assert {*whole} == {*found} == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
    for key, tensor in whole.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize("file", LOOPS)
def test_an_example_is_short(file: str) -> None:
    assert len((ROOT / "examples" / file).read_text().splitlines()) < LONGEST
