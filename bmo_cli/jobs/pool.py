"""Some jobs of a sweep at a time, `jobs=N`, in the care of the process that sweeps.

Hydra's own launcher runs jobs in turn: one that is started here lets it go on to the next, as long
as there is a place for it.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from bmo_cli.errors import BmoError, InputError, Interrupted, printable
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.jobs.sweep_job import prepared, train_job
from bmo_cli.jobs.worker import Worker
from bmo_cli.results.run_folder import RunFolder

Record = Callable[[RunFolder, BaseException, Mapping[str, str | None]], None]
"""Leaves in a job's folder why it failed."""


@dataclass(frozen=True)
class _Running:
    worker: Worker
    names: Mapping[str, str | None]
    folder: RunFolder
    place: int


class JobPool:
    """The jobs of this process's sweep that run at the same time; what they print is in run.log.

    Each has a share of the cores, or a GPU of its own as far as there are enough.

    Attributes:
        stopped: exit code of what stopped the sweep, 0 while nothing has.
    """

    def __init__(self) -> None:
        self._running: list[_Running] = []
        self._record: Record | None = None
        self.stopped = 0
        atexit.register(self._leave)  # where Python would wait for the jobs that still run

    def start(
        self,
        config: Mapping[str, Any],
        names: Mapping[str, str | None],
        folder: RunFolder,
        logging_config: Mapping[str, Any],
        record: Record,
    ) -> None:
        """Start a job as soon as there is a place for it.

        Args:
            config, names, folder, logging_config: see `run_sweep_job`.
            record: for jobs that fail.

        Raises:
            Interrupted: this process was asked to stop; every job that ran is saved.
        """
        self._record = record
        with self._stoppable() as stop:
            self._wait_until_fewer_than(config["jobs"], stop)
            if stop.signal is None:
                self._begin(config, names, folder, logging_config)

    def finish(self) -> None:
        """Wait for all jobs.

        Raises:
            Interrupted: see `start`.
        """
        with self._stoppable() as stop:
            self._wait_until_fewer_than(1, stop)

    def _begin(
        self,
        config: Mapping[str, Any],
        names: Mapping[str, str | None],
        folder: RunFolder,
        logging_config: Mapping[str, Any],
    ) -> None:
        config, done = prepared(config, folder)
        if done is not None:
            _say("done before", folder)
            return
        place = min(set(range(config["jobs"])) - {job.place for job in self._running})
        worker = Worker(
            _train_quietly,
            *(config, names, folder.path, dict(logging_config)),
            threads=max(1, torch.get_num_threads() // config["jobs"]),
            environment=own_device(config["device"], place),
        )
        self._running.append(_Running(worker, names, folder, place))
        _say("started", folder)

    def _leave(self) -> None:
        for job in self._running:
            job.worker.stop()  # each is saved

    @contextmanager
    def _stoppable(self) -> Iterator[StopRequest]:
        """Context in which a request to stop reaches every job; it ends when they are saved."""
        with StopRequest() as stop:
            try:
                yield stop
                if stop.signal is None:
                    return
                self._leave()
                while self._running:
                    time.sleep(0.1)
                    self._collect()
            except KeyboardInterrupt:  # a second Ctrl-C
                for job in self._running:
                    job.worker.kill()
                raise
        self.stopped = stop.exit_code
        raise Interrupted("stopped; what was in progress is saved", exit_code=self.stopped)

    def _wait_until_fewer_than(self, count: int, stop: StopRequest) -> None:
        while len(self._running) >= count and stop.signal is None:
            wait([job.worker.channel for job in self._running], timeout=0.5)
            self._collect()

    def _collect(self) -> None:
        for job in [job for job in self._running if job.worker.ended()]:
            self._running.remove(job)
            try:
                job.worker.outcome()
            except Exception as error:
                assert self._record is not None
                self._record(job.folder, error, job.names)
                known = isinstance(error, BmoError)
                _say(f"failed ({error if known else type(error).__name__})", job.folder)
            else:
                _say("done", job.folder)


job_pool = JobPool()


def own_device(device: str, place: int) -> dict[str, str]:
    """Environment in which a job sees one GPU alone, where there are several.

    Args:
        device: as the configuration has it; `cuda:N` is somebody's own choice.
        place: number of the job among those that run at the same time.
    """
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count < 2:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(i) for i in range(count)]
    return {"CUDA_VISIBLE_DEVICES": visible[place % count]}


def require_places(config: Mapping[str, Any], launcher: str, sweeper: str) -> None:
    """Refuse jobs at the same time where something else decides when they run.

    Args:
        config: of a job.
        launcher, sweeper: classes that Hydra uses.

    Raises:
        InputError: as said.
    """
    jobs = config["jobs"]
    if not launcher.endswith(".BasicLauncher"):
        raise InputError(
            f"jobs={jobs} is for sweeps without a launcher; the chosen one has keys of its own "
            "(hydra.launcher.n_jobs, hydra.launcher.array_parallelism)"
        )
    if not sweeper.endswith((".BasicSweeper", ".bmo_search.Search")):
        raise InputError(f"jobs={jobs}: this sweeper learns from every job; use jobs=1")
    if config["train"].get("devices", 1) > 1:
        raise InputError(f"jobs={jobs}: with train.devices a job has several devices; use jobs=1")


def _train_quietly(
    config: dict[str, Any],
    names: dict[str, str | None],
    path: Path,
    logging_config: dict[str, Any],
) -> dict[str, Any]:
    """As `train_job`, where several processes share a terminal."""
    with (path / "run.log").open("a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())  # progress bars, and what crashes say
    root = logging_config["root"]
    handlers = [name for name in root["handlers"] if name != "console"]
    return train_job(
        config, names, path, {**logging_config, "root": {**root, "handlers": handlers}}
    )


def _say(what: str, folder: RunFolder) -> None:
    """A line on the terminal; the log is that of the job that was started last."""
    place = folder.path
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    with suppress(OSError):  # nobody reads, and the jobs go on
        print(printable(f"{what}: {shown}"), flush=True)
