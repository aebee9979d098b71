"""What a test runs on several processes, by `torchrun`: `predicting.py OUT`. Predicts sets of several sizes."""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from test_predict import SIZES, cell, predicted, written

from dat.types import Place

if __name__ == "__main__":
    state = PartialState(cpu=True)
    place = Place(torch.device("cpu"), state.process_index, state.num_processes)
    for size in SIZES:
        found = predicted(cell(written(size, wrong=2)), place=place)
        if place.is_main:
            np.save(Path(sys.argv[1]) / f"{size}.npy", found.outputs["accuracy"])
    state.wait_for_everyone()
    state.destroy_process_group()
