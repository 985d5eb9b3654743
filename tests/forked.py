"""`bmo` in a process of its own, without the seconds that importing torch takes.

A server process that has imported everything once forks one process for every command. The server
of the workers that such a command starts is forked from it as well, instead of being executed;
tests/jobs/test_child.py and tests/test_wheel.py have servers that are executed.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing import util
from pathlib import Path

from matplotlib.figure import Figure

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
    util.spawnv_passfds = _fork_server
    Figure.set_layout_engine = _set_no_layout_engine
    from bmo_cli.cli import main
    from bmo_cli.jobs.worker import unblock_stop_signals

    unblock_stop_signals()  # a server that a test of workers has started blocks them
    main()


_set_layout_engine = Figure.set_layout_engine


def _set_no_layout_engine(figure, layout=None, **options):
    """Half of the time of a tiny run goes into arranging its curves; nobody looks at them."""
    _set_layout_engine(figure, "none")


_execute = util.spawnv_passfds


def _fork_server(path, words, kept):
    """As `util.spawnv_passfds`, for the server of workers; what else it executes is executed."""
    code = words[-1]
    if isinstance(code, bytes) or "forkserver" not in code:
        return _execute(path, words, kept)
    pid = os.fork()
    if pid == 0:
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            _close_all_but({0, 1, 2, *kept})
            exec(code, {})
        finally:
            os._exit(0)
    return pid


def _close_all_but(kept):
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in kept:
            with suppress(OSError):
                os.close(int(entry.name))
