"""What a run folder holds, as tests compare it."""

import csv

import numpy as np
from safetensors.torch import load_file


def history(folder):
    with (folder / "history.csv").open() as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def weights(folder, name="last"):
    tensors = load_file(folder / "checkpoints" / f"{name}.safetensors")
    return {key: value.numpy() for key, value in tensors.items()}


def same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[key], b[key]) for key in a)
