"""What the documentation says works: its Python runs, its commands can be parsed, its links lead somewhere."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
import yaml
from PIL import Image
from torch import nn

import dat
from dat import cli
from dat.commands.detection_plan import detection_settings
from dat.commands.evaluation_plan import settings_of
from dat.data.embedded import digits
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import save_discretizer
from dat.nn.zoo import create_network
from dat.recipe import read as recipes
from dat.recipe.header import resolved
from tests.tasks.test_detection import fcos

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "docs/method.md",
    "docs/recipes.md",
    "docs/reproducibility.md",
    "docs/discretizers.md",
    "docs/evaluation.md",
    "docs/analysis.md",
    "docs/detection.md",
    "docs/selfsupervised.md",
    "docs/export.md",
    "docs/your-own-pictures.md",
    "docs/your-own-loop.md",
    "docs/which-method.md",
    "docs/many-nodes.md",
    "docs/glossary.md",
    "docs/installing.md",
]
EXAMPLES = ["changed_codes.py", "compare_discretizers.py", "own_loop.py", "own_task.py"]
OF_OTHERS = ["fastai_callback.py", "hugging_face_trainer.py", "lightning_module.py", "timm_task.py"]
"""Those for other libraries, which `tests/examples` runs."""
CLASSES = [f"class-{number}" for number in range(10)]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall((ROOT / page).read_text()) if language in languages]


def commands(page: str) -> Iterator[list[str]]:
    """Every line of a shell block that calls `dat`, in words."""
    for block in blocks(page, "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["accelerate"]:
                words = words[words.index("-m") + 1 :]
            if words[:1] == ["dat"]:
                yield words[1:]


def small_vqgan() -> VQGAN:
    torch.manual_seed(0)
    sizes = {"n_embed": 16, "embed_dim": 4, "z_channels": 4, "ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1}
    return VQGAN(VQGANConfig.from_dict({**VQGANConfig().to_dict(), **sizes, "attn_resolutions": (), "attn_type": "none"}))


@pytest.fixture(scope="module")
def discretizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_discretizer(tmp_path_factory.mktemp("weights"), small_vqgan())


def what_a_reader_has() -> dict[str, Any]:
    """The reader's own loader, model, optimizer and discretizer, tiny."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    model = dat.Normalized(network, mean=[0.5] * 3, std=[0.5] * 3)
    finds = fcos()
    autoencoder = dat.MaskedAutoencoder(
        img_size=32, embed_dim=24, depth=1, num_heads=3, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    )
    things = [torch.tensor([[4.0, 4, 34, 40], [20, 24, 60, 60]]), torch.zeros(0, 4)]
    return {
        "dat": dat,
        "torch": torch,
        "loader": [(torch.rand(4, 3, 16, 16), torch.randint(0, 10, (4,))) for _ in range(2)],
        "model": model,
        "resnet": create_network("small_resnet", num_classes=10, options={"depth": 8, "width": 4}),
        "class_names": CLASSES,
        "network": finds,
        "boxed_loader": [(torch.rand(2, 3, 64, 64), things, [torch.tensor([0, 2]), torch.zeros(0)])],
        "autoencoder": autoencoder,
        "picture_loader": [torch.rand(2, 3, 32, 32)],
        "optimizer": torch.optim.SGD([*model.parameters(), *finds.parameters(), *autoencoder.parameters()], lr=0.1),
        "discretizer": FrozenDiscretizer(small_vqgan()),
    }


def write_photos(folder: Path) -> None:
    """A grey picture per class of the reader's."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (20 * label,) * 3).save(folder / name / "photo.png")


def write_digits(folder: Path) -> None:
    """The test pictures of the demo as files."""
    source = digits("test", size=8)
    for index in range(len(source)):
        (folder / source.classes[source.targets[index]]).mkdir(parents=True, exist_ok=True)
        source.read(index).save(folder / source.classes[source.targets[index]] / f"{index}.png")


# ---- Python

LOOPS = {"README.md": 1, "docs/your-own-loop.md": 3}
"""How many of the reader's models the loops of a page train: a classifier, a detector, an autoencoder."""


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("README.md", 1),
        ("docs/your-own-loop.md", 3),
        ("docs/method.md", 4),
        ("docs/recipes.md", 2),
        ("docs/reproducibility.md", 1),
        ("docs/discretizers.md", 2),
        ("docs/evaluation.md", 1),
        ("docs/analysis.md", 1),
        ("docs/detection.md", 1),
        ("docs/selfsupervised.md", 1),
    ],
)
def test_the_python_of_a_page_runs(
    page: str, count: int, discretizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vqgan-f8-16384.ckpt").symlink_to(discretizer_file)
    write_photos(tmp_path / "photos" / "val")
    sources = blocks(page, "python")
    assert len(sources) == count
    write_digits(tmp_path / "own-digits")
    namespace = what_a_reader_has()
    learners = [namespace["model"], namespace["network"].head.regression_head, namespace["autoencoder"].patch_embed][
        : LOOPS.get(page, 0)
    ]
    before = [parameter.clone() for learner in learners for parameter in learner.parameters()]
    for source in sources:
        exec(compile(source, page, "exec"), namespace)
    if page in LOOPS:
        after = [parameter for learner in learners for parameter in learner.parameters()]
        assert not any(old.equal(new) for old, new in zip(before, after, strict=True))
        assert not namespace["adversarial"].requires_grad


def test_the_official_adversary_of_the_page_moves_by_alpha(monkeypatch: pytest.MonkeyPatch):
    namespace = what_a_reader_has()
    for source in blocks("docs/method.md", "python"):
        exec(source, namespace)
    seen: list[torch.Tensor] = []

    class Watched:
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images

    images = 0.4 + 0.2 * torch.rand(4, 3, 16, 16)
    namespace["official_adversary"](images, namespace["loss_fn"], Watched(), torch.randn_like(images), alpha=0.1)
    lengths = torch.linalg.vector_norm(seen[-1] - images, dim=(1, 2, 3))
    assert (lengths <= 0.1 + 1e-5).all()
    assert (lengths > 0.02).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(
    name: str, discretizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    options = ["--epochs", "1", "--pictures", "64"] if name == "own_loop.py" else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, str(discretizer_file), *options])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    said = capsys.readouterr().out
    assert "%" in said
    if name == "own_task.py":
        assert [line.split(":")[0] for line in said.splitlines()] == ["Standard", "RandomCodes", "AT", "DAT"]


def test_every_example_is_tested():
    assert sorted(path.name for path in (ROOT / "examples").glob("*.py")) == sorted([*EXAMPLES, *OF_OTHERS])


# ---- commands


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("README.md", 1),
        ("docs/recipes.md", 7),
        ("docs/discretizers.md", 17),
        ("docs/evaluation.md", 6),
        ("docs/analysis.md", 8),
        ("docs/detection.md", 8),
        ("docs/selfsupervised.md", 6),
        ("docs/export.md", 8),
        ("docs/your-own-pictures.md", 8),
        ("docs/many-nodes.md", 5),
        ("docs/which-method.md", 1),
    ],
)
def test_the_commands_of_a_page_can_be_parsed(page: str, count: int):
    found = list(commands(page))
    assert len(found) == count
    for words in found:
        command, arguments = typer.main.get_command(cli.app), list(words)
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]  # pyright: ignore[reportAttributeAccessIssue]  # a group has them
        values = command.make_context("dat", arguments).params
        if "recipe" in values:
            recipes.load(values["recipe"], values["overrides"] or ())
        elif values.get("suites"):
            SETTINGS.get(page, settings_of)(values["overrides"] or ())
        elif words[0] in ("demo", "eval"):
            recipes.load("demo", [text for text in values["overrides"] or () if not text.startswith("data.")])


def of_features(overrides: Sequence[str]) -> object:
    return recipes.load("selfsupervised/mae-small", [f"evaluation.{text}" for text in overrides])


SETTINGS: dict[str, Callable[[Sequence[str]], object]] = {
    "docs/detection.md": detection_settings,
    "docs/selfsupervised.md": of_features,
}
"""What the keys beside `--suites` are of, where not of classifiers."""


def test_every_yaml_of_the_pages_fits_a_recipe():
    demo = yaml.safe_load(resolved(recipes.load("demo")))
    sources = [source for page in PAGES for source in blocks(page, "yaml")]
    assert len(sources) == 8
    for source in sources:
        recipes.parse({**demo, **yaml.safe_load(source)})


def test_the_make_targets_of_the_readme_exist():
    targets = re.findall(r"^make ([\w-]+)", "\n".join(blocks("README.md", "sh")), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


# ---- links and names


def test_links_lead_to_files():
    links = [
        (page, link)
        for page in [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
        for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)\)", (ROOT / page).read_text())
        if not link.startswith("http")
    ]
    assert len(links) >= 5
    for page, link in links:
        assert ((ROOT / page).parent / link).is_file(), f"{page} links to {link}"


def test_the_map_leads_to_every_page():
    text = (ROOT / "README.md").read_text().split("## The map")[1].split("## Licence")[0]
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert len(pages) > 10
    assert pages <= set(re.findall(r"\]\(([^)#]+)", text))


def test_the_house_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    written = set(re.findall(r"^`(dat/[\w/.]+)`\n\n```python", text, flags=re.MULTILINE))
    named = set(re.findall(r"`(dat/[\w/.]+)`", text)) - written
    assert len(written) == 4
    assert len(named) > 35
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {f"dat/{path.parent.name}/" for path in (ROOT / "dat").glob("*/__init__.py")} <= named


def test_every_method_is_on_the_page_of_the_method():
    page = (ROOT / "docs/method.md").read_text()
    for name in dat.METHODS:
        assert f"`{name}: {{" in page
