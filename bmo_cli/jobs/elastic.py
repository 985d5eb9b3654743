"""`train.devices=N`: one process a device, started by torch's elastic launcher inside the job.

The launcher watches the processes and ends all where one fails. What a process has to say, a
mistake of the user as well as a traceback, comes back through a file of its own; that of the first
to fail is the cause. A process that is killed leaves none, and the others lose their connection.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import logging.config
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bmo_cli.errors import InputError, Interrupted, Killed, deserialize_error, serialize_error
from bmo_cli.jobs.allocator import keep_freed_memory
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.training.distributed import DistributedGroup
from bmo_cli.training.run import assist, train

log = logging.getLogger("bmo")

_PATIENCE = timedelta(days=1)  # others wait while the first process validates


@dataclass(frozen=True)
class Order:
    """What every process is told; plain data, since it travels.

    Attributes:
        config, names, folder: see `train`.
        logging: configuration of the first process's log.
        snapshot: written into the folder once everything is checked; None: there is one.
        exchange: folder for what goes wrong.
        threads: of each process on a CPU.
    """

    config: dict[str, Any]
    names: dict[str, str | None]
    folder: Path
    logging: dict[str, Any]
    snapshot: str | None
    exchange: Path
    threads: int


def train_on_devices(
    config: Mapping[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    logging_config: Mapping[str, Any],
    snapshot: str | None,
    begin: Callable[[], None],
) -> dict[str, Any]:
    """Run one experiment on `train.devices` devices of this machine.

    Args:
        config, names, folder, begin: see `train`; `begin` is called when the run is over.
        logging_config: of the first process's log.
        snapshot: what `begin` would write, since the first process has to do it.

    Returns:
        The content of result.json.

    Raises:
        InputError: there are fewer devices.
        BmoError, RuntimeError: what went wrong in the process that failed first.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count = config["train"]["devices"]
    _require_devices(config["device"], count)
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the cause is said in one line, below
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=folder.path.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=_PATIENCE.days * 86400,  # a step or a validation may take its time
    )
    with tempfile.TemporaryDirectory(prefix="bmo-") as exchange:
        order = Order(
            dict(config),
            dict(names),
            folder.path,
            dict(logging_config),
            snapshot,
            Path(exchange),
            max(1, torch.get_num_threads() // count),
        )
        try:
            results: dict[int, dict[str, Any]] = elastic_launch(launch, _process)(order)
        except (ChildFailedError, SignalException) as failure:
            if isinstance(failure, SignalException):
                stopped = Interrupted("stopped", exit_code=128 + int(failure.sigval))
                error = _first_error(order.exchange) or stopped
            else:
                codes = {rank: one.exitcode for rank, one in failure.failures.items()}
                error = _cause(order.exchange, count, codes)
            raise error from error.__cause__
        finally:
            if (order.exchange / "begun").exists():
                begin()
    if 0 not in results:  # it is gone as if it had done its work
        raise Killed.with_code(0, "process 0")
    return results[0]


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


def _process(order: Order) -> dict[str, Any] | None:
    """One of the processes."""
    rank = int(os.environ["LOCAL_RANK"])
    # torch lets a crash in native code print its stack; it belongs into the log of the run
    faulthandler.enable((order.exchange / f"{rank}.crash").open("w"))
    try:
        result = _train(order, rank)
    except BaseException as error:
        _report(order.exchange, rank, error)
        logging.shutdown()
        if _lost_another(type(error).__name__, str(error)):
            time.sleep(_AFTER_ANOTHER)
        os._exit(1)  # a group whose other processes are gone cannot be taken down in order
    dist.destroy_process_group()
    return result


_AFTER_ANOTHER = 1.0
"""seconds in which the launcher finds out that another process ended, and with which code"""


def _lost_another(kind: str, message: str) -> bool:
    """Whether an error follows from the end of another process."""
    lost = kind in ("RuntimeError", "DistBackendError", "DistNetworkError")
    return lost and any(word in message for word in ("gloo", "NCCL", "Connection"))


def _train(order: Order, rank: int) -> dict[str, Any] | None:
    keep_freed_memory()
    if rank == 0:
        logging.config.dictConfig(order.logging)
    else:
        logging.disable(logging.ERROR)
    cuda = order.config["device"] != "cpu" and torch.cuda.is_available()
    device = torch.device(f"cuda:{rank}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(order.threads)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    folder, process_group = RunFolder(order.folder), DistributedGroup(device)
    config = {**order.config, "device": str(device)}
    if not process_group.first:
        assist(config, folder, process_group)
        return None

    def begin() -> None:
        (order.exchange / "begun").touch()
        folder.write_snapshot(order.snapshot)

    return train(config, order.names, folder, begin, process_group)


def _report(exchange: Path, rank: int, error: BaseException) -> None:
    """Leave what went wrong for the process that launched this one."""
    entry = {"time": time.time(), "rank": rank, **serialize_error(error)}
    partial = exchange / f"{rank}.partial"
    partial.write_text(json.dumps(entry), encoding="utf-8")
    partial.rename(exchange / f"{rank}.json")


_STOPPED = ("Interrupted", "KeyboardInterrupt")


def _first_error(exchange: Path) -> Exception | None:
    """What went wrong first; an interruption is the same one everywhere."""
    found = _reports(exchange)
    if not found:
        return None
    entry = min(found, key=lambda one: (one["kind"] not in _STOPPED, one["time"]))
    return deserialize_error(entry, f"process {entry['rank']}: ")


def _cause(exchange: Path, count: int, codes: Mapping[int, int]) -> Exception:
    """Why processes failed: an error of one, or one that is gone without a word.

    Args:
        exchange: folder of what they reported.
        count: of processes.
        codes: with which those ended that the launcher saw failing, by rank.
    """
    found = _reports(exchange)
    silent = sorted(set(range(count)) - {one["rank"] for one in found})
    own = [one for one in found if not _lost_another(one["kind"], one["message"])]
    if silent and all(one["kind"] in _STOPPED for one in own):
        rank = next((rank for rank in silent if rank in codes), silent[0])
        return _killed(exchange, rank, codes.get(rank))
    error = _first_error(exchange)
    assert error is not None
    return error


def _killed(exchange: Path, rank: int, code: int | None) -> Killed:
    """The error of a process that is gone; where it crashed, with its stack as the cause."""
    error, stack = Killed.with_code(code, f"process {rank}"), exchange / f"{rank}.crash"
    if stack.is_file() and stack.stat().st_size:
        error.__cause__ = RuntimeError(stack.read_text(errors="replace"))
    return error


def _reports(exchange: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in exchange.glob("*.json")]
