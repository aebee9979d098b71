"""What severities 1 to 5 mean: the constants of ImageNet-C, Tiny-ImageNet-C and CIFAR-10-C, and which picture gets which.

Each tuple is in the order of the function's arguments after the images and the random numbers. Elastic: lengths in shares of
the side (of ImageNet-C of 224, where the original writes 244). Frost: the last entry is by how much the texture is reduced.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py, make_tinyimagenet_c.py and make_cifar_c.py.
"""

from __future__ import annotations

from typing import Literal

from dat.errors import UsageError

Parameters = tuple[float | int, ...]
Severities = tuple[Parameters, ...]
ParameterSet = Literal["cifar-10-c", "tiny-imagenet-c", "imagenet-c"]

IMAGENET: dict[str, Severities] = {
    "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    "shot_noise": ((60.0,), (25.0,), (12.0,), (5.0,), (3.0,)),
    "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    "defocus_blur": ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10.0, 3.0), (15.0, 5.0), (15.0, 8.0), (15.0, 12.0), (20.0, 15.0)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3.0, 0.5, 10.0, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12.0, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12.0, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12.0, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12.0, 12.0, 0.55),
    ),
    "frost": ((1.0, 0.4, 1.0), (0.8, 0.6, 1.0), (0.7, 0.7, 1.0), (0.65, 0.7, 1.0), (0.6, 0.75, 1.0)),
    "fog": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": (
        (488 / 224, 170.8 / 224, 24.4 / 224),
        (488 / 224, 19.52 / 224, 48.8 / 224),
        (12.2 / 224, 2.44 / 224, 4.88 / 224),
        (17.08 / 224, 2.44 / 224, 4.88 / 224),
        (29.28 / 224, 2.44 / 224, 4.88 / 224),
    ),
    "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
    "speckle_noise": ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,)),
    "gaussian_blur": ((1.0,), (2.0,), (3.0,), (4.0,), (6.0,)),
    "spatter": (
        (0.65, 0.3, 4.0, 0.69, 0.6, 0),
        (0.65, 0.3, 3.0, 0.68, 0.6, 0),
        (0.65, 0.3, 2.0, 0.68, 0.5, 0),
        (0.65, 0.3, 1.0, 0.65, 1.5, 1),
        (0.67, 0.4, 1.0, 0.65, 1.5, 1),
    ),
    "saturate": ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
}
TINY_IMAGENET: dict[str, Severities] = {
    "gaussian_noise": ((0.04,), (0.08,), (0.12,), (0.15,), (0.18,)),
    "shot_noise": ((250.0,), (100.0,), (50.0,), (30.0,), (15.0,)),
    "impulse_noise": ((0.01,), (0.02,), (0.05,), (0.08,), (0.14,)),
    "defocus_blur": ((0.5, 0.6), (1.0, 0.1), (1.5, 0.1), (2.5, 0.01), (3.0, 0.1)),
    "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "motion_blur": ((10.0, 1.0), (10.0, 1.5), (10.0, 2.0), (10.0, 2.5), (12.0, 3.0)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.8),
        (0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.6),
    ),
    "frost": ((1.0, 0.3, 10 / 3), (0.9, 0.4, 10 / 3), (0.8, 0.45, 10 / 3), (0.75, 0.5, 10 / 3), (0.7, 0.55, 10 / 3)),
    "fog": ((0.4, 3.0), (0.7, 3.0), (1.0, 2.5), (1.5, 2.0), (2.0, 1.75)),
    "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    "elastic_transform": ((0.0, 0.0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    "pixelate": ((0.9,), (0.8,), (0.7,), (0.6,), (0.5,)),
    "jpeg_compression": ((65,), (58,), (50,), (40,), (25,)),
    "speckle_noise": ((0.15,), (0.2,), (0.25,), (0.3,), (0.35,)),
    "gaussian_blur": ((0.5,), (0.75,), (1.0,), (1.25,), (1.5,)),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.6, 0),
        (0.65, 0.1, 0.8, 0.7, 0.6, 0),
        (0.65, 0.3, 1.0, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1),
        (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    ),
    "saturate": ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (30.0, 0.2)),
}
CIFAR: dict[str, Severities] = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((500.0,), (250.0,), (100.0,), (75.0,), (50.0,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6.0, 1.0), (6.0, 1.5), (6.0, 2.0), (8.0, 2.0), (9.0, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.8),
    ),
    "frost": ((1.0, 0.2, 5.0), (1.0, 0.3, 5.0), (0.9, 0.4, 5.0), (0.85, 0.4, 5.0), (0.75, 0.45, 5.0)),
    "fog": ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "elastic_transform": ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
    "speckle_noise": ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
    "gaussian_blur": ((0.4,), (0.6,), (0.7,), (0.8,), (1.0,)),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1.0, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "saturate": ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
}


PARAMETER_SETS: dict[ParameterSet, dict[str, Severities]] = {
    "cifar-10-c": CIFAR,
    "tiny-imagenet-c": TINY_IMAGENET,
    "imagenet-c": IMAGENET,
}
NATIVE_SIDES: dict[ParameterSet, int] = {"cifar-10-c": 32, "tiny-imagenet-c": 64, "imagenet-c": 224}
"""Of the square pictures that each set was published for."""


def parameter_set(height: int, width: int) -> ParameterSet:
    """The set whose native side is nearest to the shorter side as a ratio: to 45 pixels, to 119, above.

    Lengths are in pixels: a blur of ten is another corruption of a picture of 64 than of one of 224.
    """
    side = min(height, width)
    return min(PARAMETER_SETS, key=lambda name: max(side / NATIVE_SIDES[name], NATIVE_SIDES[name] / side))


def check_parameter_set(name: str) -> None:
    """Raises: UsageError: there is no such set."""
    if name not in PARAMETER_SETS:
        raise UsageError(f"The corruption parameters are {name!r}; write one of {', '.join(PARAMETER_SETS)}.")
