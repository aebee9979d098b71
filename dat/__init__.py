"""Discrete Adversarial Training: the adversary changes visual words, not pixels.

    discretizer = dat.load_discretizer("vqgan-f8-16384.ckpt")
    adversarial = dat.discrete_adversary(images, loss_fn, discretizer, alpha=0.1)

Names are imported when they are first used: `import dat` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dat.version import __version__ as __version__

if TYPE_CHECKING:
    from dat.analysis.codes import codes as codes
    from dat.analysis.codes import discrete_change as discrete_change
    from dat.analysis.spectrum import spectrum as spectrum
    from dat.analysis.statistics import statistics as statistics
    from dat.attacks.codes import code_adversary as code_adversary
    from dat.attacks.discrete import discrete_adversary as discrete_adversary
    from dat.attacks.gradient import evaluating as evaluating
    from dat.attacks.gradient import input_gradient as input_gradient
    from dat.attacks.pixels import fgsm as fgsm
    from dat.attacks.pixels import pgd as pgd
    from dat.attacks.pixels import random_start as random_start
    from dat.attacks.pyramid import pyramid as pyramid
    from dat.attacks.rate import Rate as Rate
    from dat.augment.augmix import augmix as augmix
    from dat.boxes import Boxes as Boxes
    from dat.commands.evaluate import evaluate as evaluate
    from dat.commands.export import export as export
    from dat.commands.pull import pull as pull
    from dat.commands.push import push as push
    from dat.commands.train import train as train
    from dat.commands.trained import TrainedDetector as TrainedDetector
    from dat.commands.trained import TrainedModel as TrainedModel
    from dat.commands.trained import load_run as load_run
    from dat.data.corruptions.table import CORRUPTIONS as CORRUPTIONS
    from dat.data.corruptions.table import corrupt as corrupt
    from dat.discretizers.codes import modified_code_rate as modified_code_rate
    from dat.discretizers.frozen import FrozenDiscretizer as FrozenDiscretizer
    from dat.discretizers.pretrained import load_discretizer as load_discretizer
    from dat.discretizers.pretrained import save_discretizer as save_discretizer
    from dat.errors import DatError as DatError
    from dat.methods import METHODS as METHODS
    from dat.methods.advprop import AdvProp as AdvProp
    from dat.methods.at import AT as AT
    from dat.methods.augmix import AugMix as AugMix
    from dat.methods.calibration import calibrated as calibrated
    from dat.methods.dat import DAT as DAT
    from dat.methods.dat_codes import DATCodes as DATCodes
    from dat.methods.dat_fast import DATFast as DATFast
    from dat.methods.dat_free import DATFree as DATFree
    from dat.methods.dat_official import DATOfficial as DATOfficial
    from dat.methods.debiased import Debiased as Debiased
    from dat.methods.deepaugment import DeepAugment as DeepAugment
    from dat.methods.deepaugment import DeepAugmentDecoder as DeepAugmentDecoder
    from dat.methods.fast_advprop import FastAdvProp as FastAdvProp
    from dat.methods.pyramid import PyramidAT as PyramidAT
    from dat.methods.random_codes import RandomCodes as RandomCodes
    from dat.methods.stack import DeepAugmentAugMixDAT as DeepAugmentAugMixDAT
    from dat.methods.standard import Standard as Standard
    from dat.nn.contrastive import MoCoNetwork as MoCoNetwork
    from dat.nn.contrastive import SimCLRNetwork as SimCLRNetwork
    from dat.nn.detectors import Detector as Detector
    from dat.nn.drvit import DrViT as DrViT
    from dat.nn.mae import MaskedAutoencoder as MaskedAutoencoder
    from dat.nn.norm import Normalized as Normalized
    from dat.nn.norm import through_auxiliary_norms as through_auxiliary_norms
    from dat.nn.norm import with_auxiliary_norms as with_auxiliary_norms
    from dat.nn.norm import without_auxiliary_norms as without_auxiliary_norms
    from dat.nn.transformers_detectors import TransformersDetector as TransformersDetector
    from dat.results import Row as Row
    from dat.tasks.classification import Classification as Classification
    from dat.tasks.contrastive import Contrastive as Contrastive
    from dat.tasks.contrastive import MomentumContrastive as MomentumContrastive
    from dat.tasks.detection import Detection as Detection
    from dat.tasks.losses import cross_entropy as cross_entropy
    from dat.tasks.losses import margin as margin
    from dat.tasks.masked import MaskedReconstruction as MaskedReconstruction
    from dat.types import Batch as Batch
    from dat.types import Discretizer as Discretizer
    from dat.types import Method as Method
    from dat.types import Task as Task

_HOME = {
    "AT": "methods.at",
    "AdvProp": "methods.advprop",
    "AugMix": "methods.augmix",
    "Batch": "types",
    "Boxes": "boxes",
    "CORRUPTIONS": "data.corruptions.table",
    "Classification": "tasks.classification",
    "Contrastive": "tasks.contrastive",
    "DAT": "methods.dat",
    "DATCodes": "methods.dat_codes",
    "DATFast": "methods.dat_fast",
    "DATFree": "methods.dat_free",
    "DATOfficial": "methods.dat_official",
    "DatError": "errors",
    "Debiased": "methods.debiased",
    "DeepAugment": "methods.deepaugment",
    "DeepAugmentAugMixDAT": "methods.stack",
    "DeepAugmentDecoder": "methods.deepaugment",
    "Detection": "tasks.detection",
    "Detector": "nn.detectors",
    "Discretizer": "types",
    "DrViT": "nn.drvit",
    "FastAdvProp": "methods.fast_advprop",
    "FrozenDiscretizer": "discretizers.frozen",
    "METHODS": "methods",
    "MaskedAutoencoder": "nn.mae",
    "MaskedReconstruction": "tasks.masked",
    "Method": "types",
    "MoCoNetwork": "nn.contrastive",
    "MomentumContrastive": "tasks.contrastive",
    "Normalized": "nn.norm",
    "PyramidAT": "methods.pyramid",
    "RandomCodes": "methods.random_codes",
    "Rate": "attacks.rate",
    "Row": "results",
    "SimCLRNetwork": "nn.contrastive",
    "Standard": "methods.standard",
    "Task": "types",
    "TrainedDetector": "commands.trained",
    "TrainedModel": "commands.trained",
    "TransformersDetector": "nn.transformers_detectors",
    "augmix": "augment.augmix",
    "calibrated": "methods.calibration",
    "code_adversary": "attacks.codes",
    "codes": "analysis.codes",
    "corrupt": "data.corruptions.table",
    "cross_entropy": "tasks.losses",
    "discrete_adversary": "attacks.discrete",
    "discrete_change": "analysis.codes",
    "evaluate": "commands.evaluate",
    "evaluating": "attacks.gradient",
    "export": "commands.export",
    "fgsm": "attacks.pixels",
    "input_gradient": "attacks.gradient",
    "load_discretizer": "discretizers.pretrained",
    "load_run": "commands.trained",
    "margin": "tasks.losses",
    "modified_code_rate": "discretizers.codes",
    "pgd": "attacks.pixels",
    "pull": "commands.pull",
    "push": "commands.push",
    "pyramid": "attacks.pyramid",
    "random_start": "attacks.pixels",
    "save_discretizer": "discretizers.pretrained",
    "spectrum": "analysis.spectrum",
    "statistics": "analysis.statistics",
    "through_auxiliary_norms": "nn.norm",
    "train": "commands.train",
    "with_auxiliary_norms": "nn.norm",
    "without_auxiliary_norms": "nn.norm",
}


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"dat has no public name {name!r}; it has {', '.join(_HOME)}.")
    value = getattr(import_module(f"dat.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return ["__version__", *_HOME]
