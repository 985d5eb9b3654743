"""Training jobs of a sweep: what is done is not done again, and nothing stops the other jobs.

Every job has a process of its own, so that one which is killed, leaks memory or crashes in native
code ends alone. Whichever launcher runs the jobs, and on whichever machine, they go through here;
several at a time go through `beside`.
"""

from __future__ import annotations

import logging
import logging.config
import os
import signal
from collections.abc import Mapping
from typing import Any

import torch

from bmo_cli.errors import Interrupted, Killed
from bmo_cli.experiment.signals import StopRequest
from bmo_cli.jobs.elastic import train_on_devices
from bmo_cli.jobs.status import goes_on, is_done, is_of_other_code, set_aside
from bmo_cli.jobs.worker import Worker
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.training.run import train

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
        RunLocked: another process trains there.
        Interrupted: this process was asked to stop; the run is saved.
        Killed: its process was.
        Exception: what `train` raises.
    """
    config, done = prepared(config, folder)
    if done is not None:
        log.info("done before: %s", folder.path)
        return done
    if config["train"].get("devices", 1) > 1:
        return train_on_devices(config, names, folder, logging_config, None, lambda: None)
    with StopRequest() as stop:  # from before there is a process to be stopped
        worker = Worker(
            train_job, config, names, folder.path, logging_config, threads=torch.get_num_threads()
        )
        asked, parent = False, os.getppid()
        try:
            while not worker.ended(timeout=0.2):
                if os.getppid() != parent and stop.signal is None:
                    stop.signal = signal.SIGTERM  # a worker whose launcher is gone
                if stop.signal is not None and not asked:
                    worker.stop()
                    asked = True
        except KeyboardInterrupt:  # a second Ctrl-C
            worker.kill()
            raise
        except BaseException:  # a launcher leaves, as submitit to put the job back into the queue
            worker.stop()
            worker.ended(timeout=_SAVING)
            raise
    try:
        result: dict[str, Any] = worker.outcome()
    except (Interrupted, Killed) as error:
        if stop.signal is None:
            raise
        said = str(error) if isinstance(error, Interrupted) else "stopped before it could be saved"
        raise Interrupted(said, exit_code=stop.exit_code) from error
    if stop.signal is not None:
        raise Interrupted(f"stopped; {folder.path} is done", exit_code=stop.exit_code)
    return result


def prepared(
    config: Mapping[str, Any], folder: RunFolder
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The configuration with which a job begins or goes on, and its result where it is done.

    Raises:
        RunLocked: another process trains there.
    """
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


def train_job(
    config: dict[str, Any], names: dict[str, str | None], path: Any, logging_config: dict[str, Any]
) -> dict[str, Any]:
    """What a job's process does; returns the content of result.json."""
    logging.config.dictConfig(logging_config)
    folder = RunFolder(path)
    result = train(config, names, folder)
    folder.write_result(result)
    return result
