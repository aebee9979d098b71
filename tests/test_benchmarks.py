"""The benchmarks run, and what they write has its form; no time is asserted."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dat.data.corruptions.table import CORRUPTIONS, EXTRA_CORRUPTIONS
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import save_discretizer
from dat.methods import METHODS
from dat.nn.imagenet_networks import tiny_darknet
from dat.nn.zoo import create_network

Run = Callable[..., str]
FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
RESULTS = sorted((FOLDER / "results").glob("*.json"))
PARTS = {"first_q_pass", "image_gradient", "second_q_pass", "training"}
METHOD_KEYS = {"ratio", "ratio_range", "seconds", "gflop_per_image", "peak_extra_mib"}
SMALLEST = ("--size", "16", "--batch", "5", "--repeats", "3", "--threads", "1")


@pytest.fixture
def output_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """What a script prints; in this process, as starting Python takes longer than the smallest benchmark."""
    threads = torch.get_num_threads()

    monkeypatch.syspath_prepend(FOLDER)

    def run(name: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *options])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)


def check_step(result: dict) -> None:
    assert set(result) == {"methods", "dat_parts", "setting", "machine"}
    assert result["methods"]["standard"]["ratio"] == 1
    for row in result["methods"].values():
        assert set(row) == METHOD_KEYS
        low, high = row["ratio_range"]
        assert 0 < low <= row["ratio"] <= high
        assert row["seconds"] > 0
    assert set(result["dat_parts"]) == PARTS
    assert all(part["share"] > 0 for part in result["dat_parts"].values())
    assert sum(part["share"] for part in result["dat_parts"].values()) == pytest.approx(1, abs=0.15)
    assert not any("/" in text for text in (result["machine"]["machine"], result["machine"]["device"]))


def check_work(result: dict) -> None:
    """The multiplications of a DAT step, which no disturbance changes."""
    work = {name: part["gflop_per_image"] for name, part in result["dat_parts"].items()}
    plain, dat = (result["methods"][name]["gflop_per_image"] for name in ("standard", "dat"))
    assert work["first_q_pass"] == work["second_q_pass"] > 0
    assert work["training"] == plain
    assert plain / 2 < work["image_gradient"] < plain  # forward and image gradient, without those of the weights
    assert sum(work.values()) == pytest.approx(dat, rel=1e-3)


@pytest.mark.slow  # the same step as of two methods, thirteen times more
def test_step_of_every_method(tmp_path: Path, output_of: Run) -> None:
    output = tmp_path / "step.json"
    table = output_of("step.py", *SMALLEST, "--output", str(output))
    result = json.loads(output.read_text())
    check_step(result)
    check_work(result)
    assert set(result["methods"]) == set(METHODS)
    assert all(name in table for name in (*METHODS, *PARTS))
    assert str(tmp_path) not in output.read_text()


def test_step_in_low_precision_and_channels_last(tmp_path: Path, output_of: Run) -> None:
    output = tmp_path / "step.json"
    low = ("--precision", "bf16", "--discretizer-precision", "bf16", "--channels-last", "--methods", "dat")
    output_of("step.py", *SMALLEST, *low, "--output", str(output))
    result = json.loads(output.read_text())
    check_step(result)
    check_work(result)
    assert set(result["methods"]) == {"standard", "dat"}
    assert result["setting"]["discretizer_precision"] == "bf16"


def test_a_method_with_settings_costs_what_they_say(tmp_path: Path, output_of: Run) -> None:
    output = tmp_path / "step.json"
    few, many = "dat-fast:adversarial_share=0.4,clean_share=0", "dat-fast:adversarial_share=1,clean_share=0"
    output_of("step.py", *SMALLEST, "--methods", "dat", few, many, "--output", str(output))
    work = {name: row["gflop_per_image"] for name, row in json.loads(output.read_text())["methods"].items()}
    assert work[many] == work["dat"] == pytest.approx(5 / 2 * work[few], rel=1e-3)


def test_the_released_step_does_what_ours_does_and_what_it_does_not_need(tmp_path: Path, output_of: Run) -> None:
    output = tmp_path / "step.json"
    output_of("step.py", *SMALLEST, "--methods", "dat-official", "--official", "--output", str(output))
    work = {name: row["gflop_per_image"] for name, row in json.loads(output.read_text())["methods"].items()}
    plain = work["standard"]
    # One forward pass more, and the gradients of the weights in the attack; convolutions that ours does not repeat.
    assert work["dat-official"] + 0.6 * plain < work["official code"] < work["dat-official"] + 2 * plain


@pytest.mark.parametrize("wrong", ["dat-fest", "dat:alpha", "dat:beta=1", "dat-fast:adversarial_share=2"])
def test_a_method_that_is_none_is_refused(output_of: Run, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        output_of("step.py", "--methods", wrong)
    assert f"{wrong!r} is no METHOD or METHOD:KEY=NUMBER,..." in capsys.readouterr().err


def test_kept_results_have_the_form_that_is_written_now() -> None:
    assert {path.name for path in RESULTS} >= {"step-small-cpu.json", "step-resnet50-224-cpu.json"}
    for path in RESULTS:
        if path.name.startswith("step-"):
            result = json.loads(path.read_text())
            check_step(result)
            check_work(result)


def test_discretizer(tmp_path: Path, output_of: Run) -> None:
    output = tmp_path / "discretizer.json"
    pytest.importorskip("diffusers")
    table = output_of("discretizer.py", *SMALLEST, "--precision", "fp32", "bf16", "--peer", "--json", str(output))
    result = json.loads(output.read_text())
    others = {"straightforward", "diffusers fp32", "diffusers bf16"}
    assert set(result["variants"]) == {*others, "ours fp32", "ours bf16"}
    for name, row in result["variants"].items():
        assert name in table
        low, high = row["speedup_range"]
        assert 0 < low <= row["speedup"] <= high
        assert row["seconds"] > 0
        assert row["changed_codes"] <= (0.5 if "bf16" in name else 0)
        assert row["largest_difference"] <= (0.2 if "bf16" in name else 1e-4)
    assert result["variants"]["straightforward"]["speedup"] == 1
    assert result["machine"]["threads"] == 1
    assert str(tmp_path) not in output.read_text()


@pytest.mark.slow
def test_discretizer_of_a_file(tmp_path: Path, output_of: Run) -> None:
    """With attention, a shortcut and a level of more than one block, evaluated independently of our network."""
    config = VQGANConfig(n_embed=16, embed_dim=4, z_channels=4, ch=32, ch_mult=(1, 2), resolution=8, attn_resolutions=(4,))
    torch.manual_seed(0)
    network = VQGAN(config)
    torch.nn.init.normal_(network.quantize.get_parameter("embedding.weight"))
    weights, output = save_discretizer(tmp_path, network), tmp_path / "result.json"
    output_of("discretizer.py", *SMALLEST, "--weights", str(weights), "--precision", "fp32", "--json", str(output))
    result = json.loads(output.read_text())
    assert result["setting"]["weights"] == weights.name
    assert result["variants"]["ours fp32"]["changed_codes"] == 0
    assert result["variants"]["ours fp32"]["largest_difference"] < 1e-4


def check_equal_rate(result: dict, *, tolerance: float) -> None:
    assert set(result) == {"discretizers", "passes", "setting", "versions"}
    assert not any("/" in str(value) for value in result["setting"].values())
    for found in result["discretizers"].values():
        assert {point["attack"] for point in found["points"]} == set(result["passes"])
        for point in found["points"]:
            low, high = point["interval"]
            assert low <= point["accuracy"] <= high
            assert point["n"] == found["reconstruction"]["n"]
            is_tuned = point["alpha"] is not None
            assert is_tuned == (point["attack"] in ("dat", "dat, 3 steps"))
            rate = pytest.approx(point["target_rate"], rel=tolerance if is_tuned else 1e-3)
            assert point["modified_code_rate"] == rate, point


def test_equal_rate(tmp_path: Path, output_of: Run) -> None:
    """On noise and random weights: the rates are those asked for, more codes are more distance, and the files are written."""
    rng = np.random.default_rng(0)
    for index in range(10):
        folder = tmp_path / "data" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    torch.manual_seed(0)
    save_file(create_network("small_resnet", num_classes=2, options={"depth": 8}).state_dict(), tmp_path / "w.safetensors")
    small = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (), "resolution": 8}
    network = VQGAN(VQGANConfig(n_embed=64, embed_dim=4, z_channels=4, **small))
    with torch.no_grad():  # codes that are in use
        latents = network.latents(2 * torch.rand(4, 3, 8, 8) - 1).movedim(1, 3).flatten(0, 2)
        network.quantize.get_parameter("embedding.weight").copy_(latents)
    paths = {"--data": tmp_path / "data", "--weights": tmp_path / "w.safetensors", "--json": tmp_path / "equal.json"}
    paths |= {"--discretizers": save_discretizer(tmp_path, network), "--figure": tmp_path / "equal.png"}
    given = [str(word) for pair in paths.items() for word in pair]
    table = output_of("equal_rate.py", *given, "--depth", "8", "--per-class", "5", "--rates", "0.25", "0.125")
    result = json.loads((tmp_path / "equal.json").read_text())
    check_equal_rate(result, tolerance=0.2)
    assert all(name in table for name in result["passes"])
    ((name, found),) = result["discretizers"].items()
    assert name == paths["--discretizers"].name
    for attack in result["passes"]:
        few, many = (point for point in found["points"] if point["attack"] == attack)
        assert few["psnr_db"] > many["psnr_db"]
        assert few["l2_distance"] < many["l2_distance"]
    assert (tmp_path / "equal.png").read_bytes().startswith(b"\x89PNG")


def test_equal_rate_without_pictures_or_weights(tmp_path: Path, output_of: Run) -> None:
    assert output_of("equal_rate.py") == (
        "Nothing was measured: give CIFAR-10 test pictures (--data) and weights of a classifier (--weights).\n"
    )
    with pytest.raises(SystemExit, match="Cannot open the data folder"):
        output_of("equal_rate.py", "--data", str(tmp_path / "none"), "--weights", str(tmp_path / "none"))


def test_kept_results_of_equal_rate() -> None:
    found = [path for path in RESULTS if path.name.startswith("equal-rate-")]
    assert len(found) == 2
    for path in found:
        check_equal_rate(json.loads(path.read_text()), tolerance=0.02)


def check_alpha_by_size(result: dict) -> None:
    assert set(result) == {"points", "exponent", "setting", "versions"}
    assert not any("/" in str(value) for value in result["setting"].values())
    rates = {(row["side"], row["alpha"]): row["modified_code_rate"] for row in result["points"]}
    sides, alphas = result["setting"]["sides"], sorted(result["setting"]["alphas"])
    assert set(rates) == {(side, alpha) for side in sides for alpha in alphas}
    for side in sides:
        of_side = [rates[side, alpha] for alpha in alphas]
        assert of_side == sorted(of_side)
        assert 0 <= of_side[0] <= of_side[-1] <= 1


def test_alpha_by_size(tmp_path: Path, output_of: Run) -> None:
    """On noise and random weights: every alpha at every side, a longer step changes more, and the files are written."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    for index in range(3):
        Image.fromarray(rng.integers(256, size=(40, 50, 3), dtype=np.uint8)).save(tmp_path / "data" / "images" / f"{index}.png")
    lines = "".join(f"{index},images/{index}.png\n" for index in range(3))
    (tmp_path / "data" / "labels.csv").write_text(f"class_index,path\n{lines}")
    torch.manual_seed(0)
    save_file(tiny_darknet().state_dict(), tmp_path / "w.safetensors")
    small = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (), "resolution": 8}
    network = VQGAN(VQGANConfig(n_embed=64, embed_dim=4, z_channels=4, **small))
    with torch.no_grad():  # codes that are in use
        latents = network.latents(2 * torch.rand(4, 3, 8, 8) - 1).movedim(1, 3).flatten(0, 2)
        network.quantize.get_parameter("embedding.weight").copy_(latents)
    paths = {"--data": tmp_path / "data", "--weights": tmp_path / "w.safetensors", "--json": tmp_path / "alpha.json"}
    paths |= {"--discretizer": save_discretizer(tmp_path, network), "--figure": tmp_path / "alpha.png"}
    given = [str(word) for pair in paths.items() for word in pair]
    table = output_of("alpha_by_size.py", *given, "--pictures", "3", "--sides", "32", "48", "--alphas", "0.5", "4")
    result = json.loads((tmp_path / "alpha.json").read_text())
    check_alpha_by_size(result)
    assert "48 px" in table
    assert {row["n"] for row in result["points"]} == {3}
    assert (tmp_path / "alpha.png").read_bytes().startswith(b"\x89PNG")


def test_the_exponent_of_rates_that_follow_a_power_is_that_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    script = runpy.run_path(str(FOLDER / "alpha_by_size.py"))
    sides, alphas = (32, 64, 224), (0.05, 0.1, 0.4, 0.8)
    points = [
        {"side": side, "alpha": alpha, "modified_code_rate": 0.2 * alpha**0.7 / side ** (0.6 * 0.7)}
        for side in sides
        for alpha in alphas
    ]
    found = script["exponent"](points)
    assert found["mean"] == pytest.approx(0.6, abs=1e-3)
    assert found["range"] == pytest.approx([0.6, 0.6], abs=1e-3)


def test_alpha_by_size_without_pictures_or_weights(output_of: Run) -> None:
    assert output_of("alpha_by_size.py").startswith("Nothing was measured: give pictures of ImageNet")


def test_kept_results_of_alpha_by_size() -> None:
    found = [path for path in RESULTS if path.name.startswith("alpha-by-size-")]
    assert len(found) == 2
    for path in found:
        check_alpha_by_size(json.loads(path.read_text()))


def check_alpha_for_rate(result: dict, *, tolerance: float) -> None:
    """Every alpha leads to its rate where it was sought, and on all other pictures."""
    assert set(result) == {"points", "setting", "versions"}
    assert not any("/" in str(value) for value in result["setting"].values())
    options = result["setting"]
    cells = [(name, side, rate) for name in options["discretizers"] for side in options["sides"] for rate in options["rates"]]
    parts = range(options["parts"])
    met = [(row["discretizer"], row["side"], row["rate"], row["part"]) for row in result["points"]]
    assert met == [(*cell, part) for cell in cells for part in parts]
    for row in result["points"]:
        assert row["reached"] == pytest.approx(row["rate"], rel=0.021), row
        assert row["elsewhere"] == pytest.approx(row["rate"], rel=tolerance), row


def write_scenes(folder: Path, count: int) -> None:
    """Smooth pictures of ImageNet's classes, in the layout of a list."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        rough = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8))
        rough.resize((140, 140), Image.Resampling.BICUBIC).save(folder / "images" / f"{index}.png")
    lines = "".join(f"{index},images/{index}.png\n" for index in range(count))
    (folder / "labels.csv").write_text(f"class_index,path\n{lines}")


def test_an_alpha_reaches_its_rate_on_other_pictures_with_three_discretizers_at_three_sizes(
    tmp_path: Path, output_of: Run
) -> None:
    """At a small scale: 32 smooth pictures and a random network; what was measured on real ones is kept in the results."""
    write_scenes(tmp_path / "data", 32)
    torch.manual_seed(0)
    save_file(tiny_darknet().state_dict(), tmp_path / "w.safetensors")
    paths = {"--data": tmp_path / "data", "--weights": tmp_path / "w.safetensors"}
    paths |= {"--json": tmp_path / "alpha.json", "--manifests": tmp_path}
    given = [str(word) for pair in paths.items() for word in pair]
    table = output_of("alpha_for_rate.py", *given, "--pictures", "16")
    result = json.loads((tmp_path / "alpha.json").read_text())
    check_alpha_for_rate(result, tolerance=0.1)
    assert (result["setting"]["sides"], len(result["setting"]["discretizers"])) == ([32, 64, 128], 3)
    assert all(name in table for name in result["setting"]["discretizers"])
    alphas = [row["alpha"] for row in result["points"] if (row["discretizer"], row["side"]) == ("photos-f4-1024-fast", 64)]
    suggested = json.loads((tmp_path / "photos-f4-1024-fast.json").read_text())["suggested_alpha"]
    (kept,) = (row for row in suggested if row["side"] == 64)
    assert kept["alpha"] == pytest.approx(sum(alphas) / 2, rel=1e-3)
    assert (kept["n"], kept["pictures"], kept["network"]) == (32, "data", "w.safetensors")


def test_alpha_for_rate_without_pictures_or_weights(output_of: Run) -> None:
    assert output_of("alpha_for_rate.py").startswith("Nothing was measured: give labelled pictures")


def test_kept_results_of_alpha_for_rate() -> None:
    found = {path.name: json.loads(path.read_text()) for path in RESULTS if path.name.startswith("alpha-for-rate-")}
    assert len(found) == 6
    table = {(row["discretizer"], row["side"]) for result in found.values() for row in result["points"] if row["n"] >= 256}
    assert table >= set(
        product((f"{name}-fast" for name in ("cifar-f2-1024", "cifar-f4-1024", "photos-f4-1024")), (32, 64, 128))
    )
    for result in found.values():
        check_alpha_for_rate(result, tolerance=0.1)


def test_corruptions(output_of: Run) -> None:
    result = json.loads(output_of("corruptions.py", "--side", "32", "--count", "1"))
    assert set(result["images_per_second"]) == {*CORRUPTIONS, *EXTRA_CORRUPTIONS}
    assert all(set(rates) == {"batched", "single", "batch_gain"} for rates in result["images_per_second"].values())
    assert all(rates["batched"] > 0 for rates in result["images_per_second"].values())


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("`resnet50-224`, 3 rounds", "resnet50-224"),
        ("`small`, 9 rounds", "small-32"),
        ("`small` at 64 pixels, 9 rounds", "small-64"),
    ],
)
def test_the_table_of_cheap_steps_says_what_was_measured(title: str, name: str) -> None:
    text = (FOLDER / "README.md").read_text().split("With the fast discretizers", 1)[1]
    cells = next(line for line in text.splitlines() if line.startswith(f"| {title} |")).strip("| ").split(" | ")
    found = json.loads((FOLDER / "results" / f"cheap-{name}-cpu.json").read_text())["methods"].values()
    ratios = [f"{one['ratio']:.2f} ({one['ratio_range'][0]:.2f} to {one['ratio_range'][1]:.2f})" for one in found]
    assert cells[1:] == ["1", *ratios[1:]]
