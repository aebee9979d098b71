"""Recipes: read strictly, every fault in one go, near misses suggested, and one hash per set of settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dat.errors import CheckpointError, DataError, UsageError
from dat.methods import METHODS
from dat.recipe import data as recipe_data
from dat.recipe import file as recipe_file
from dat.recipe import read as recipes
from dat.recipe.classification import training_of
from dat.recipe.header import recipe_hash, resolved
from dat.recipe.methods import _AnyDiscretizer
from dat.recipe.model import Blueprint
from dat.recipe.perceptual import LPIPSSection, build_perceptual

TABLES = {
    1: [
        *("augreg-vit", "augreg-vit-dat", "deepaugment", "deepaugment-augmix", "deepaugment-augmix-dat", "drvit"),
        *("mae-h", "mae-h-dat", "resnet50", "resnet50-dat", "vit"),
    ],
    2: ["advprop", "dat", "debiased", "fast-advprop", "normal", "pyramid-at"],
    6: ["advprop", "dat", "debiased", "fast-advprop", "normal", "pyramid-at"],
    8: ["alpha-0", "alpha-0.1", "alpha-0.2", "alpha-0.4", "random"],
}
"""Rows of the paper's tables, each with a recipe."""

SHIPPED = {
    "cifar10/compare",
    "cifar10/controls",
    "cifar10/finetune",
    "demo",
    "imagenette/base",
    "imagenette/finetune",
    *(f"detection/{name}" for name in ("coco-fasterrcnn-gpu", "coco-fcos-gpu", "finetune", "light", "small")),
    *(f"discretizer/{name}" for name in ("cifar-f2", "cifar-f4", "digits", "paper", "photos-f4", "taming")),
    *(f"discretizer/distil-{name}" for name in ("cifar-f2", "cifar-f4", "ldm-f8", "photos-f4")),
    *(f"folder/{name}" for name in ("discretizer", "gpu", "small", "small-scratch")),
    *(
        f"reproduce/{scale}-{table}"
        for scale in ("cifar", "demo")
        for table in ("table1", "table1-vit", "table2", "table6", "table8")
    ),
    *(f"selfsupervised/{name}" for name in ("mae-gpu", "mae-small", "mae-small-finetune", "moco-v3-gpu", "simclr-small")),
    *(f"cifar10/{machine}/{method}" for machine in ("cpu", "gpu") for method in METHODS),
    *(f"imagenet/table{number}/{row}" for number, rows in TABLES.items() for row in rows),
}
DEMO = yaml.safe_load(resolved(recipes.load("demo")))
FOLDER = {"source": "folder", "train": "train", "test": "test", "size": 8, "augment": {"kind": "none"}}
Values = Mapping[str, Any]
Keys = tuple[str, ...]


def changed(values: Values, path: Keys, *, key: str | None = None, value: Any = None) -> dict[str, Any]:
    """The recipe with the last key of `path` renamed to `key`, or set to `value`."""
    head, *rest = path
    if rest:
        return {**values, head: changed(values[head], tuple(rest), key=key, value=value)}
    if key is None:
        return {**values, head: value}
    return {key if name == head else name: content for name, content in values.items()}


def key_paths(values: Values, above: Keys = ()) -> Iterator[Keys]:
    """Every key that the schema knows; labels of methods and options of a model are the user's own words."""
    for name, content in values.items():
        if above[-1:] != ("methods",):
            yield (*above, name)
        if isinstance(content, dict) and name != "options":
            yield from key_paths(content, (*above, name))


def fault_of(values: Values) -> str:
    with pytest.raises(UsageError) as caught:
        recipes.parse(values)
    return str(caught.value)


def refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        recipes.load("demo", overrides)
    return str(caught.value)


# ---- shipped recipes


def test_the_shipped_recipes_are_these():
    assert set(recipe_file.shipped_recipes()) == SHIPPED, "a recipe was added or removed: say so in SHIPPED"
    assert len(SHIPPED) == 100


def test_every_method_of_the_comparison_has_the_settings_of_its_own_recipe():
    comparison = recipes.load("cifar10/compare")
    assert isinstance(comparison, recipes.ClassificationRecipe)
    finetuned = recipes.load("cifar10/finetune")
    assert isinstance(finetuned, recipes.ClassificationRecipe)
    assert set(comparison.methods) | set(finetuned.methods) == set(METHODS)
    assert set(METHODS) - set(comparison.methods) == {"dat-fast"}, "not one of the paper's"
    for name, section in comparison.methods.items():
        alone = recipes.load(f"cifar10/cpu/{name}")
        assert isinstance(alone, recipes.ClassificationRecipe)
        assert alone.methods == {name: section}
        assert (alone.training, alone.model, alone.discretizer) == (
            comparison.training,
            comparison.model,
            comparison.discretizer,
        )


@pytest.mark.parametrize(("table", "row"), [(table, row) for table, rows in TABLES.items() for row in rows])
def test_a_row_of_the_paper_quotes_all_nine_numbers(table: int, row: str):
    recipe = recipes.load(f"imagenet/table{table}/{row}")
    assert isinstance(recipe, recipes.ClassificationRecipe)
    assert recipe.expect is not None
    assert list(recipe.expect.percent) == list(recipe.methods)
    assert all(len(values) == 9 for values in recipe.expect.percent.values())
    assert recipe.expect.source.endswith(f"Table {table}")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_recipe_is_good_and_means_the_same_written_out(name: str):
    recipe = recipes.load(name)
    recipe.check()
    again = recipes.parse(yaml.safe_load(resolved(recipe)))
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_recipe_opens_with_a_comment_that_says_how_to_run_it(name: str):
    header = [line for line in recipe_file.find(name).read_text().split("\nkind:")[0].splitlines() if line.startswith("#")]
    assert len(header) >= 2
    assert any("dat " in line for line in header)


def test_every_method_can_be_written_with_its_defaults():
    for name in METHODS:
        recipe = recipes.parse(changed(DEMO, ("methods",), value={name: None}))
        assert isinstance(recipe, recipes.ClassificationRecipe)
        assert list(recipe.methods) == [name]


def test_a_method_may_have_a_label_of_its_own():
    recipe = recipes.load("demo", ["methods={strong: {method: dat, alpha: 0.8}}"])
    assert isinstance(recipe, recipes.ClassificationRecipe)
    assert recipe.methods["strong"].model_dump()["alpha"] == 0.8


# ---- misspelled keys


def misspellings(word: str) -> set[str]:
    """All words one dropped, swapped or inserted letter away."""
    dropped = {word[:i] + word[i + 1 :] for i in range(len(word))}
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    inserted = {word[:i] + letter + word[i:] for i in range(len(word) + 1) for letter in "ex_"}
    return (dropped | swapped | inserted) - {word, ""}


def test_each_misspelling_of_each_key_is_refused_and_nearly_each_is_understood():
    paths = list(key_paths(DEMO))
    assert len(paths) > 95
    cases = [(path, wrong) for path in paths for wrong in sorted(misspellings(path[-1]))[::3]]  # a third: seconds
    sentences = [(path, fault_of(changed(DEMO, path, key=wrong))) for path, wrong in cases]
    understood = sum(f"did you mean {path[-1]!r}?" in sentence for path, sentence in sentences)
    assert understood / len(cases) >= 0.95


def test_a_misspelled_tag_is_not_called_missing():
    sentence = fault_of(changed(DEMO, ("data", "source"), key="sorce"))
    assert "data.sorce: unknown key; did you mean 'source'?" in sentence


def test_a_key_like_no_other_gets_no_suggestion():
    sentence = refusal("training.quaternions=1")
    assert "training.quaternions: unknown key; remove it." in sentence
    assert "did you mean" not in sentence


# ---- wrong values

WRONG = {
    "training.lr=fast": "training.lr: must be a valid number, not 'fast'.",
    "training.lr='1e-3'": "training.lr: must be a valid number, not '1e-3'.",
    "training.lr=-1": "training: lr is -1.0, write 0 or more.",
    "training.lr=.nan": "training.lr: must be a finite number",
    "training.epochs=1.5": "training.epochs: must be a valid integer, not 1.5.",
    "training.epochs=true": "training.epochs: must be a valid integer, not True.",
    "training.epochs=0": "training: epochs is 0, write 1 or more.",
    "training.log_every=0": "training: log_every is 0, write 1 or more.",
    "training.smoothing=2": "training: smoothing is 2.0, write a number from 0 to 1.",
    "training.optimizer=adammw": "training: optimizer is 'adammw'; did you mean 'adamw'?",
    "training.schedule=cosin": "training: schedule is 'cosin'; did you mean 'cosine'?",
    "training.precision=fp8": "training.precision: must be 'fp32', 'bf16' or 'fp16', not 'fp8'.",
    "training=null": "training: must be a section, not None.",
    "training=3": "training: must be a section, not 3.",
    "seeds=0": "seeds: must be a valid array, not 0.",
    "seeds=[0, 0]": "seeds that differ",
    "seeds=[-1]": "seed -1 is negative; write 0 or more.",
    "methods={}": "give at least one method",
    "methods={../outside: {method: dat}}": "method label '../outside' becomes the name of a folder",
    "methods.dat.alpha=-1": "methods.dat: alpha is -1.0, but it is the length of a step; write 0 or more",
    "methods.dat.alpha=.nan": "methods.dat.alpha: must be a finite number",
    "methods.dat.gradient_scale=l3": "methods.dat.gradient_scale: must be 'l2', 'linf' or 'raw', not 'l3'.",
    "methods.random-codes.rate=1.5": "methods.random-codes: rate is 1.5, but it is a share of the codes",
    "methods.random-codes.rate=-0.1": "methods.random-codes: rate is -0.1",
    "methods.at.epsilon=8": "methods.at: epsilon is 8, but pixels go from 0 to 1; write 8/255 as 0.0314",
    "methods.advprop={step_size: 2}": "methods.advprop: step_size is 2, but pixels go from 0 to 1; write 2/255 as 0.0078",
    "methods.fast-advprop={epsilon: 4}": "write 4/255 as 0.0157",
    "methods.pyramid-at={epsilon: 6}": "write 6/255 as 0.0235",
    "evaluation.fgsm_epsilon_255=300": "evaluation.fgsm_epsilon_255: must be less than or equal to 255, not 300",
    "methods.at.epsilon=-1": "methods.at: epsilon is -1.0, but it cannot be negative",
    "methods.at.step_size=-1": "methods.at: step_size is -1.0",
    "methods.at.steps=-1": "methods.at: steps is -1",
    "methods.dta={}": "methods.dta.method: is 'dta'; did you mean 'dat'? write one of 'standard', 'at',",
    "kind=clasification": "kind: is 'clasification'; did you mean 'classification'? write one of",
    "data.source=digit": "data.source: is 'digit'; did you mean 'digits'? write one of 'digits', 'folder'.",
    "data.augment.kind=mirror": "data.augment.kind: is 'mirror'; write one of 'none', 'crop-flip', 'imagenet'.",
    "evaluation.suites=[clen]": "evaluation.suites.0: must be 'clean', 'fgsm' or 'c', not 'clen'.",
    "evaluation.fgsm_epsilon_255=-8": "evaluation.fgsm_epsilon_255: must be greater than or equal to 0",
    "evaluation.batch_size=0": "evaluation.batch_size: must be greater than or equal to 1, not 0.",
    "discretizer=null": "needs a discretizer; add a section `discretizer:` with load or train.",
    "discretizer={}": "discretizer: give either load",
    "discretizer.train.training.revive_every=-1": "discretizer.train.training: revive_every is -1, write 0 or more.",
    "discretizer.train.network.ch=-1": "discretizer.train.network: This is no configuration of a VQGAN: ch is -1, not a whole",
    "discretizer.train.objective.disc_loss=wgan": "discretizer.train.objective.disc_loss: must be 'hinge' or 'vanilla'",
}


@pytest.mark.parametrize(("override", "sentence"), WRONG.items())
def test_a_wrong_value_is_refused_with_the_key_and_the_value(override: str, sentence: str):
    assert sentence in refusal(override)


def test_norms_of_a_methods_own_are_not_frozen():
    for frozen in ("norms", "backbone"):
        sentence = f"model.freeze is '{frozen}', but advprop trains with normalisation layers of its own"
        assert sentence in refusal("methods={advprop: {}, standard: {}}", f"model.freeze={frozen}")


def test_what_only_building_can_tell_is_found_by_check():
    for override, sentence in {
        "model.name=small_resnt": "There is no model 'small_resnt'; did you mean small_resnet",
        "model.options.depth=9": "small_resnet has depth 9; write 8, 14, 20",
        "model.options.heads=9": "does not take the options {'depth': 8, 'width': 16, 'heads': 9}",
    }.items():
        with pytest.raises(UsageError) as caught:
            recipes.load("demo", [override]).check()
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings"), [("dat", {"alpha": -1.0}), ("random-codes", {"rate": 2.0}), ("at", {"epsilon": -1.0})]
)
def test_a_method_made_in_python_refuses_the_same(name: str, settings: dict[str, float]):
    discretizer = () if name == "at" else (_AnyDiscretizer(),)
    with pytest.raises(UsageError, match=next(iter(settings))):
        METHODS[name](*discretizer, **settings)


def test_all_faults_are_reported_together():
    sentence = refusal("training.lr=fast", "methods.dat.alpa=1", "seeds=[a]", "data.source=digit", "colour=red")
    assert "has 5 faults:" in sentence
    for start in ("training.lr:", "methods.dat.alpa:", "seeds.0:", "data.source:", "colour:"):
        assert f"\n  {start}" in sentence


@pytest.mark.parametrize("section", ["title", "data", "model", "training", "methods"])
def test_a_missing_section_is_named(section: str):
    assert f"{section}: missing; add it." in fault_of({key: value for key, value in DEMO.items() if key != section})


def test_a_missing_kind_and_an_empty_recipe_are_refused():
    assert "kind: missing; write one of" in fault_of({key: value for key, value in DEMO.items() if key != "kind"})
    assert "kind: missing" in fault_of({})


def test_numbers_may_be_written_as_everybody_writes_them():
    for text in ("1e-3", "1E-3", "0.001", "1.0e-3", "1.e-3"):
        recipe = recipes.load("demo", [f"training.lr={text}"])
        assert isinstance(recipe, recipes.ClassificationRecipe)
        assert recipe.training.lr == 0.001


# ---- files and overrides


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe\x00\x01binary", "is not YAML"),
        (b"\x00\x01\x02", "is not YAML"),
        ("kind: [classification", "is not YAML"),
        ("- a\n- b", "holds list, not the keys of a recipe"),
        ("", "holds NoneType, not the keys of a recipe"),
        ("just words", "holds str, not the keys of a recipe"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str | bytes, sentence: str):
    with pytest.raises(UsageError, match=sentence):
        recipes.load(written(tmp_path, content))


def test_a_name_like_a_shipped_recipe_is_suggested():
    with pytest.raises(UsageError, match=r"There is no recipe 'dmeo'; did you mean 'demo'\?"):
        recipes.load("dmeo")


@pytest.mark.parametrize("override", ["training.epochs", "=3", "", "training.epochs:3"])
def test_an_override_without_key_or_value_is_refused(override: str):
    assert "is not of the form key.sub=value" in refusal(override)


def test_an_override_cannot_reach_into_a_single_value():
    assert "title.sub cannot be set: title is a single value" in refusal("title.sub=1")


def test_overrides_reach_into_sections_and_make_missing_ones():
    recipe = recipes.load(
        "demo", ["evaluation.suites=[clean]", "training.epochs=3", "methods.dat.alpha=0.2", "training.epochs=4"]
    )
    assert isinstance(recipe, recipes.ClassificationRecipe)
    assert recipe.evaluation.suites == ["clean"]
    assert recipe.training.epochs == 4
    assert recipe.methods["dat"].model_dump()["alpha"] == 0.2
    values = {key: value for key, value in DEMO.items() if key != "evaluation"}
    recipe_file.override(values, "evaluation.batch_size=7")
    assert values["evaluation"] == {"batch_size": 7}


def test_an_override_may_hold_an_equals_sign():
    assert recipes.load("demo", ["title=a=b"]).title == "a=b"


def test_the_output_folder_is_named_after_the_recipe(tmp_path: Path):
    assert recipes.load("demo").out == "runs/demo"
    assert recipes.load("demo", ["out=elsewhere"]).out == "elsewhere"
    path = written(tmp_path, recipe_file.find("demo").read_text())
    assert recipes.load(path).out == f"runs/{tmp_path.name}-mine"


# ---- nothing in a recipe runs

PAYLOADS = [
    "!!python/object/apply:os.system ['touch ran']",
    "!!python/object/new:os.system ['touch ran']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!include /etc/hostname",
    "&a [*a, *a]",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_tag_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str):
    monkeypatch.chdir(tmp_path)
    assert refusal(f"model.options.x={payload}")
    with pytest.raises(UsageError):
        recipes.load(written(tmp_path, f"kind: classification\ntitle: {payload}\n"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "key", ["target", "_target_", "model.target", "model._target_", "methods.dat.target", "training.class_path"]
)
def test_a_key_that_would_name_an_import_is_unknown(key: str):
    assert f"{key}: unknown key" in refusal(f"{key}=os.system")


def test_templates_stay_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "secret")
    for text in ("{{ 7 * 7 }}", "${SECRET}", "$SECRET", "{% raw %}"):
        assert recipes.load("demo", [f"title='{text}'"]).title == text


# ---- the hash


def test_the_hash_ignores_where_and_how_it_is_called():
    first = recipe_hash(recipes.load("demo"))
    assert recipe_hash(recipes.load("demo", ["out=elsewhere", "title=another"])) == first
    assert len(first) == 12
    assert set(first) <= set("0123456789abcdef")


OTHER = {
    "kind": None,  # another kind is another schema
    "title": None,
    "out": None,
    "data.source": None,
    "data.augment.kind": None,
    "expect": None,  # numbers to compare with
    "equal_time_as": "dat",
    "discretizer.load": None,  # excludes `train`
    "discretizer.train.init": "cifar-f4-1024",
    "discretizer.train.perceptual.kind": "none",
    "discretizer.train.training.precision": "bf16",
    "discretizer.train.network.attn_type": "none",
    "discretizer.train.network.ch": 64,
    "discretizer.train.network.quantizer": "cosine",
    "discretizer.train.network.levels": None,  # of another quantizer only
    "discretizer.train.frechet": {"network": "tiny_darknet", "weights": "w.safetensors"},
    "discretizer.train.training.codebook_update": "ema",
    "discretizer.train.objective.disc_loss": "vanilla",
    "discretizer.train.objective.generator_term": "minimax",
    "discretizer.precision": "bf16",
    "data.augment.fill": "reflect",
    "data.validation": 0.1,
    "training.keep": None,  # with validation only
    "training.patience": None,  # with validation only
    "evaluation.further_suites": ["fgsm"],
    "model.name": "resnet18",
    "model.options": {"depth": 14},
    "model.weights": "begin.safetensors",
    "model.discretizer": None,  # of a DrViT only
    "training.optimizer": "adamw",
    "training.precision": "bf16",
    "training.layer_decay": 0.7,
    "training.clip_grad": 1.0,
    "training.betas": [0.9, 0.99],
    "training.eps": 1.0e-6,
    "training.milestones": None,  # of another schedule only
    "training.schedule": "poly",
    "methods.dat.step_size": 0.05,
    "methods.random-codes.neighbours": 4,
    "methods.at.method": None,
    "methods.at.norm": "l2",
    "methods.dat.gradient_scale": "linf",
    "methods.dat.direction": "none",
    "evaluation.suites": ["clean"],
    "evaluation.c_per_class": 3,
    "evaluation.c_draw": None,  # of fewer pictures only
    "seeds": [7],
    "model.pretrained": None,  # of a network of timm only
    "model.freeze": "backbone",
    "training.backbone_lr_scale": 0.5,
    "trackers": None,  # beside the run
}


def another(value: Any) -> Any:
    """A value near this one, of its type."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 if value else 0.25
        case [first, *rest]:
            return [another(first), *rest]
        case []:
            return [1]
    raise AssertionError(f"say in OTHER what to write instead of {value!r}")


def test_the_hash_changes_with_every_setting():
    first, seen = recipe_hash(recipes.parse(DEMO)), 0
    for path in key_paths(DEMO):
        value, name = DEMO, ".".join(path)
        for key in path:
            value = value[key]
        if (isinstance(value, dict) and name not in OTHER) or name.endswith(".method") or OTHER.get(name, "") is None:
            continue
        changed_values = changed(DEMO, path, value=OTHER[name] if name in OTHER else another(value))
        assert recipe_hash(recipes.parse(changed_values)) != first, name
        seen += 1
    assert seen > 80


def test_a_recipe_that_draws_as_older_versions_has_their_hash():
    """The hashes that were computed before there was a choice, of runs that are kept."""
    for name, known in (("cifar10-compare", "753234290dce"), ("discretizers/distil-photos-f4", "518d8620fe22")):
        assert recipe_hash(recipes.load(f"results/{name}/recipe.yaml")) == known
    assert recipe_hash(recipes.load("cifar10/compare", ["evaluation.c_draw=first"])) == "753234290dce"
    assert recipe_hash(recipes.load("cifar10/compare")) != "753234290dce"


@pytest.mark.parametrize(("section", "key"), [("data", "draw"), ("evaluation", "c_draw")])
def test_the_hash_changes_with_the_draw_where_there_is_one(section: str, key: str):
    def hashed(draw: str, limit: int | None) -> str:
        limits = {"test_per_class": limit} if section == "data" else {"c_per_class": limit}
        values: dict[str, Any] = {**DEMO, "data": FOLDER}
        return recipe_hash(recipes.parse({**values, section: {**values[section], **limits, key: draw}}))

    assert hashed("first", 3) != hashed("in-proportion", 3)
    assert hashed("first", None) == hashed("in-proportion", None)


def test_a_stored_recipe_of_an_older_version_draws_as_that_did(tmp_path: Path):
    values = {**DEMO, "data": {**FOLDER, "train_per_class": 5}, "evaluation": {"c_per_class": 3}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))

    def draws(*overrides: str) -> tuple[str, str]:
        recipe = recipes.load(str(path), overrides)
        assert isinstance(recipe, recipes.ClassificationRecipe)
        assert isinstance(recipe.data, recipe_data.FolderData)
        return recipe.data.draw, recipe.evaluation.c_draw

    assert draws() == ("in-proportion", "in-proportion")  # one that was written by hand
    (tmp_path / "run.json").write_text("{}")
    assert draws() == ("first", "first")
    assert draws("evaluation.c_draw=in-proportion") == ("first", "in-proportion")
    path.write_text(yaml.safe_dump({**values, "evaluation": {}}))
    assert draws("evaluation.c_per_class=3") == ("first", "in-proportion")  # it drew nothing then


@pytest.mark.parametrize("key", ["train_per_class", "test_per_class"])
def test_no_pictures_of_a_class_are_refused(key: str):
    with pytest.raises(UsageError, match=rf"data\.{key}: must be greater than or equal to 1, not 0"):
        recipes.parse({**DEMO, "data": {**FOLDER, key: 0}})


def test_a_key_that_came_later_leaves_the_hash_of_runs_that_began_before_it():
    values = recipes.load("demo").model_dump(mode="json")
    begun = json.loads(json.dumps(values))
    del begun["methods"]["dat"]["direction"], begun["evaluation"]["c_draw"]  # which draws nothing here
    del begun["evaluation"]["further_suites"], begun["data"]["validation"]
    del begun["training"]["keep"], begun["training"]["patience"], begun["training"]["backbone_lr_scale"]
    del begun["model"]["pretrained"], begun["model"]["freeze"], begun["trackers"]
    counted = {key: value for key, value in begun.items() if key not in ("out", "title", "expect")}
    expected = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]
    assert (
        recipe_hash(recipes.load("demo")) == recipe_hash(recipes.load("demo", ["methods.dat.direction=gradient"])) == expected
    )
    assert recipe_hash(recipes.load("demo", ["methods.dat.direction=random"])) != expected


def test_a_class_to_aim_at_leaves_the_hash_of_pyramids_of_before_there_was_another_aim():
    first = recipe_hash(recipes.load("cifar10/cpu/pyramid-at"))
    assert recipe_hash(recipes.load("cifar10/cpu/pyramid-at", ["methods.pyramid-at.targeted=true"])) == first == "c1b3beb86196"
    assert recipe_hash(recipes.load("cifar10/cpu/pyramid-at", ["methods.pyramid-at.targeted=false"])) != first
    assert recipe_hash(recipes.load("cifar10/cpu/advprop")) == "ed5052389f73", "which had the key from the beginning"
    parts = [
        recipes.load("cifar10/cpu/pyramid-at", [f"methods.pyramid-at.targeted={on}"]).depends_on() for on in ("true", "false")
    ]
    settings = [part["pyramid-at-seed0"]["methods"]["pyramid-at"] for part in parts]
    assert "targeted" not in settings[0], "a training of before goes on"
    assert settings[1]["targeted"] is False


# ---- one method's own training, a paper's numbers, equal time


def test_a_method_may_change_keys_of_the_training():
    recipe = recipes.load("demo", ["methods.at.training.epochs=2"])
    assert isinstance(recipe, recipes.ClassificationRecipe)
    assert training_of(recipe, "at").epochs == 2
    assert training_of(recipe, "dat") == recipe.training


def test_faults_of_a_methods_training_are_named():
    assert "methods.at.training.epoch: unknown key; did you mean 'epochs'?" in refusal("methods.at.training.epoch=2")
    assert "methods.dat.training" in refusal("methods.dat.training.lr=-1")
    assert "lr is -1" in refusal("methods.dat.training.lr=-1")


def test_numbers_of_a_paper_belong_to_a_method_and_a_known_test_set():
    expect = "expect={source: paper, percent: {at: {clean: 76.1}}}"
    recipe = recipes.load("demo", [expect])
    assert isinstance(recipe, recipes.ClassificationRecipe)
    assert recipe.expect is not None
    assert recipe.expect.percent["at"] == {"clean": 76.1}
    assert recipe_hash(recipe) == recipe_hash(recipes.load("demo"))
    assert "expect.percent names 'nobody'" in refusal(expect.replace("at:", "nobody:"))
    assert "cleann" in refusal(expect.replace("clean:", "cleann:"))
    assert "equal_time_as names 'nobody'" in refusal("equal_time_as=nobody")


def test_a_drvit_needs_its_discretizer_and_its_normalisation():
    def fault(*overrides: str) -> str:
        with pytest.raises(UsageError) as caught:
            recipes.load("imagenet/table1/drvit", overrides)
        return str(caught.value)

    assert "drvit_base reads visual words; name a discretizer" in fault("model.discretizer=null")
    assert "takes images in [-1, 1]; write mean: [0.5, 0.5, 0.5]" in fault("model.mean=[0.4, 0.5, 0.5]")
    assert "resnet50 reads no visual words; leave out discretizer" in fault("model.name=resnet50")


# ---- what a recipe becomes


def test_build_data_compares_the_number_of_classes(tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").touch()
    section = recipe_data.FolderData(
        source="folder", train=str(tmp_path), test=str(tmp_path), classes=3, augment=recipe_data.NoAugment()
    )
    with pytest.raises(DataError, match=r"data.classes is 3, but .* has 1 class folders"):
        recipe_data.build_data(section, seed=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.quantizer=lfq", "network.embed_dim=8"], "write training.codebook_update: gradient"),
        (["network.quantizer=ibq", "training.codebook_update=ema"], "no means of latents"),
        (["training.codebook_update=ema", "training.ema_codebook_decay=1"], "ema_codebook_decay is 1"),
        (["training.disc_layers=0"], "disc_layers is 0"),
    ],
)
def test_what_a_discretizer_cannot_be_trained_with_is_refused_before_it_is_trained(overrides: list[str], message: str):
    recipe = recipes.load("discretizer/digits", overrides)
    with pytest.raises(UsageError, match=message):
        recipe.check()


def test_the_same_seed_gives_the_same_model():
    recipe = recipes.load("demo")
    assert isinstance(recipe, recipes.ClassificationRecipe)
    first, again, other = (Blueprint(recipe.model, num_classes=10).untrained(seed).state_dict() for seed in (3, 3, 4))
    assert all(first[key].equal(again[key]) for key in first)
    assert not all(first[key].equal(other[key]) for key in first)


def test_settings_of_each_method_come_from_its_own_class():
    recipe = recipes.load("demo")
    assert isinstance(recipe, recipes.ClassificationRecipe)
    for label, section in recipe.methods.items():
        names = {entry.name for entry in dataclasses.fields(METHODS[label])} - {"discretizer"}
        assert set(section.model_dump()) == names | {"method", "training"}


def test_lpips_without_its_weights_says_what_to_use_instead(tmp_path: Path):
    section = LPIPSSection(kind="lpips", backbone="vgg16", linear_layers=str(tmp_path / "lin.pth"), cache=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"vgg16-397923af\.pth.*perceptual: \{kind: multiscale-gradient\}"):
        build_perceptual(section)
