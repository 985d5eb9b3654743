"""What a guarantee means: two runs, iterated far beyond what they were trained with.

Draws the PSNR of every test photograph over 1000 iterations of T, and a part of the first one
after the run's own number of iterations and after the last.

usage: python benchmarks/drift.py OUT.png NAME=RUN NAME=RUN
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from bmo_cli.data.patches import central
from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.load import load_run
from bmo_cli.solver.fixed_point import iterate

COUNTS = (1, 2, 3, 5, 8, 12, 20, 30, 60, 100, 150, 200, 300, 500, 700, 1000)
SIDE = 150  # pixels of the part that is shown


@dataclass(frozen=True)
class Drift:
    """A run on its test split.

    Attributes:
        names: of the photographs.
        scores: by number of iterations, one for each photograph.
        own: iterations of the run's own evaluation.
        parts: central part of the first photograph by number of iterations, (H, W).
    """

    names: list[str]
    scores: dict[int, list[float]]
    own: int
    parts: dict[int, torch.Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, run: Path) -> "Drift":
        """Iterate the scheme of a run folder."""
        config, experiment = load_run(run)
        scheme, task, own = experiment.scheme, experiment.task, config.eval.iterations
        task.prepare(("test",))
        counts = sorted({*COUNTS, own})
        scores: dict[int, list[float]] = {count: [] for count in counts}
        names, parts = [], {}
        for case in task.cases("test"):
            names.append(case.name)
            mapping, u, done = scheme.bind(case.problem), case.initial, 0
            for count in counts:
                u = iterate(mapping, u, iterations=count - done, start=done, watch="last").value
                done = count
                estimate = mapping.estimate(u)
                scores[count].append(task.score_metric(estimate, case))
                if len(names) == 1 and count in (own, COUNTS[-1]):
                    parts[count] = central(estimate[0][0], SIDE)[0].clamp(0, 1)
        return cls(names, scores, own, parts)


def main() -> None:
    """Write the picture and print the scores."""
    words = [word.rpartition("=") for word in sys.argv[2:]]
    if len(words) != 2 or not all(run for _, _, run in words):
        raise InputError("usage: python benchmarks/drift.py OUT.png NAME=RUN NAME=RUN")
    drifts = {name: Drift.of(Path(run)) for name, _, run in words}
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    chart, *columns = figure.subplot_mosaic(
        [["chart", "a", "b"], ["chart", "c", "d"]], width_ratios=[2.4, 1, 1]
    ).values()
    for number, (name, drift) in enumerate(drifts.items()):
        for i, photograph in enumerate(drift.names):
            values = [scores[i] for scores in drift.scores.values()]
            label = name if i == 0 else None
            line = ("-", "--", "-.")[i % 3]
            chart.plot(list(drift.scores), values, line, color=f"C{number}", label=label)
            print(
                f"{name}, {photograph}:",
                *(f"{k}: {v:.2f}" for k, v in zip(drift.scores, values, strict=True)),
            )
        chart.axvline(drift.own, color=f"C{number}", linestyle=":", linewidth=1)
        for axis, (count, part) in zip(columns[2 * number :], drift.parts.items(), strict=False):
            axis.imshow(part.numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"{name}, {count}: {drift.scores[count][0]:.1f} dB", fontsize=9)
            axis.set_axis_off()
    chart.set(xscale="log", xlabel="iterations of T", ylabel="PSNR (dB)")
    chart.grid(alpha=0.3)
    chart.legend(loc="lower left")
    figure.savefig(Path(sys.argv[1]), dpi=110)


if __name__ == "__main__":
    try:
        main()
    except BmoError as error:
        sys.exit(f"drift: {error}")
