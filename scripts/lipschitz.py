"""Largest measured ratio |R(a) - R(b)| / |a - b| of a trained run's network.

usage: python scripts/lipschitz.py RUN

Pairs: random images and the run's test images, each with a partner near, at middle distance and
far, in random directions and along the worst one found by power iteration on J^T J. In float64. A
nonexpansive network has no ratio above 1.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.saved import load_run
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.nonexpansive import largest_ratio
from bmo_cli.tasks.task import Task


def points(task: Task, channels: int) -> Iterator[Tensor]:
    """Images at which ratios are measured, (1, C, 96, 96)."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.05, 1.0):
        yield scale * torch.rand(1, channels, 96, 96, generator=generator, dtype=torch.float64)
    for case in task.cases("test"):
        yield case.initial[0][:1, :, :96, :96].double().cpu()


def main() -> None:
    """Print the ratio at every point and the largest."""
    if len(sys.argv) != 2:
        raise InputError("usage: python scripts/lipschitz.py RUN")
    _, experiment = load_run(Path(sys.argv[1]))
    net = experiment.scheme.net
    if net is None:
        raise InputError("the run has no network")
    network = net.double().cpu().bind()
    identity = ScaledIdentity(torch.ones((), dtype=torch.float64))
    mapping = FixedPointMap(lambda u, k: (network(u[0]),), identity)
    ratios = [
        max(largest_ratio(mapping, (a,), turns=60, radius=radius) for radius in (1e-4, 0.03, 1.0))
        for a in points(experiment.task, net.channels)
    ]
    print("ratios:", ", ".join(f"{ratio:.7f}" for ratio in ratios))
    print(f"largest: {max(ratios):.7f} ({type(net).__name__}, nonexpansive: {net.nonexpansive})")


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(f"lipschitz: {error}")
