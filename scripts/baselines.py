"""Compare a deconvolution run with scikit-image's classical filters on the same observations.

usage: python scripts/baselines.py [RUN]          (default: the newest run under outputs/)

Parameters of the filters are tuned on the run's validation images (mean PSNR); the test images are
only scored. Richardson-Lucy convolves with a zero border, so it is given the observation continued
periodically, which is how the observation was made.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import restoration

from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.evaluation import Settings, averages, evaluate
from bmo_cli.experiment.saved import load_run
from bmo_cli.metrics import mean
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.tasks.deconvolution import Deconvolution
from bmo_cli.tasks.task import Case

Array = NDArray[Any]
Filter = Callable[[Array, Array], Array]


def wiener(y: Array, kernel: Array, balance: float) -> Array:
    """Wiener filter with a Laplacian prior of weight `balance`."""
    restored: Array = restoration.wiener(y, kernel, balance, clip=False)
    return restored


def unsupervised_wiener(y: Array, kernel: Array) -> Array:
    """Wiener filter whose two weights are sampled from their posterior."""
    restored: Array = restoration.unsupervised_wiener(y, kernel, clip=False, rng=0)[0]
    return restored


def richardson_lucy(y: Array, kernel: Array, iterations: int) -> Array:
    """Multiplicative updates for Poisson noise."""
    h, w = kernel.shape
    padded = np.pad(y.clip(1e-4, None), ((h, h), (w, w)), mode="wrap")
    restored: Array = restoration.richardson_lucy(padded, kernel, num_iter=iterations, clip=False)
    return restored[h:-h, w:-w]


CANDIDATES: dict[str, list[tuple[str, Filter]]] = {
    "wiener": [
        (f"balance={b:.2g}", partial(wiener, balance=b)) for b in np.logspace(-4, 1, 16).tolist()
    ],
    "unsupervised_wiener": [("", unsupervised_wiener)],
    "richardson_lucy": [
        (f"num_iter={n}", partial(richardson_lucy, iterations=n)) for n in (5, 10, 20, 40, 80, 160)
    ],
}


def scores(task: Deconvolution, case: Case, method: Filter) -> dict[str, float]:
    """PSNR and SSIM of a filter that works channel by channel; it never sees the reference."""
    assert isinstance(case.problem.f, LeastSquares)
    h, w = task.kernels.shape[1:]
    impulse = torch.fft.irfft2(case.problem.f.a.transfer, s=case.problem.f.y.shape[-2:])
    kernel = impulse.roll((h // 2, w // 2), (2, 3))[0, 0, :h, :w].cpu().double().numpy()
    channels = case.problem.f.y.flatten(0, 1).cpu().double().numpy()
    restored = np.stack([method(y, kernel) for y in channels])
    return task.score((torch.tensor(restored),), case)


def main() -> None:
    """Print the table."""
    runs = sorted(Path("outputs").glob("*/*/checkpoints/best.safetensors"))
    if len(sys.argv) < 2 and not runs:
        raise InputError("no run under outputs/; make one with: bmo train task=deconv")
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else runs[-1].parent.parent
    config, experiment = load_run(run)
    task = experiment.task
    if not isinstance(task, Deconvolution):
        raise InputError(f"{run} is no deconvolution run")

    rows: dict[str, dict[str, float]] = {}
    for name, candidates in CANDIDATES.items():
        tuned = [
            mean([scores(task, case, method)["psnr"] for case in task.cases("val")])
            for _, method in candidates
        ]
        setting, best = candidates[int(np.argmax(tuned))]
        found = {case.name: scores(task, case, best) for case in task.cases("test")}
        rows[f"{name} {setting}".strip()] = averages(found, "test")
    ours = evaluate(experiment.scheme, task, "test", Settings.of(config["eval"]))
    last = averages(ours, "test")
    print(f"{run}: test images {', '.join(ours)}\n\n| method | PSNR (dB) | SSIM |\n|---|---|---|")
    print(f"| degraded | {last['test/psnr_input']:.2f} | {last['test/ssim_input']:.4f} |")
    for name, row in {**rows, f"bmo: {run.name}": last}.items():
        print(f"| {name} | {row['test/psnr']:.2f} | {row['test/ssim']:.4f} |")
    margin = last["test/psnr"] - max(row["test/psnr"] for row in rows.values())
    print(f"\nabove the best classical filter: {margin:+.2f} dB")


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(f"baselines: {error}")
