"""The studies, by the kind of their recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dat.engine.run_folder import Run
from dat.studies.classification import ClassificationStudy
from dat.studies.detection import DetectionStudy
from dat.studies.discretizer import DiscretizerStudy
from dat.studies.distillation import DistillationStudy
from dat.studies.selfsupervised import SelfSupervisedStudy
from dat.studies.study import Study

STUDIES: dict[str, Callable[[Any, Run], Study]] = {
    "classification": ClassificationStudy,
    "detection": DetectionStudy,
    "discretizer": DiscretizerStudy,
    "distillation": DistillationStudy,
    "selfsupervised": SelfSupervisedStudy,
}
