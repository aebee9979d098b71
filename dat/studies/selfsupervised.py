"""Methods are compared on self-supervised learning: one network per method and seed, its frozen features judged, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dat.data.pipeline import ImageDataset, evaluation_batches
from dat.data.subset import Subset, first_per_class
from dat.discretizers.frozen import FrozenDiscretizer
from dat.engine.run_folder import Run
from dat.evaluation.cells import Predictions
from dat.evaluation.features import Judge, answers
from dat.evaluation.suites import FGSM
from dat.nn.features import encoder_of
from dat.nn.mae import MaskedAutoencoder
from dat.nn.norm import Normalized
from dat.progress import Bar
from dat.recipe.selfsupervised import SelfSupervisedComparison
from dat.results import Row, versions, write_arrays
from dat.studies import measured
from dat.studies.contest import jobs_of, trained
from dat.studies.forecast import Forecast
from dat.studies.judged import Subject
from dat.studies.study import Job

PICTURES = 6
"""So many test pictures are shown on the page,"""
NEIGHBOURS = 5
"""each with so many of the bank."""
PIXELS = Job("raw-pixels", 0)
"""Stands for no model: the pictures themselves as features."""
SHOWN_EPSILON = 8 / 255
"""Of the attack whose neighbours are shown; that of the numbers may be too weak to see."""


class SelfSupervisedStudy:
    """Pre-train, judge and show."""

    def __init__(self, opened: SelfSupervisedComparison, run: Run) -> None:
        self.opened, self.run = opened, run
        self._judges: dict[Job, Judge] = {}

    def jobs(self) -> Sequence[Job]:
        """Seed by seed all methods."""
        return jobs_of(self.opened)

    def train(self, job: Job, title: str) -> nn.Module:
        """The pre-trained network of one method and seed, without auxiliary norms."""
        return trained(
            self.opened,
            self.run,
            job,
            task=self.opened.task,
            discretizer=self._discretizer,
            forecast=self._forecast,
            title=title,
        )

    def rows(self, models: Mapping[Job, nn.Module]) -> list[Row]:
        """What frozen features are worth, by neighbours and by a probe, beside raw pixels; and costs."""
        with self.run.timed("evaluate"):
            rows = self._measured(models)
        if not self.run.place.is_main:
            return rows
        trainings = {label: contestant.training for label, contestant in self.opened.contestants.items()}
        return rows + measured.costs(self._row, trainings, self.opened.seeds, self.run.folder)

    def pictures(self, models: Mapping[Job, nn.Module]) -> None:
        """Some test pictures: as a masked autoencoder fills them up, and their neighbours, clean and attacked."""
        job = self._shown_job
        model, place = models[job], self.run.place
        assert isinstance(model, Normalized)
        images, targets = _examples(self.opened.data.test)
        images, targets = images.to(place.device), targets.to(place.device)
        arrays: dict[str, Any] = {
            "original": _bytes(images),
            "labels": np.array([self.opened.data.classes[label] for label in targets]),
        }
        if isinstance(model.network, MaskedAutoencoder):
            arrays |= _reconstructed(model, images)
        arrays |= self._retrieved(self._judges[job], images, targets)
        write_arrays(self.run.folder / "pictures.npz", **arrays)
        self.run.facts["pictures"] = {"model": str(job), "epsilon_255": round(255 * SHOWN_EPSILON, 4)}

    def following(self) -> None:
        """Nothing follows."""

    def _measured(self, models: Mapping[Job, nn.Module]) -> list[Row]:
        """Every network and raw pixels, suite by suite."""
        subject, shelf, device = self._subject, self._subject.shelf(), self.run.place.device
        for job, model in models.items():
            assert isinstance(model, Normalized)
            self._judges[job] = subject.judge(encoder_of(model.to(device)), shelf, probed=True)
        judges = {**self._judges, PIXELS: subject.judge(nn.Flatten().eval(), shelf, probed=False)}
        said: dict[Job, dict[str, Predictions]] = {job: {} for job in judges}
        total = sum(len(shelf.share(cell.dataset)) for cell in subject.cells)
        with Bar("evaluate", total, shown=self.run.place.is_main) as bar:
            for cell in subject.cells:
                found = answers(judges, cell.dataset, cell.change, shelf, advance=partial(bar.add, cell.name))
                for job, predictions in found.items():
                    said[job][cell.name] = predictions
        seeds = {job: job.seed if job != PIXELS else None for job in judges}
        return [row for job in judges for row in subject.rows(said[job], method=job.label, seed=seeds[job])]

    def _row(self, suite: str, metric: str, value: float, n: int, job: Job, protocol: dict[str, object]) -> Row:
        hashed = self.opened.header.recipe_hash
        return Row(suite, metric, value, n, None, job.seed, job.label, hashed, protocol, versions())

    def _retrieved(self, judge: Judge, images: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        """Neighbours of pictures, and of what an attack through the probe makes of them."""
        attacked = judge.shown(FGSM(SHOWN_EPSILON), images, targets, torch.arange(len(images)))
        found, bank = {"attacked": _bytes(attacked)}, self.opened.data.bank
        for name, shown in {"neighbours": images, "neighbours_attacked": attacked}.items():
            with torch.inference_mode():
                nearest = judge.neighbours.nearest(judge.encoder(shown))[:, :NEIGHBOURS].cpu()
            pictures = [bank.__getitems__([(0, int(place)) for place in row])[0] for row in nearest]
            found[name] = np.stack([_bytes(row) for row in pictures])
            found[f"{name}_labels"] = np.array(self.opened.data.classes)[bank.source.targets[nearest.numpy()]]
        return found

    @cached_property
    def _subject(self) -> Subject:
        opened = self.opened
        data, hashed = opened.data, opened.header.recipe_hash
        return Subject(opened.judging, data.bank, data.test, data.size, hashed, self.run.place)

    @property
    def _shown_job(self) -> Job:
        """Whose pictures are shown: the first network of a method with an adversary of words, or the first of all."""
        jobs = self.jobs()
        return next((job for job in jobs if self.opened.contestants[job.label].alpha is not None), jobs[0])

    @property
    def _discretizer(self) -> FrozenDiscretizer | None:
        found = self.opened.discretizer
        return None if found is None else found.to(self.run.place.device)

    @property
    def _forecast(self) -> Forecast:
        opened, jobs = self.opened, list(self.jobs())
        trainings = {label: contestant.training for label, contestant in opened.contestants.items()}
        judging, shown = opened.judging, len(opened.data.bank)
        shown += len(judging.suites) * len(opened.data.test) + len(judging.corruptions) * len(opened.corrupted)
        return Forecast(self.run.folder, trainings, jobs, len(opened.data.train), shown * len(jobs))


def _examples(test: ImageDataset) -> tuple[Tensor, Tensor]:
    """The first test pictures of as many classes as there is room for."""
    chosen = first_per_class(test.source, -(-PICTURES // len(test.source.classes)))
    spread = np.unique(np.linspace(0, len(chosen) - 1, min(PICTURES, len(chosen))).round().astype(np.int64))
    images, targets, _ = next(iter(evaluation_batches(ImageDataset(Subset(chosen, spread), test.transform, seed=0), PICTURES)))
    return images, targets


@torch.inference_mode()
def _reconstructed(model: Normalized, images: Tensor) -> dict[str, np.ndarray]:
    """With their hidden patches in grey, and as the model fills these up; which are hidden follows from the place of each."""
    network = model.network
    assert isinstance(network, MaskedAutoencoder)
    patches, patch = (images.shape[-1] // network.patch_size) ** 2, network.patch_size
    noise = torch.rand(len(images), patches, generator=torch.Generator().manual_seed(0)).to(images)
    found, mask = network.reconstruct((images - model.mean) / model.std, noise)
    hidden = mask.unflatten(1, (images.shape[-2] // patch, -1)).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    masked = torch.where(hidden[:, None] == 1, 0.5, images)
    return {"masked": _bytes(masked), "filled": _bytes((found * model.std + model.mean).clamp(0, 1))}


def _bytes(images: Tensor) -> np.ndarray:
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
