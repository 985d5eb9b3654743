"""`train.devices=N`: one process a device, started by torch's elastic launcher inside the job.

The launcher watches the processes and ends all of them when one fails. Each process reports its
error, an input error as well as a traceback, in a file of its own. The earliest report is the
cause. A killed process leaves no report, and the other processes lose their connection.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import logging.config
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bmo_cli.config.schema import Config
from bmo_cli.errors import InputError, Interrupted, Killed, deserialize_error, serialize_error
from bmo_cli.jobs.allocator import keep_freed_memory
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import Run, TrainSpec
from bmo_cli.training.distributed import DistributedGroup
from bmo_cli.training.run import assist, train

log = logging.getLogger("bmo")

_TIMEOUT = timedelta(days=1)  # the other processes wait while the first one validates


@dataclass(frozen=True)
class ProcessOrder:
    """Arguments of every process, as data that can be pickled.

    Attributes:
        spec: of the run.
        exchange: folder for error reports.
        threads: number of threads of each process on a CPU.
    """

    spec: TrainSpec
    exchange: Path
    threads: int


def train_on_devices(run: Run[Config]) -> RunResult:
    """Train a run on `train.devices` devices of this machine.

    Args:
        run: prepared. Afterwards it has the state that the first process reached, also on failure.

    Returns:
        The content of result.json.

    Raises:
        InputError: there are fewer devices.
        BmoError, RuntimeError: the error of the process that failed first.
    """
    from torch.distributed.launcher.api import elastic_launch

    count = run.config.train.devices
    _require_devices(run.config.device, count)
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the error below names the cause
    launch = elastic_launch(_build_launch_config(run.spec.path.name, count), _run_process)
    with tempfile.TemporaryDirectory(prefix="bmo-") as exchange:
        order = ProcessOrder(run.spec, Path(exchange), max(1, torch.get_num_threads() // count))
        try:
            result = _launch(launch, order)
        except BaseException:
            if _first_process_started(order):
                run.state = "started"
            raise
    run.state = "finished"
    return result


def _launch(launch: Any, order: ProcessOrder) -> RunResult:
    """Run the processes; the result of the first one."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        results: dict[int, RunResult] = launch(order)
    except (ChildFailedError, SignalException) as failure:
        if isinstance(failure, SignalException):
            stopped = Interrupted("stopped", exit_code=128 + int(failure.sigval))
            error = _first_error(order.exchange) or stopped
        else:
            codes = {rank: process.exitcode for rank, process in failure.failures.items()}
            error = _find_cause(order.exchange, order.spec.config.train.devices, codes)
        raise error from error.__cause__
    if 0 not in results:  # it ended with code 0 and without a result
        raise Killed.with_code(0, "process 0")
    return results[0]


def _build_launch_config(name: str, count: int) -> Any:
    """The launch configuration for `count` processes on this machine, without restarts."""
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=_TIMEOUT.days * 86400,  # a step or a validation may take its time
    )


def _first_process_started(order: ProcessOrder) -> bool:
    """Whether the first process changed the run folder before a process failed.

    Its report states that. A killed process leaves no report, but a result with status `running`.
    """
    reports = [entry for entry in _read_reports(order.exchange) if entry["rank"] == 0]
    if reports:
        return bool(reports[0]["state"] != "prepared")
    try:
        result = order.spec.folder.read_result()
    except InputError:  # damaged; the message is about the failed process
        return False
    return result is not None and result.status == "running"


def _require_devices(device: str, count: int) -> None:
    """Refuse more processes than devices."""
    if device == "mps":
        raise InputError(f"train.devices={count} works on CUDA devices and processors, not on mps")
    if ":" in device:
        raise InputError(
            f"train.devices={count} takes devices 0 to {count - 1}; use device=cuda, not {device}"
        )
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    there = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    if count > there:
        kind = "CUDA devices" if cuda else "processors"
        raise InputError(f"train.devices={count}, but there are {there} {kind}")


def _run_process(order: ProcessOrder) -> RunResult | None:
    """The main function of each process."""
    rank = int(os.environ["LOCAL_RANK"])
    # A crash in native code writes its stack to this file, from which the log of the run gets it.
    faulthandler.enable((order.exchange / f"{rank}.crash").open("w"))
    run = Run(order.spec)
    try:
        result = _train_in_group(run, rank, order.threads)
    except BaseException as error:
        _write_report(order.exchange, rank, run, error)
        logging.shutdown()
        if _follows_from_lost_process(type(error).__name__, str(error)):
            time.sleep(_EXIT_DELAY)
        os._exit(1)  # the group cannot be destroyed cleanly once other processes have ended
    dist.destroy_process_group()
    return result


_EXIT_DELAY = 1.0
"""Seconds after which the launcher knows the exit code of the process that was lost."""


def _follows_from_lost_process(kind: str, message: str) -> bool:
    """Whether an error is a consequence of the end of another process."""
    lost = kind in ("RuntimeError", "DistBackendError", "DistNetworkError")
    return lost and any(word in message for word in ("gloo", "NCCL", "Connection"))


def _train_in_group(run: Run[Config], rank: int, threads: int) -> RunResult | None:
    keep_freed_memory()
    if rank == 0:
        logging.config.dictConfig(dict(run.spec.logging))
    else:
        logging.disable(logging.ERROR)
    cuda = run.config.device != "cpu" and torch.cuda.is_available()
    device = torch.device(f"cuda:{rank}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    process_group = DistributedGroup(device)
    run.spec = replace(run.spec, config=replace(run.config, device=str(device)))
    if process_group.first:
        return train(run, process_group)
    assist(run.spec, process_group)
    return None


def _write_report(exchange: Path, rank: int, run: Run[Config], error: BaseException) -> None:
    """Write an error report for the process that launched this one."""
    entry = {"time": time.time(), "rank": rank, "state": run.state, **serialize_error(error)}
    partial = exchange / f"{rank}.partial"
    partial.write_text(json.dumps(entry), encoding="utf-8")
    partial.rename(exchange / f"{rank}.json")


_STOPPED = ("Interrupted", "KeyboardInterrupt")


def _first_error(exchange: Path) -> Exception | None:
    """The earliest reported error. Interruptions come first: every process reports the same one."""
    reports = _read_reports(exchange)
    if not reports:
        return None
    entry = min(reports, key=lambda report: (report["kind"] not in _STOPPED, report["time"]))
    return deserialize_error(entry, f"process {entry['rank']}: ")


def _find_cause(exchange: Path, count: int, codes: Mapping[int, int]) -> Exception:
    """Why processes failed: the error of a process, or a process that left no report.

    Args:
        exchange: folder of the reports.
        count: number of processes.
        codes: exit codes of the processes that the launcher saw fail, by rank.
    """
    reports = _read_reports(exchange)
    silent = sorted(set(range(count)) - {report["rank"] for report in reports})
    own = [
        report
        for report in reports
        if not _follows_from_lost_process(report["kind"], report["message"])
    ]
    if silent and all(report["kind"] in _STOPPED for report in own):
        rank = next((rank for rank in silent if rank in codes), silent[0])
        return _killed_error(exchange, rank, codes.get(rank))
    error = _first_error(exchange)
    assert error is not None
    return error


def _killed_error(exchange: Path, rank: int, code: int | None) -> Killed:
    """The error of a process that left no report. After a crash its cause holds the stack."""
    error, stack = Killed.with_code(code, f"process {rank}"), exchange / f"{rank}.crash"
    if stack.is_file() and stack.stat().st_size:
        error.__cause__ = RuntimeError(stack.read_text(errors="replace"))
    return error


def _read_reports(exchange: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in exchange.glob("*.json")]
