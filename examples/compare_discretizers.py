"""Several discretizers side by side on the same pictures: one picture of reconstructions, and the PSNR of the mean error.

python examples/compare_discretizers.py cifar-f4-1024 cifar-f4-1024-fast --pictures data/cifar10/test --out compare.png
"""

import argparse

import numpy as np
import torch
from matplotlib.figure import Figure

import dat
from dat.data.embedded import digits
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset, evaluation_batches
from dat.data.subset import Subset
from dat.discretizers.codes import usage


def options() -> argparse.Namespace:
    """What the user asks for; without `--pictures`, the test digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("discretizers", nargs="+", help="names of `dat discretizer list`, or files")
    parser.add_argument("--pictures", help="a folder with one subfolder per class")
    parser.add_argument("--size", type=int, help="resize and crop to so many pixels a side")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--out", default="compare.png")
    return parser.parse_args()


def some_pictures(asked: argparse.Namespace) -> torch.Tensor:
    """`count` pictures, evenly spread over the folder: `(count, 3, height, width)` in [0, 1]."""
    source = ImageFolder(asked.pictures) if asked.pictures else digits("test")
    positions = np.linspace(0, len(source) - 1, asked.count).round().astype(np.int64)
    dataset = ImageDataset(Subset(source, positions), CenterCrop(asked.size), seed=0)
    return next(evaluation_batches(dataset, asked.count))[0]


def main() -> None:
    """Print a line for each discretizer, and draw one row for each below the originals."""
    asked = options()
    images = some_pictures(asked)
    rows = {"original": images}
    for name in asked.discretizers:
        discretizer = dat.load_discretizer(name)
        rows[name] = discretizer(images)
        psnr = -10 * (rows[name] - images).square().mean().log10()
        used = 100 * usage(discretizer.encode(images), discretizer.codebook_size).fraction
        share = f"{used:.1f} % of {discretizer.codebook_size} codes used by these pictures"
        print(f"{name}: PSNR of the mean error {psnr:.2f} dB, {share}")
    figure = Figure(figsize=(1.5 * asked.count, 1.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), asked.count, squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_title(name, loc="left", fontsize=9)
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            panel.set_axis_off()
    figure.savefig(asked.out, dpi=110)


if __name__ == "__main__":
    main()
