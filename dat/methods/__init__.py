"""The training methods, one paper each. A new one: a file, a line here, a recipe, a row in `tests/test_methods.py`."""

from dat.methods.advprop import AdvProp
from dat.methods.at import AT
from dat.methods.augmix import AugMix
from dat.methods.dat import DAT
from dat.methods.dat_codes import DATCodes
from dat.methods.dat_fast import DATFast
from dat.methods.dat_free import DATFree
from dat.methods.dat_official import DATOfficial
from dat.methods.debiased import Debiased
from dat.methods.deepaugment import DeepAugment, DeepAugmentDecoder
from dat.methods.fast_advprop import FastAdvProp
from dat.methods.pyramid import PyramidAT
from dat.methods.random_codes import RandomCodes
from dat.methods.stack import DeepAugmentAugMixDAT
from dat.methods.standard import Standard

METHODS = {
    "standard": Standard,
    "at": AT,
    "pyramid-at": PyramidAT,
    "advprop": AdvProp,
    "fast-advprop": FastAdvProp,
    "random-codes": RandomCodes,
    "dat": DAT,
    "dat-official": DATOfficial,
    "dat-free": DATFree,
    "dat-fast": DATFast,
    "dat-codes": DATCodes,
    "debiased": Debiased,
    "augmix": AugMix,
    "deepaugment": DeepAugment,
    "deepaugment-decoder": DeepAugmentDecoder,
    "deepaugment-augmix-dat": DeepAugmentAugMixDAT,
}
