"""Picture sheet of the synthetic rain: photographs clean, in light and in heavy rain.

usage: python benchmarks/rain_sheet.py OUT.png
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from bmo_cli.data.patches import as_tensor, central
from bmo_cli.data.rain import PRESETS
from bmo_cli.data.splits import Embedded
from bmo_cli.errors import BmoError, InputError


def main() -> None:
    """Write the sheet."""
    if len(sys.argv) != 2:
        raise InputError("usage: python benchmarks/rain_sheet.py OUT.png")
    images = Embedded(channels=3).load("test")
    figure = Figure(figsize=(12, 2.6 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), 1 + 2 * len(PRESETS), squeeze=False)
    for i, (row, name) in enumerate(zip(axes, images.names, strict=True)):
        clean = central(as_tensor(images[i]), 240)[None]
        shown = [(name, clean)]
        for preset, streaks in PRESETS.items():
            for seed in (0, 1):
                rng = np.random.default_rng([seed, i])
                drawn = streaks.draw((1, *clean.shape[2:]), rng)
                shown.append((preset, streaks.fall(clean, drawn)))
        for axis, (title, image) in zip(row, shown, strict=True):
            error = (image - clean).square().mean()
            level = "" if error == 0 else f" {float(-10 * torch.log10(error)):.1f} dB"
            axis.imshow(image[0].permute(1, 2, 0).clamp(0, 1).numpy())
            axis.set_title(title + level, fontsize=9)
            axis.set_axis_off()
    figure.savefig(Path(sys.argv[1]), dpi=110)


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(str(error))
