"""What went wrong where, on the page of a run: tables, matrices, calibration, and the pictures two methods differ on."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from synthetic_run import row, write_run

from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.errors import DataError
from dat.evaluation.mistakes import CALIBRATION, CLASS_MEAN, OTHER, Answered
from dat.evaluation.right import Kept, Model, path_of, write_kept
from dat.report.answered import rows_of_class, said_of
from dat.report.mistakes import (
    CHOSEN,
    balance_table,
    confusion_figure,
    most_mistaken,
    panels_of,
    rates_of,
    read_strips,
    reliability_figure,
    tick_of,
    worst_table,
)
from dat.report.origins import Origins
from dat.report.page import gather, gather_mistakes, mistakes_of, write_report
from dat.report.tables import comparison_table
from dat.results import MISTAKES, Row, read_rows, write_rows
from dat.studies import mistaken_pictures
from dat.studies.mistaken_pictures import differing, pair_of
from dat.studies.study import Job

CLASSES = ("cat", "dog", "owl")
TARGETS = np.repeat(np.arange(3), 20)


def saying(wrong: dict[tuple[int, int], int], *, sure: float = 0.9) -> Answered:
    """Right, but for so many pictures of a class that are said to be of another; surer of later pictures."""
    said = TARGETS.copy()
    for (label, other), count in wrong.items():
        of_label = np.flatnonzero((label == TARGETS) & (said == TARGETS))
        said[of_label[:count]] = other
    return Answered(CLASSES, TARGETS, said, sure - 0.001 * np.arange(len(TARGETS))[::-1])


SAYS: dict[Model, Answered] = {
    ("standard", 0): saying({(0, 1): 4, (1, 2): 1}),
    ("standard", 1): saying({(0, 1): 10, (1, 2): 3}),
    ("dat", 0): saying({(0, 2): 2, (1, 0): 6}),
    ("dat", 1): saying({(0, 2): 2, (1, 0): 6}),
}


PAIR = Job("standard", 0), Job("dat", 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The synthetic run with what two of its methods said, and pictures: that of position k is grey of value 4 k."""
    folder = write_run(tmp_path / "run")
    keep(folder, SAYS)
    pixels = np.broadcast_to(4 * np.arange(60)[:, None, None, None], (60, 3, 8, 8)).astype(np.uint8)
    shown = ImageDataset(ArraySource(pixels, TARGETS, CLASSES), CenterCrop(), seed=0)
    mistaken_pictures.write(folder / MISTAKES, [("", shown, by_job(SAYS))], PAIR)
    return folder


def keep(folder: Path, says: dict[Model, Answered]) -> None:
    """As a training does: one file a model; what it said is of the first test set."""
    for (method, seed), said in says.items():
        write_kept(path_of(folder, method, seed), Kept({"clean": said.correct}, {"clean": said}))


def by_job(says: dict[Model, Answered]) -> dict[Job, Answered]:
    return {Job(method, seed or 0): said for (method, seed), said in says.items()}


def test_the_worst_class_comes_first_with_what_it_is_taken_for() -> None:
    table = worst_table(SAYS, name="worst-0")
    assert [line.title for line in table.lines] == ["cat (20)", "dog (20)", "owl (20)"]
    assert [column.method for column in table.columns] == ["standard", "dat"]
    assert [(cell.text, cell.spread) for cell in table.lines[0].cells] == [("65.0", "dog 35 %"), ("90.0", "owl 10 %")]
    assert [(cell.text, cell.spread) for cell in table.lines[1].cells] == [("90.0", "owl 10 %"), ("70.0", "cat 30 %")]
    assert [(cell.text, cell.spread) for cell in table.lines[2].cells] == [("100.0", ""), ("100.0", "")]
    assert "mean over seeds" in table.caption
    assert "mean over seeds" not in worst_table({("dat", 0): SAYS["dat", 0]}, name="worst-0").caption


def test_of_many_classes_the_worst_ten_with_pictures_are_named() -> None:
    classes = tuple(f"c{k}" for k in range(15))
    targets = np.arange(14)  # the last has none
    found = worst_table({("dat", 0): Answered(classes, targets, np.where(targets > 2, OTHER, targets), None)}, name="w")
    assert [line.title for line in found.lines] == [f"c{k} (1)" for k in range(3, 13)]
    assert found.lines[0].cells[0].spread == "another 100 %"
    assert "the 10 lowest of 14 classes" in found.caption


def test_models_with_other_classes_are_not_put_beside_each_other() -> None:
    other = Answered(("a", "b", "c"), TARGETS, TARGETS, None)
    with pytest.raises(DataError, match="different classes"):
        worst_table({**SAYS, ("at", 0): other}, name="worst-0")


def test_matrices_are_means_over_seeds_and_those_of_many_classes_are_chosen() -> None:
    rates = rates_of([SAYS["standard", 0], SAYS["standard", 1]])
    assert rates[0].tolist() == pytest.approx([0.65, 0.35, 0, 0])
    classes = [f"c{k}" for k in range(100)]
    shares = np.column_stack([np.eye(100), np.zeros(100)])
    shares[50:80, 50:80] = 0
    shares[50:80, 0] = 1.0
    found, chosen = most_mistaken({"dat": shares}, classes)
    assert chosen == classes[50:80]
    assert found["dat"].shape == (CHOSEN, CHOSEN + 1)
    assert (found["dat"][:, -1] == 1).all()


def test_a_matrix_says_its_numbers_in_their_places() -> None:
    figure = confusion_figure(SAYS)
    first = figure.axes[0]
    said = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in first.texts}
    assert said == {(0, 0): "65", (0, 1): "35", (1, 1): "90", (1, 2): "10", (2, 2): "100"}
    assert [label.get_text() for label in first.get_yticklabels()] == list(CLASSES)
    (image,) = first.get_images()
    veil = np.asarray(image.get_array())
    assert veil[0, 1, 3] == pytest.approx(0.9)
    assert veil[1, 2, 3] == pytest.approx(0.9 * 0.1 / 0.35)


@pytest.mark.parametrize("methods", [1, 2, 3, 5])
def test_titles_of_matrices_are_within_the_figure(methods: int) -> None:
    figure = confusion_figure({(f"m{number}", 0): SAYS["dat", 0] for number in range(methods)})
    figure.savefig(io.BytesIO(), format="svg")
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0


def test_classes_may_be_called_anything() -> None:
    assert [tick_of(name) for name in ("owl", "chrysanthemum", "a_b")] == ["owl", "chrysanthem…", "a b"]
    classes = ("$a$", "\N{CJK UNIFIED IDEOGRAPH-732B}", 'b"&<')
    said: dict[Model, Answered] = {("dat", 0): Answered(classes, TARGETS, np.roll(TARGETS, 5), None)}
    found = mistakes_of({'o"&': said, "p": said}, ["dat"], {}, [], {})
    assert [plot.name for plot in found.plots if plot] == ["confusion-0", "confusion-1"]
    for plot in found.plots:
        assert plot is None or ElementTree.fromstring(plot.svg.replace("xlink:href", "href")) is not None


def test_of_many_methods_the_baseline_and_dat_are_shown() -> None:
    methods = ["a", "b", "c", "d", "e", "f", "dat", "standard"]
    assert panels_of(methods) == ["a", "b", "c", "d", "dat", "standard"]


def test_calibration_needs_to_know_how_sure_the_models_were() -> None:
    without = {model: Answered(CLASSES, said.targets, said.said, None) for model, said in SAYS.items()}
    with pytest.raises(DataError, match="How sure the models were was not kept"):
        reliability_figure(without)
    upper = reliability_figure(SAYS).axes[0]
    _, standard, _ = upper.get_lines()
    right = np.concatenate([SAYS["standard", 0].correct, SAYS["standard", 1].correct])
    assert np.average(np.asarray(standard.get_ydata())) == pytest.approx(100 * right.mean(), abs=8)


def test_class_means_and_calibration_stand_beside_each_other() -> None:
    rows = [
        row("clean", value + seed, method=method, seed=seed, metric=metric, protocol={"set": name})
        for name in ("photos", "art")
        for metric, value in (("accuracy", 80.0), (CLASS_MEAN, 70.0), (CALIBRATION, 5.0))
        for method in ("standard", "dat")
        for seed in (0, 1, 2)
    ]
    table = balance_table(rows)
    assert table is not None
    titles = [
        "Class-mean accuracy (photos)",
        "Class-mean accuracy (art)",
        "Calibration error ↓ (photos)",
        "Calibration error ↓ (art)",
    ]
    assert [column.title for column in table.columns] == titles
    assert [cell.text for cell in table.lines[0].cells] == ["71.0", "71.0", "6.0", "6.0"]
    assert [cell.mark for cell in table.lines[0].cells] == ["tie", "tie", "", ""]
    assert any("corrected for 2 comparisons: one pair of methods on each of 2 test sets" in note for note in table.notes)
    assert table.caption.endswith("mean over seeds, ± half of its 95 % interval.")
    assert balance_table(rows[:1]) is None


def test_two_seeds_have_no_interval_beside_the_accuracy_either_and_without_calibration_there_is_no_column() -> None:
    table = balance_table([row("clean", 70.0 + seed, seed=seed, metric=CLASS_MEAN) for seed in (0, 1)])
    assert table is not None
    assert [column.title for column in table.columns] == ["Class-mean accuracy"]
    assert table.caption.endswith("(two seeds: no interval).")
    assert not any("less is better" in note for note in table.notes)


# ---- pictures


def test_pictures_are_those_of_which_one_model_alone_is_right(run: Path) -> None:
    first, second = read_strips(run / MISTAKES)[""]
    assert first.title == "Standard, seed 0 is right, DAT, seed 0 is not"
    assert second.title == "DAT, seed 0 is right, Standard, seed 0 is not"
    shown = [[grey_of(picture.address) // 4 for picture in strip.pictures] for strip in (first, second)]
    assert shown[0] == [25, 24, 23, 22, 21]  # standard is wrong of 20, DAT of 20 to 25; the surest mistake first
    assert shown[1] == [3, 2]
    assert first.pictures[0].label == "dog"
    assert first.pictures[0].said == (("Standard", "dog 87 %"), ("DAT", "cat 87 %"))


def grey_of(address: str) -> int:
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return int(np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0])


def test_no_more_pictures_than_are_asked_for() -> None:
    assert differing(SAYS["standard", 0], SAYS["dat", 0], count=2) == [25, 24]
    assert differing(SAYS["standard", 0], SAYS["standard", 0]) == []


def test_what_is_none_of_the_classes_is_called_another(tmp_path: Path) -> None:
    shown = ImageDataset(ArraySource(np.zeros((60, 3, 8, 8), np.uint8), TARGETS, CLASSES), CenterCrop(), seed=0)
    says: dict[Model, Answered] = {("standard", 0): saying({}), ("dat", 0): saying({(0, OTHER): 1})}
    mistaken_pictures.write(tmp_path / MISTAKES, [("", shown, by_job(says))], PAIR)
    (strip,) = read_strips(tmp_path / MISTAKES)[""]
    assert [words.split()[0] for _, words in strip.pictures[0].said] == ["cat", "another"]


def test_pictures_of_other_models_do_not_stay(tmp_path: Path) -> None:
    shown = ImageDataset(ArraySource(np.zeros((60, 3, 8, 8), np.uint8), TARGETS, CLASSES), CenterCrop(), seed=0)
    others = Job("standard", 1), Job("dat", 1)
    for name, pair in (("a", PAIR), ("b", PAIR), ("c", others)):
        mistaken_pictures.write(tmp_path / MISTAKES, [(name, shown, by_job(SAYS))], pair, keep=["a"])
        assert list(read_strips(tmp_path / MISTAKES)) == {"a": ["a"], "b": ["a", "b"], "c": ["c"]}[name]


def test_the_pair_is_standard_and_the_first_adversary_of_one_seed() -> None:
    jobs = [Job(label, seed) for seed in (0, 1) for label in ("at", "standard", "dat")]
    assert pair_of(jobs, ["dat"]) == (Job("standard", 0), Job("dat", 0))
    assert pair_of(jobs, []) == (Job("standard", 0), Job("at", 0))
    assert pair_of([Job("dat", 0), Job("at", 0)], ["dat"]) == (Job("dat", 0), Job("at", 0))
    assert pair_of([Job("dat", 0), Job("dat", 1)], ["dat"]) is None
    assert pair_of([Job("standard", 0), Job("dat", 1)], ["dat"]) is None


def test_no_picture_is_no_strip(tmp_path: Path) -> None:
    pixels = np.zeros((60, 3, 8, 8), np.uint8)
    shown = ImageDataset(ArraySource(pixels, TARGETS, CLASSES), CenterCrop(), seed=0)
    alike: dict[Model, Answered] = {("standard", 0): SAYS["dat", 0], ("dat", 0): SAYS["dat", 0]}
    mistaken_pictures.write(tmp_path / MISTAKES, [("photos", shown, by_job(alike))], PAIR)
    assert read_strips(tmp_path / MISTAKES) == {"photos": ()}
    (tmp_path / MISTAKES).write_bytes(b"none")
    with pytest.raises(DataError, match="is no file of arrays"):
        read_strips(tmp_path / MISTAKES)
    np.savez(tmp_path / MISTAKES, sets=np.array(["a"]))
    with pytest.raises(DataError, match="does not hold pictures with what two models say"):
        read_strips(tmp_path / MISTAKES)


# ---- the page


def test_the_page_shows_all_of_it(run: Path) -> None:
    rows = [row("clean", 70.0 + seed, seed=seed, metric=metric) for metric in (CLASS_MEAN, CALIBRATION) for seed in (0, 1)]
    write_rows(run / "results.jsonl", [*read_rows(run / "results.jsonl"), *rows])
    text = write_report(run).read_text()
    section = text[text.index('<section aria-labelledby="mistakes">') :]
    section = section[: section.index("</section>")]
    assert section.count('<li><img src="data:image/png;base64,') == 7
    for part in ('id="table-balance"', 'id="table-worst-0"', 'id="figure-confusion-0"', 'id="figure-reliability-0"'):
        assert section.count(part) == 1
    matrices = re.findall(r'href="data:image/png;base64,([^"]+)"', section)
    assert len(matrices) == 2
    assert all(Image.open(io.BytesIO(base64.b64decode(data))).width >= 3 for data in matrices)
    assert "| cat (20) | 65.0 dog 35 % | 90.0 owl 10 % |" in (run / "report.md").read_text()


def accuracies(said: dict[Model, Answered]) -> list[Row]:
    """As a training writes them."""
    values = {model: 100 * float(answered.correct.mean()) for model, answered in said.items()}
    return [row("clean", value, method=method, seed=seed, n=60, ci=None) for (method, seed), value in values.items()]


def test_each_number_of_a_class_says_where_it_comes_from(run: Path) -> None:
    others = [one for one in read_rows(run / "results.jsonl") if (one.suite, one.metric) != ("clean", "accuracy")]
    write_rows(run / "results.jsonl", [*others, *accuracies(SAYS)])
    report = gather(run)
    origins = Origins([*report.tables.values()])
    for name in ("worst-0", "by-class-0"):
        assert all(origins.of(cell) for line in report.tables[name].lines for cell in line.cells), name
    ours = accuracies(SAYS)[2:]
    told = origins.of(report.tables["worst-0"].lines[0].cells[1])
    assert told is not None
    assert told.title == "DAT: Clean, class cat"
    assert told.facts["DAT"] == "; ".join(f"seed {one.seed}: 90.00 (weights {one.checkpoint[:8]})" for one in ours)
    assert (told.facts["Pictures"], told.facts["Recipe"]) == ("20", ours[0].recipe_hash)
    assert told.facts["Measured"].endswith("class cat")
    lines = {line.title: line.cells for line in report.tables["by-class-0"].lines}
    gap = origins.of(lines["dog (20)"][1])
    assert gap is not None
    assert gap.title == "DAT against Standard: Clean, class dog"
    assert gap.facts["Standard"].startswith("seed 0: 95.00 ")
    assert {one.protocol["class"] for line in lines.values() for cell in line for one in cell.rows} == set(CLASSES)


def test_answers_that_are_not_of_the_row_claim_no_origin(run: Path) -> None:
    told = {(one.method, one.seed): one for one in accuracies(SAYS)}
    other = {model: replace(one, value=one.value + 1) if model == ("dat", 0) else one for model, one in told.items()}
    for place in range(3):
        assert [one.seed for one in rows_of_class(told, SAYS, place, "dat")] == [0, 1]
        assert [one.seed for one in rows_of_class(other, SAYS, place, "dat")] == [1]
    assert rows_of_class({}, SAYS, 0, "dat") == ()
    assert [one.seed for one in rows_of_class(told, SAYS, 0, "dat", "standard", seeds=[1])] == [1, 1]


def test_a_set_is_called_what_the_rows_call_it(tmp_path: Path) -> None:
    further = {"clean": SAYS["dat", 0].correct, "clean@art": SAYS["dat", 1].correct}
    kept = Kept(further, {"clean": SAYS["dat", 0], "clean@art": SAYS["dat", 1]})
    rows = [row("clean", 70.0, protocol={"set": name}) for name in ("photos", "art")]
    found = said_of({("dat", 0): kept}, rows)
    assert {name: list(models) for name, models in found.items()} == {"photos": [("dat", 0)], "art": [("dat", 0)]}
    assert found["art"]["dat", 0] is SAYS["dat", 1]


def test_models_that_were_not_compared_are_left_out(tmp_path: Path) -> None:
    rows = [row("clean", 70.0, method=method, seed=seed) for method in ("standard", "dat") for seed in (0, 1)]
    said = {"photos": {**SAYS, ("dat", 7): SAYS["dat", 0], ("other", 0): SAYS["dat", 0]}}
    left_out: list[str] = []
    found = gather_mistakes(tmp_path, comparison_table(rows), said, left_out)
    assert [column.method for column in found.tables[0].columns] == ["standard", "dat"]
    assert found.tables[0].lines[0].cells[1].text == "90.0"
    assert [said.split(":")[0] for said in left_out] == ["Pictures that two methods differ on"]


@pytest.mark.usefixtures("undrawn")
def test_answers_of_an_older_version_leave_the_part_out_with_one_sentence(run: Path) -> None:
    for (method, seed), said in SAYS.items():
        write_kept(path_of(run, method, seed), Kept({"clean": said.correct}))
    report = gather(run)
    assert report.mistakes == ()
    assert [text for text in report.left_out if "wrong" in text or "differ" in text] == [
        "What went wrong where: left out. No right/*.npz tells what was said of clean pictures: an older version wrote them, "
        "or none were shown."
    ]
    assert 'aria-labelledby="mistakes"' not in write_report(run).read_text()


@pytest.mark.usefixtures("undrawn")
def test_damaged_answers_leave_the_part_out_and_are_named_once(run: Path) -> None:
    path = path_of(run, "dat", 0)
    path.write_bytes(path.read_bytes()[:-30])
    report = gather(run)
    assert report.mistakes == ()
    assert len([text for text in report.left_out if "right/dat-seed0.npz is damaged" in text]) == 1
    assert not [text for text in report.left_out if "went wrong" in text]
