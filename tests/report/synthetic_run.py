"""A run folder whose numbers are invented here, by formula: it shows the shape of a report, and measures nothing."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np

from dat.report.tables import GROUPS
from dat.results import Row, write_rows

METHODS = ("standard", "at", "random-codes", "dat")
SEEDS = (0, 1, 2)
CLEAN = {"standard": 97.2, "at": 96.1, "random-codes": 96.9, "dat": 97.0}
FGSM = {"standard": 41.0, "at": 68.5, "random-codes": 46.0, "dat": 60.5}
SLOPE = {"standard": 7.6, "at": 6.4, "random-codes": 6.7, "dat": 5.4}
CORRUPTIONS = [name for group in GROUPS.values() for name in group]


def row(suite: str, value: float, *, method: str = "dat", seed: int | None = 0, **changes: object) -> Row:
    """A row of a suite, measured on 450 images."""
    metric = {"codes": "modified_code_rate", "cost": "seconds_per_step"}.get(suite, "accuracy")
    values = {"metric": metric, "n": 450, "ci": None, "recipe_hash": "0123abcd", "protocol": {"batch": 64}}
    values |= {"versions": {"dat": "0.1.0", "torch": "2.0"}}
    values |= {"checkpoint": sha256(f"{method} {seed}".encode()).hexdigest()} if seed is not None else {}
    return Row(suite=suite, value=float(value), method=method, seed=seed, **(values | changes))  # pyright: ignore[reportArgumentType]  # one dict of all types


def rows_of(suite: str, values: dict[str, list[float]]) -> list[Row]:
    """One row per method and seed."""
    return [row(suite, v, method=method, seed=seed) for method, of in values.items() for seed, v in enumerate(of)]


def full_rows() -> list[Row]:
    """All suites of a comparison, with noise that a generator of fixed seed draws."""
    noise = np.random.default_rng(0).normal
    rows = []
    for method in METHODS:
        for seed in SEEDS:
            rows.append(row("clean", CLEAN[method] + noise() * 0.25, method=method, seed=seed))
            rows.append(row("fgsm", FGSM[method] + noise() * 1.2, method=method, seed=seed, protocol={"epsilon": 8 / 255}))
            cells = [
                row(
                    f"c/{name}/{severity}",
                    CLEAN[method] - SLOPE[method] * severity * (0.5 + index % 4 / 3) + noise(),
                    method=method,
                    seed=seed,
                    protocol={"corruption": name, "severity": severity, "drawn_by": "formula"},
                )
                for index, name in enumerate(CORRUPTIONS)
                for severity in range(1, 6)
            ]
            mean = float(np.mean([cell.value for cell in cells]))
            rows += [*cells, row("c", mean, method=method, seed=seed)]
            rate = {"dat": 11.0, "random-codes": 10.0}.get(method, 0.0)
            rows.append(row("codes", rate + abs(noise()) * (rate > 0), method=method, seed=seed))
            cost = {"standard": 0.012, "at": 0.024, "random-codes": 0.019, "dat": 0.039}[method]
            rows.append(row("cost", cost * (1 + 0.02 * noise()), method=method, seed=seed))
    return rows


def write_run(folder: Path) -> Path:
    """A whole folder of kind `comparison`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "results.jsonl", full_rows())
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / "recipe.yaml").write_text("name: synthetic\nalpha: 0.1  # <of no run>\n")
    write_logs(folder)
    write_pictures(folder / "pictures.npz")
    return folder


def write_logs(folder: Path) -> None:
    """Training curves that fall, one per method and seed, and the discretizer's."""
    random = np.random.default_rng(1)
    steps = np.arange(0, 2000, 25)
    for index, method in enumerate(METHODS):
        for seed in SEEDS:
            losses = 2.3 * np.exp(-steps / (200 + 120 * index)) + 0.05 * index + 0.1 * random.random(len(steps))
            write_log(
                folder / f"{method}-seed{seed}",
                [{"step": int(s), "loss": float(v)} for s, v in zip(steps, losses, strict=True)],
            )
    psnr = 24 - 12 * np.exp(-steps / 400) + 0.4 * random.random(len(steps))
    lines = [{"step": int(s), "loss": 1 / float(p), "psnr_db": float(p), "ssim": 0.9} for s, p in zip(steps, psnr, strict=True)]
    write_log(folder / "discretizer", lines)


def write_log(folder: Path, lines: list[dict[str, float]]) -> None:
    """Lines of JSON."""
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_pictures(path: Path, *, count: int = 6, size: int = 8, grid: int = 4) -> None:
    """Smooth blobs, their coarser copies, and copies of these with some cells changed."""
    random = np.random.default_rng(2)
    y, x = np.mgrid[:size, :size] / (size - 1)
    centres = random.uniform(0.2, 0.8, (count, 2, 1, 1))
    rings = np.hypot(y - centres[:, 0], x - centres[:, 1])
    original = np.repeat((255 * np.exp(-((rings - 0.3) ** 2) / 0.02))[..., None], 3, axis=-1).astype(np.uint8)
    reconstruction = (original // 40 * 40).astype(np.uint8)
    changed = random.random((count, grid, grid)) < 0.25
    cells = changed.repeat(size // grid, axis=1).repeat(size // grid, axis=2)[..., None]
    adversarial = np.clip(
        reconstruction.astype(int) + cells * random.integers(-60, 60, reconstruction.shape[:3])[..., None], 0, 255
    )
    words = np.array([str(index) for index in range(count)])
    np.savez(
        path,
        original=original,
        reconstruction=reconstruction,
        adversarial=adversarial.astype(np.uint8),
        changed=changed,
        labels=words,
        predicted_original=words,
        predicted_adversarial=np.roll(words, 1),
    )


FACTS = {
    "kind": "classification",
    "name": "synthetic",
    "title": "Synthetic run: invented numbers that measure nothing",
    "recipe_hash": "0123abcd",
    "versions": {"dat": "0.1.0", "torch": "2.15.0"},
    "machine": "2 cores",
    "seconds": {"discretizer": 31.2, "train": 140.0, "total": 215.0},
    "data": {"name": "blobs", "train_images": 1347, "test_images": 450, "classes": 10, "image_size": [8, 8]},
    "methods": list(METHODS),
    "seeds": list(SEEDS),
    "discretizer": {"psnr_db": 24.1, "codes_used": 0.97, "perplexity": 110.2, "codebook_size": 256, "stride": 2},
}
