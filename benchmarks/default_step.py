"""A training step of the certified default against that of the unconstrained network.

Each works on the first batch of its own size, in one thread, and all take turns. The last one has
the batch size of the unconstrained network. Time is the median of the ratios of the
turns with its quartiles, memory what the graph keeps for the backward pass.

usage: python benchmarks/default_step.py [TURNS]
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.experiment.build import build
from bmo_cli.jobs.allocator import keep_freed_memory
from bmo_cli.solver.cost import SavedBytes

RIVALS = {
    "net=dncnn hyper=bmo": ["net=dncnn", "hyper=bmo"],
    "default": [],
    "default, train.batch=8": ["train.batch=8"],
}


def training_step(words: list[str]) -> Callable[[], None]:
    """The hyper-gradient of a batch of the default data."""
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        config = compose("train", ["task=deconv", "device=cpu", *words])
    checked = check_config(OmegaConf.to_container(config, resolve=True), "train")
    experiment = build(checked)
    experiment.task.prepare(("train",))
    sample = next(iter(experiment.task.samples(range(1), checked.train.batch)))

    def step() -> None:
        experiment.hyper.objective(
            experiment.scheme, sample, checked.train.iterations
        ).objective.backward()

    return step


def main() -> None:
    """Measure and print."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    keep_freed_memory()
    torch.set_num_threads(1)
    steps = {name: training_step(words) for name, words in RIVALS.items()}
    kept = {}
    for name, step in steps.items():
        with SavedBytes() as saved:
            step()
        kept[name] = saved.total
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    first = next(iter(steps))
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[first], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name}: {statistics.median(times):.3f} s, {middle:.2f} [{low:.2f}, {high:.2f}] of "
            f"the first; the graph keeps {kept[name] / 2**20:.0f} MiB"
        )


if __name__ == "__main__":
    main()
