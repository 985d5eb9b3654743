"""Training jobs of a sweep: what is done is not done again, and nothing stops the other jobs.

Every job has a process of its own, so that one which is killed, leaks memory or crashes in native
code ends alone. Whichever launcher runs the jobs, and on whichever machine, they go through here;
`jobs=N` lets N of them run at the same time in this process's care.
"""

from __future__ import annotations

import logging
import logging.config
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from bmo_cli.errors import BmoError, InputError, Interrupted, Killed, printable
from bmo_cli.experiment.child import Child
from bmo_cli.experiment.interrupt import StopRequest
from bmo_cli.experiment.parallel import train_on_devices
from bmo_cli.experiment.standing import goes_on, is_done, is_of_other_code, set_aside
from bmo_cli.experiment.train import train
from bmo_cli.results.run_folder import RunFolder

log = logging.getLogger("bmo")

_SAVING = 100.0
"""seconds in which a job can be saved; hydra/launcher=slurm has Slurm kill it after 120"""


def run_sweep_job(
    config: Mapping[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    logging_config: Mapping[str, Any],
) -> dict[str, Any]:
    """Train in a process of its own what this folder lacks.

    Args:
        config, names, folder: see `train`; the folder may hold an earlier attempt of this job.
        logging_config: of the process.

    Returns:
        The content of result.json.

    Raises:
        Busy: another process trains there.
        Interrupted: this process was asked to stop; the run is saved.
        Killed: its process was.
        Exception: what `train` raises.
    """
    config, done = _prepared(config, folder)
    if done is not None:
        log.info("done before: %s", folder.path)
        return done
    if config["train"].get("devices", 1) > 1:
        return train_on_devices(config, names, folder, logging_config, None, lambda: None)
    child = Child(
        _train, config, names, folder.path, logging_config, threads=torch.get_num_threads()
    )
    with StopRequest() as stop:
        asked, parent = False, os.getppid()
        try:
            while not child.ended(timeout=0.2):
                if os.getppid() != parent and stop.signal is None:
                    stop.signal = signal.SIGTERM  # a worker whose launcher is gone
                if stop.signal is not None and not asked:
                    child.stop()
                    asked = True
        except KeyboardInterrupt:  # a second Ctrl-C
            child.kill()
            raise
        except BaseException:  # a launcher leaves, as submitit to put the job back into the queue
            child.stop()
            child.ended(timeout=_SAVING)
            raise
    try:
        result: dict[str, Any] = child.outcome()
    except (Interrupted, Killed) as error:
        if stop.signal is None:
            raise
        said = str(error) if isinstance(error, Interrupted) else "stopped before it could be saved"
        raise Interrupted(said, exit_code=stop.exit_code) from error
    if stop.signal is not None:
        raise Interrupted(f"stopped; {folder.path} is done", exit_code=stop.exit_code)
    return result


def _prepared(
    config: Mapping[str, Any], folder: RunFolder
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The configuration with which a job begins or goes on, and its result where it is done."""
    with folder.claimed():
        before = folder.read_result()
        if is_done(before, config):
            return dict(config), before
        begun = goes_on(folder, config)
        if begun and is_of_other_code(folder):
            log.info("%s goes on with code that has changed since it stopped", folder.path)
        if not begun:
            set_aside(folder)
    return {**config, "resume": str(folder.path) if begun else None}, None


def _train(
    config: dict[str, Any], names: dict[str, str | None], path: Any, logging_config: dict[str, Any]
) -> dict[str, Any]:
    logging.config.dictConfig(logging_config)
    folder = RunFolder(path)
    result = train(config, names, folder)
    folder.write_result(result)
    return result


# --- some at a time -------------------------------------------------------------------------------

Record = Callable[[RunFolder, BaseException, Mapping[str, str | None]], None]
"""Leaves in a job's folder why it failed."""


@dataclass(frozen=True)
class _Running:
    child: Child
    names: Mapping[str, str | None]
    folder: RunFolder
    place: int


class Beside:
    """The jobs of this process's sweep that run at the same time; what they print is in run.log.

    Each has a share of the cores, or a GPU of its own as far as there are enough.

    Attributes:
        stopped: exit code of what stopped the sweep, 0 while nothing has.
    """

    def __init__(self) -> None:
        self._running: list[_Running] = []
        self._record: Record | None = None
        self.stopped = 0

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
        self._wait_until_fewer_than(config["jobs"])
        config, done = _prepared(config, folder)
        if done is not None:
            _say("done before", folder)
            return
        place = min(set(range(config["jobs"])) - {job.place for job in self._running})
        child = Child(
            _train_quietly,
            *(config, names, folder.path, dict(logging_config)),
            threads=max(1, torch.get_num_threads() // config["jobs"]),
            environment=own_device(config["device"], place),
        )
        self._running.append(_Running(child, names, folder, place))
        _say("started", folder)

    def finish(self) -> None:
        """Wait for all jobs.

        Raises:
            Interrupted: see `start`.
        """
        self._wait_until_fewer_than(1)

    def _wait_until_fewer_than(self, count: int) -> None:
        with StopRequest() as stop:
            try:
                while len(self._running) >= count and stop.signal is None:
                    wait([job.child.channel for job in self._running], timeout=0.5)
                    self._collect()
            except BaseException:  # a second Ctrl-C
                for job in self._running:
                    job.child.kill()
                raise
            if stop.signal is None:
                return
            for job in self._running:
                job.child.stop()
            while self._running:
                time.sleep(0.1)
                self._collect()
        self.stopped = stop.exit_code
        raise Interrupted("stopped; what was in progress is saved", exit_code=self.stopped)

    def _collect(self) -> None:
        for job in [job for job in self._running if job.child.ended()]:
            self._running.remove(job)
            try:
                job.child.outcome()
            except Exception as error:
                assert self._record is not None
                self._record(job.folder, error, job.names)
                known = isinstance(error, BmoError)
                _say(f"failed ({error if known else type(error).__name__})", job.folder)
            else:
                _say("done", job.folder)


beside = Beside()


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
    if not sweeper.endswith(".BasicSweeper"):
        raise InputError(f"jobs={jobs}: this sweeper learns from every job; use jobs=1")
    if config["train"].get("devices", 1) > 1:
        raise InputError(f"jobs={jobs}: with train.devices a job has several devices; use jobs=1")


def _train_quietly(
    config: dict[str, Any],
    names: dict[str, str | None],
    path: Path,
    logging_config: dict[str, Any],
) -> dict[str, Any]:
    """As `_train`, where several processes share a terminal."""
    with (path / "run.log").open("a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())  # progress bars, and what crashes say
    root = logging_config["root"]
    handlers = [name for name in root["handlers"] if name != "console"]
    return _train(config, names, path, {**logging_config, "root": {**root, "handlers": handlers}})


def _say(what: str, folder: RunFolder) -> None:
    """A line on the terminal; the log is that of the job that was started last."""
    place = folder.path
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    try:
        print(printable(f"{what}: {shown}"), flush=True)
    except OSError:  # nobody reads
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
