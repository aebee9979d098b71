import base64
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import full_rows, row, write_run

from dat.commands.train import SHOWN
from dat.errors import DataError, UsageError
from dat.evaluation.right import Kept, path_of, write_kept
from dat.report import page as page_module
from dat.report.page import attempt, gather, read_facts, read_pictures, write_report
from dat.report.tables import all_tables, comparison_table
from dat.results import hashes_of, write_rows

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Elements of a page with their attributes; refuses tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "synthetic")


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return write_report(run).read_text()


def test_page_needs_nothing_outside_itself(text: str):
    page = Page(text)
    assert page.all("script") == [{}]
    assert all((image["src"] or "").startswith("data:") for image in page.all("img"))
    assert {link["href"] for link in page.all("link")} == {"data:,"}
    assert not re.search(r"@import|url\((?!#)", text)
    addresses = set(re.findall(r"https?://[^\"'<> ]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_the_policy_allows_the_script_of_the_page_and_nothing_else(text: str):
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(meta["content"] or "" for meta in Page(text).all("meta") if "http-equiv" in meta)
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", f"script-src 'sha256-{digest}'"]
    assert policy.split("; ") == allowed
    assert not re.search(r"<[^>]+ on[a-z]+=", text)


def test_the_script_is_small_and_asks_for_nothing():
    script = (Path(page_module.__file__).parent / "page.js").read_text()
    assert script.count("\n") < 100
    assert not re.search(r"fetch|XMLHttp|import|eval|http|innerHTML|localStorage|cookie", script)


def test_the_page_begins_with_a_line_or_two_and_the_plane_of_what_is_paid(run: Path, text: str):
    lead = re.search(r'<p class="lead">(.*?)</p>', text)
    assert lead is not None
    assert lead[1].startswith("Against standard training, DAT helped under FGSM (+")
    assert "times the cost of a step" in lead[1]
    assert len(lead[1]) < 200
    assert text.index('class="lead"') < text.index('id="figure-trade"') < text.index('<ul class="reading">')
    assert lead[1].replace("\u00a0", " ") in (run / "report.md").read_text()


def test_identifiers_are_unique_and_references_lead_somewhere(text: str):
    page = Page(text)
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")}
    assert targets <= set(identifiers)
    assert {use["xlink:href"][1:] for use in page.all("use") if use["xlink:href"]} <= set(identifiers)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(identifiers)
    labels = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert labels <= set(identifiers)


def test_tables_and_figures_are_said_in_words(text: str):
    page = Page(text)
    assert len(page.all("table")) == 7
    assert len(page.all("caption")) == 6
    assert all(heading["scope"] in {"col", "row", "rowgroup"} for heading in page.all("th"))
    assert len(page.all("figure")) == len(page.all("figcaption")) == 6
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("img")) == 6 * 5


def test_both_pages_hold_every_number_of_every_table(run: Path, text: str):
    markdown = (run / "report.md").read_text()
    for table in all_tables(comparison_table(full_rows())):
        assert table.caption in text
        assert table.caption in markdown
        for line in table.lines:
            for cell in line.cells:
                assert f"{cell.text}" in markdown
                assert cell.text in text
    sizes = {line.count("|") for line in markdown.splitlines() if line.startswith("| Corruption") or "blur |" in line}
    assert sizes == {5, 6}  # differences to standard have a column less


def test_page_holds_the_facts_and_escapes_them(text: str):
    for words in (
        "0123abcd",
        "torch 2.15.0",
        "2 cores",
        "train 140",
        "8 \N{MULTIPLICATION SIGN} 8 pixels",
        "epsilon 0.03137",
        "&lt;of no run&gt;",
    ):
        assert words in text
    assert re.findall(r"<li>(.*): left out", text) == ["What went wrong where"]  # no answers belong to invented numbers


def test_same_run_same_bytes(run: Path, text: str):
    assert write_report(run).read_text() == text


def test_what_is_missing_is_left_out_and_said(tmp_path: Path):
    write_rows(tmp_path / "results.jsonl", [row("clean", 90), row("clean", 80, method="standard")])
    report = gather(tmp_path)
    assert list(report.plots) == ["overview"]
    assert report.title == tmp_path.name
    assert len(report.left_out) == 8
    text = write_report(tmp_path).read_text()
    Page(text)
    assert text.count("left out.") == 8
    assert (tmp_path / "report.md").read_text().count("left out.") == 8


def test_damaged_files_are_left_out_with_the_reason(tmp_path: Path):
    run = write_run(tmp_path / "run")
    (run / "discretizer" / "log.jsonl").write_text('{"step": 1\n')
    (run / "dat-seed0" / "log.jsonl").write_text("3\n")
    (run / "run.json").write_text("[]")
    report = gather(run)
    assert set(report.plots) == {"trade", "overview", "severity"}
    assert any("discretizer/log.jsonl is not JSON lines" in line for line in report.left_out)
    assert any("dat-seed0/log.jsonl is no JSON object" in line for line in report.left_out)
    assert any("run.json holds no JSON object" in line for line in report.left_out)


def test_methods_come_in_the_order_of_the_run(tmp_path: Path):
    write_rows(tmp_path / "results.jsonl", [row("clean", 90), row("clean", 80, method="standard")])
    (tmp_path / "run.json").write_text(json.dumps({"methods": ["standard", "dat"]}))
    assert gather(tmp_path).methods == ("standard", "dat")


def test_no_results_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="no results"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_kind_of_run_is_refused(tmp_path: Path):
    write_rows(tmp_path / "results.jsonl", [row("clean", 90)])
    (tmp_path / "run.json").write_text('{"kind": "discretizer"}')
    with pytest.raises(UsageError, match="'discretizer'"):
        write_report(tmp_path)


def test_mixed_protocols_need_leave(tmp_path: Path):
    write_rows(tmp_path / "results.jsonl", [row("clean", 90), row("clean", 80, method="at", protocol={"batch": 1})])
    with pytest.raises(UsageError, match="two ways"):
        write_report(tmp_path)
    assert write_report(tmp_path, mixed=True).is_file()


def with_hashes(run: Path) -> Path:
    """The run as `dat train` leaves it."""
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "files": hashes_of(run, [*SHOWN, "*/log.jsonl"])}))
    return run


def one_number_changed(run: Path) -> None:
    path = run / "results.jsonl"
    path.write_text(path.read_text().replace('"value": 9', '"value": 8', 1))


ALTERED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a number": ("run/results.jsonl was changed or damaged", one_number_changed),
    "pictures cut": (
        "run/pictures.npz was changed or damaged",
        lambda run: (run / "pictures.npz").write_bytes((run / "pictures.npz").read_bytes()[:-100]),
    ),
    "pictures gone": ("run/pictures.npz was written, but is not there", lambda run: (run / "pictures.npz").unlink()),
    "log": ("run/dat-seed0/log.jsonl was changed or damaged", lambda run: (run / "dat-seed0" / "log.jsonl").write_text("")),
    "recipe": ("run/recipe.yaml was changed or damaged", lambda run: (run / "recipe.yaml").write_bytes(b"name: \xff")),
    "facts": ("run/run.json says nothing of what was run", lambda run: (run / "run.json").write_text("{}")),
}


IN_A_MOMENT = ("a number", "pictures gone")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "what", [what if what in IN_A_MOMENT else pytest.param(what, marks=pytest.mark.slow) for what in ALTERED]
)
def test_what_is_not_as_it_was_written_stands_on_the_page(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said, alter = ALTERED[what]
    run = with_hashes(write_run(tmp_path / "run"))
    assert gather(run).alarms == ()
    alter(run)
    text = write_report(run).read_text()
    Page(text)
    for page in (text, (run / "report.md").read_text(), capsys.readouterr().err):
        assert said in page
    assert "Not as it was written" in text
    assert len(gather(run).alarms) == 1


def test_a_damaged_file_of_pictures_is_never_a_traceback(tmp_path: Path) -> None:
    run = with_hashes(write_run(tmp_path / "run"))
    content, numbers = (run / "pictures.npz").read_bytes(), np.random.default_rng(0)
    facts = read_facts(run / "run.json")
    for _ in range(200):
        changed = bytearray(content)
        changed[int(numbers.integers(len(content)))] ^= int(numbers.integers(1, 256))
        (run / "pictures.npz").write_bytes(changed)
        attempt("The pictures", partial(read_pictures, run, facts), left_out := [])
        assert len(left_out) <= 1


@pytest.mark.usefixtures("undrawn")
def test_codes_without_places_in_a_picture_are_counted_and_not_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with np.load(run / "pictures.npz") as file:
        arrays = dict(file)
    changed = arrays["changed"].reshape(len(arrays["changed"]), -1)  # a row of codes, as of TiTok and VAR
    np.savez(run / "pictures.npz", **(arrays | {"changed": changed}))
    text = write_report(run).read_text()
    page = Page(text)
    assert sum("label" in (image.get("alt") or "") for image in page.all("img")) == 4 * len(changed)
    assert {cell["colspan"] for cell in page.all("td") if cell.get("class") == "words"} == {"4"}
    assert f"{changed[0].sum()} of {changed[0].size} codes changed" in text
    assert "framed" not in text
    assert "Codes changed</th>" not in text.partition('id="pictures"')[2].partition("</section>")[0]


def with_answers(folder: Path, *, seeds: int = 3) -> Path:
    """A run of two methods whose rows are the means of the answers beside them."""
    random, rows = np.random.default_rng(0), []
    easy = random.random(450)
    for method, level in (("standard", 0.6), ("dat", 0.7)):
        for seed in range(seeds):
            right = {"clean": easy + 0.05 * random.normal(size=450) < level}
            rows.append(row("clean", 100 * right["clean"].mean(), method=method, seed=seed))
            write_kept(path_of(folder, method, seed), Kept(right))
    write_rows(folder / "results.jsonl", rows)
    return folder


def test_the_answers_of_a_run_are_used(tmp_path: Path):
    report = gather(with_answers(tmp_path))
    assert any("over 3 seeds and the pictures together (a mixed model" in note for note in report.tables["accuracy"].notes)
    assert not any("Answers per picture" in text for text in report.left_out)
    assert "over seeds, on the same pictures" not in " ".join(report.reading)


def test_two_seeds_with_answers_speak_of_their_models_alone(tmp_path: Path):
    report = gather(with_answers(tmp_path, seeds=2))
    assert report.reading[0].startswith("Against standard training, of these models alone (two seeds), DAT was above it")
    assert report.tables["accuracy"].caption.endswith("± half of its 95 % interval over pictures, for these models.")
    assert "lines: its 95 % interval over pictures, for these models" in report.plots["overview"].caption


@pytest.mark.parametrize(("what", "words"), [("other", "do not give the numbers of the rows"), ("cut", "damaged")])
def test_answers_that_are_of_other_rows_or_damaged_are_not_used_and_that_is_said(tmp_path: Path, what: str, words: str):
    path = path_of(with_answers(tmp_path), "dat", 1)
    if what == "other":
        write_kept(path, Kept({"clean": np.zeros(450, dtype=bool)}))
    else:
        path.write_bytes(path.read_bytes()[:-30])
    report = gather(tmp_path)
    assert any(text.startswith("Answers per picture: left out") and words in text for text in report.left_out)
    assert any("over 3 seeds, on the same pictures" in note for note in report.tables["accuracy"].notes)


def test_captions_promise_no_interval_where_there_is_none(tmp_path: Path):
    write_rows(tmp_path / "results.jsonl", [row("clean", 90, seed=seed) for seed in (0, 1)])
    report = gather(tmp_path)
    assert "(two seeds: no interval)" in report.plots["overview"].caption
    assert "Intervals are 95" not in write_report(tmp_path).read_text()
