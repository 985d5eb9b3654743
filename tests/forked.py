"""`bmo` in a process of its own, without the seconds that importing torch takes.

A server process that has imported everything once forks one process for every command.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "bmo_cli.cli",
        "bmo_cli.commands.dispatch",
        "bmo_cli.tables.make",
        "bmo_cli.tasks.deconvolution",
        "torch._dynamo",  # which the first optimiser imports: as long as a tiny run takes
        "hydra._internal.hydra",
        "matplotlib.backends.backend_agg",
        "optuna",
    ]
)


def run(words, cwd, timeout, environment):
    """As `subprocess.run([python, -m, bmo_cli, *words], capture_output=True, text=True)`."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the server inherits it with the first command
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("out", "err")]
        process = _CONTEXT.Process(target=_command, args=(words, cwd, environment, streams))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, timeout)
        out, err = (file.read_text() for file in streams)
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _command(words, cwd, environment, streams):
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(streams, 1):
        with file.open("wb") as stream:
            os.dup2(stream.fileno(), number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    sys.argv = ["bmo", *words]
    from bmo_cli.cli import main

    main()
