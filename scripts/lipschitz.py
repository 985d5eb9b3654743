"""Largest measured ratio |R(a) - R(b)| / |a - b| of a trained run's network.

usage: python scripts/lipschitz.py RUN

Pairs: random images, the run's test images, and along the worst direction found at each of them by
power iteration on J^T J. In float64. A nonexpansive network has no ratio above 1.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.functional import jvp, vjp

from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.saved import load_run
from bmo_cli.tasks.task import Task


def points(task: Task, channels: int) -> Iterator[Tensor]:
    """Images at which ratios are measured, (1, C, 96, 96)."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.05, 1.0):
        yield scale * torch.rand(1, channels, 96, 96, generator=generator, dtype=torch.float64)
    for case in task.cases("test"):
        yield case.initial[0][:1, :, :96, :96].double().cpu()


def largest_ratio(network: Callable[[Tensor], Tensor], a: Tensor, steps: int = 60) -> float:
    """Over the path of a power iteration at `a`, with pairs near and far."""
    v = torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=a.dtype)
    best = 0.0
    for _ in range(steps):
        w = vjp(network, a, jvp(network, a, v)[1])[1]
        v = w / w.norm().clamp_min(1e-300)
        for length in (1e-3, 1.0, 30.0):
            step = network(a + length * v) - network(a)
            best = max(best, (step.norm() / length).item())
    return best


def main() -> None:
    """Print the ratio at every point and the largest."""
    if len(sys.argv) != 2:
        raise InputError("usage: python scripts/lipschitz.py RUN")
    _, experiment = load_run(Path(sys.argv[1]))
    net = experiment.scheme.net
    if net is None:
        raise InputError("the run has no network")
    network = net.double().cpu().bind()
    ratios = [largest_ratio(network, a) for a in points(experiment.task, net.channels)]
    print("ratios:", ", ".join(f"{ratio:.7f}" for ratio in ratios))
    print(f"largest: {max(ratios):.7f} ({type(net).__name__}, nonexpansive: {net.nonexpansive})")


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(f"lipschitz: {error}")
