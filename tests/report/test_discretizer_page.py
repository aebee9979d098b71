import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import FACTS, write_log
from test_report import Page

from dat.commands.report import write
from dat.commands.train import SHOWN
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import save_discretizer
from dat.errors import DataError
from dat.report.discretizer_page import gather, write_discretizer_report
from dat.results import hashes_of

TINY = VQGANConfig(n_embed=4, embed_dim=3, z_channels=4, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
MADE_BY = {
    "quality": {"psnr_db": 21.53125, "codes_used": 0.04, "squeezenet1_0_distance": 0.5, "flops": 9162752},
    "alarm": "Only 4 % of the codes are used.",
    "perceptual": {"kind": "features", "network": "squeezenet1_0"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    write_log(folder, [{"step": step, "loss": 1 / step, "psnr_db": 20.0 + step} for step in range(1, 5)])
    (folder / "run.json").write_text(json.dumps({**FACTS, "kind": "discretizer", "title": "A <VQGAN>"}))
    (folder / "recipe.yaml").write_text("kind: discretizer\n")
    pictures = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "reconstructions.npz", original=pictures, epoch_1=pictures, epoch_2=pictures)
    save_discretizer(folder, VQGAN(TINY), MADE_BY)
    return folder


def test_the_page_holds_quality_alarm_pictures_curves_and_provenance(run: Path) -> None:
    text = write(run).read_text()
    Page(text)
    for words in (
        "A &lt;VQGAN&gt;",
        "21.53",
        "Only 4 % of the codes",
        "perceptual distance (squeezenet1_0)",
        "kind features",
        "<svg",
        "2 cores",
    ):
        assert words in text
    assert text.count('src="data:image/png') == 9
    assert "epoch 2" in text
    assert "Left out" not in text


def test_a_student_has_no_reconstructions_to_miss(run: Path) -> None:
    (run / "reconstructions.npz").unlink()
    assert gather(run).left_out == (
        "The reconstructions: left out. reconstructions.npz is no file of arrays (No such file or directory).",
    )
    save_discretizer(run, VQGAN(TINY), {**MADE_BY, "teacher": {"name": "cifar-f4-1024"}})
    assert gather(run).left_out == ()


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert write(run).read_bytes() == write(run).read_bytes()


def test_what_is_missing_is_left_out_and_said(run: Path) -> None:
    for name in ("log.jsonl", "reconstructions.npz", "recipe.yaml"):
        (run / name).unlink()
    page = gather(run)
    assert (page.pictures, page.health, page.recipe) == ({}, "", "")
    assert len(page.left_out) == 3
    Page(write_discretizer_report(run).read_text())


def test_what_was_altered_stands_on_the_page(run: Path) -> None:
    facts = {**FACTS, "kind": "discretizer", "files": hashes_of(run, SHOWN)}
    (run / "run.json").write_text(json.dumps(facts))
    assert gather(run).alarms == ()
    (run / "reconstructions.npz").write_bytes((run / "reconstructions.npz").read_bytes()[:-20])
    assert "run/reconstructions.npz was changed or damaged" in write(run).read_text()
    (run / "run.json").write_text("{}")
    with pytest.raises(DataError, match="does not say what was run"):
        write(run)


def test_without_weights_there_is_no_page(run: Path) -> None:
    (run / "discretizer.safetensors").unlink()
    with pytest.raises(DataError, match="holds no trained discretizer"):
        write(run)
    assert not (run / "report.html").exists()
