"""Compare a deconvolution run with classical filters on the same observations.

usage: python benchmarks/baselines.py [RUN]          (default: the newest run under outputs/)

Parameters of the filters are tuned on the run's validation images (mean PSNR); the test images are
only scored.
"""

import sys
from pathlib import Path

import numpy as np

from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.evaluation import Settings, average_scores, evaluate
from bmo_cli.experiment.load import load_run
from bmo_cli.gkm.filters import Filter, RichardsonLucy, UnsupervisedWiener, Wiener
from bmo_cli.gkm.scheme import GKM
from bmo_cli.metrics import mean
from bmo_cli.tasks.deconvolution import Deconvolution

CANDIDATES: dict[str, dict[str, Filter]] = {
    "wiener": {f"balance={b:.2g}": Wiener(balance=b) for b in np.logspace(-4, 1, 16).tolist()},
    "unsupervised_wiener": {"": UnsupervisedWiener()},
    "richardson_lucy": {
        f"iterations={n}": RichardsonLucy(iterations=n) for n in (5, 10, 20, 40, 80, 160)
    },
}
ONCE = Settings(iterations=1)  # the map of a filter is constant


def tuned(task: Deconvolution, candidates: dict[str, Filter]) -> tuple[str, GKM]:
    """The setting with the best mean PSNR on the validation images."""
    schemes = {name: GKM(operator=operator, alpha=None) for name, operator in candidates.items()}
    scores = {
        name: mean([row["psnr"] for row in evaluate(scheme, task, "val", ONCE).values()])
        for name, scheme in schemes.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return best, schemes[best]


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
        setting, scheme = tuned(task, candidates)
        scores = evaluate(scheme, task, "test", ONCE)
        rows[f"{name} {setting}".strip()] = average_scores(scores, "test")
    ours = evaluate(experiment.scheme, task, "test", Settings.of(config.eval))
    last = average_scores(ours, "test")
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
