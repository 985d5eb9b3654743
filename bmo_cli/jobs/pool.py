"""The job pool: jobs of a sweep or cells of a table, some at a time, each in a worker."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

from bmo_cli.errors import Interrupted
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.jobs.worker import Worker

Key = TypeVar("Key")

_SAVE_TIMEOUT = 100.0
"""Seconds that a job has to write its checkpoint; with hydra/launcher=slurm Slurm kills at 120."""


@dataclass(frozen=True)
class _Running(Generic[Key]):
    key: Key
    worker: Worker
    place: int


class JobPool(Generic[Key]):
    """Jobs of this process that run at the same time.

    Each job has its share of the cores, or a GPU of its own where there are several. The pool
    forwards a request to stop this process to every job, and waits until all have a checkpoint. A
    second Ctrl-C kills them. As a context, the pool handles such requests between its calls, too.

    Args:
        size: jobs at a time.
        on_end: called with the key and the worker of every job that has ended; an exception in it
            stops the other jobs.
        stop_with_parent: whether the end of this process's parent is a request to stop, as for a
            process of a launcher.
    """

    def __init__(
        self, size: int, on_end: Callable[[Key, Worker], None], *, stop_with_parent: bool = False
    ) -> None:
        self.size = size
        self._on_end, self._parent = on_end, os.getppid() if stop_with_parent else None
        self._running: list[_Running[Key]] = []
        self._stop, self._listens = StopRequest(), False

    def __enter__(self) -> JobPool[Key]:
        atexit.register(self._stop_all)  # else Python would wait for running jobs when it exits
        self._stop.__enter__()
        self._listens = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listens = False
        self._stop.__exit__(kind, error, trace)
        if not self._running:
            atexit.unregister(self._stop_all)

    def add(
        self, key: Key, function: Callable[..., Any], *arguments: Any, device: str = "cpu"
    ) -> None:
        """Start a job as soon as fewer than `size` jobs run.

        Args:
            key: of the job, for `on_end`.
            function: a function of a module.
            arguments: plain data.
            device: `device` of the configuration.

        Raises:
            NotStarted: the system refused to start another process.
            Interrupted: this process received a request to stop; every job that ran has a
                checkpoint.
        """
        self.wait_for_place()
        with self._listening():
            place = min(set(range(self.size)) - {job.place for job in self._running})
            worker = Worker(
                function,
                *arguments,
                threads=max(1, torch.get_num_threads() // self.size),
                environment=assign_device(device, place) if self.size > 1 else {},
            )
            self._running.append(_Running(key, worker, place))

    def wait_for_place(self) -> None:
        """Wait until fewer than `size` jobs run.

        Raises:
            Interrupted: see `add`.
        """
        with self._listening():
            self._wait_until_fewer_than(self.size)

    def finish(self) -> None:
        """Wait for all jobs.

        Raises:
            Interrupted: see `add`.
        """
        with self._listening():
            self._wait_until_fewer_than(1)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if self._listens:
            yield
            return
        with self:
            yield

    def _wait_until_fewer_than(self, count: int) -> None:
        try:
            while len(self._running) >= count and not self.stopping:
                self._collect_ended()
            if not self.stopping:
                return
            self._stop_all()
            while self._running:
                self._collect_ended()
        except KeyboardInterrupt:  # a second Ctrl-C
            for job in self._running:
                job.worker.kill()
            raise
        except BaseException:  # raised by `on_end`, or by submitit when it requeues this job
            self._stop_all()
            for job in self._running:
                job.worker.has_ended(timeout=_SAVE_TIMEOUT)
            raise
        raise Interrupted("stopped; what was in progress is saved", exit_code=self.exit_code)

    @property
    def exit_code(self) -> int:
        """Exit code of a process that received a request to stop."""
        return self._stop.exit_code

    @property
    def stopping(self) -> bool:
        """Whether this process received a request to stop."""
        if self._parent not in (None, os.getppid()) and self._stop.signal is None:
            self._stop.signal = signal.SIGTERM
        return self._stop.signal is not None

    def _collect_ended(self) -> None:
        """Wait for a moment, then call `on_end` for the jobs that have ended."""
        wait([job.worker.channel for job in self._running], timeout=0.2)
        for job in [job for job in self._running if job.worker.has_ended()]:
            self._running.remove(job)
            self._on_end(job.key, job.worker)

    def _stop_all(self) -> None:
        for job in self._running:
            job.worker.stop()  # it writes a checkpoint


def assign_device(device: str, place: int) -> dict[str, str]:
    """Environment variables with which a job sees one GPU, where there are several.

    Args:
        device: `device` of the configuration; `cuda:N` is not changed.
        place: number of the job among those that run at the same time.
    """
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count < 2:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(i) for i in range(count)]
    return {"CUDA_VISIBLE_DEVICES": visible[place % count]}
