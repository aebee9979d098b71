"""The figure of modified codes, and that no band shows what cannot be."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dat.report.codes_figure import LOOKS, Sweep, draw_sweep


def test_shares_have_bands_within_0_and_100_percent() -> None:
    mostly = np.tile(np.where(np.arange(45) < 43, 100.0, 0.0), (2, len(LOOKS), 1))
    found = Sweep("standard", tuple(LOOKS), (0.1, 0.2), {"same": mostly, "rates": 100 - mostly, "l2": mostly})
    limits = {}
    for name in found.values:
        axes = Figure().subplots()
        draw_sweep(axes, found, name)
        heights = np.concatenate([np.asarray(band.get_paths()[0].vertices)[:, 1] for band in axes.collections])
        limits[name] = heights.min(), heights.max()
    assert limits["same"][1] == 100
    assert limits["rates"][0] == 0
    assert limits["l2"][1] > 100
