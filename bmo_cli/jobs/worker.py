"""A function in a process of its own: what it does to its process ends with it.

A server process, started with the first worker, imports torch once and forks every worker: a job
starts in milliseconds instead of seconds. The server itself computes nothing and starts no thread.

A worker stops with the process that started it, is stopped by it alone (Ctrl-C reaches both, but is
for the parent, which passes it on once, as SIGTERM), and what goes wrong in it is told.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import torch

from bmo_cli.errors import Killed, NotStarted, deserialize_error, serialize_error
from bmo_cli.jobs.allocator import keep_freed_memory

_PRELOADED = [
    "bmo_cli.training.run",
    "torch._dynamo",  # which torch imports with its first optimiser
    "matplotlib.backends.backend_agg",
]
"""modules that the server imports once for all workers"""
_STOPS = {signal.SIGTERM, signal.SIGUSR1}
_EXIT_TIMEOUT = 60.0
"""seconds that a process has to end after its last word"""


class Worker:
    """Starts `function(*arguments)`.

    Args:
        function: of a module, by whose name the process finds it.
        arguments: plain data.
        threads: of torch there.
        environment: variables that it has beside those of this process.

    Raises:
        NotStarted: the system does not allow another process.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._receiver, sender = context.Pipe(duplex=False)
        call = (function, arguments, threads, dict(environment or {}), sender)
        self._process = context.Process(target=_run_worker, args=call)
        try:
            with _ignore_interrupts(), _block_stop_signals(), _use_forkserver():
                self._process.start()
        except (OSError, EOFError) as error:
            self._receiver.close()
            why = getattr(error, "strerror", None) or error
            raise NotStarted(
                f"no process can be started ({why}); use fewer jobs, or raise the limit of "
                "processes or of memory"
            ) from error
        finally:
            sender.close()
        self._message: tuple[bool, Any] | None = None

    @property
    def channel(self) -> Connection:
        """Becomes readable when the function has ended, for `multiprocessing.connection.wait`."""
        return self._receiver

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Whether it has ended, after waiting for at most `timeout` seconds."""
        if self._message is None and (self._receiver.poll(timeout) or not self._process.is_alive()):
            # A process that it forked may hold the channel open: its own end counts as well.
            self._message = self._receive() or (False, None)
            self._process.join(_EXIT_TIMEOUT)
            if self._process.is_alive():  # what it had to say is said; a thread of it hangs
                self._process.kill()
                self._process.join()
            self._receiver.close()
        return self._message is not None

    def _receive(self) -> tuple[bool, Any] | None:
        """What it has said; None: nothing, or it was killed while it spoke."""
        try:
            said: tuple[bool, Any] | None = self._receiver.recv() if self._receiver.poll() else None
            return said
        except (EOFError, OSError):
            return None
        except Exception as error:  # of a value that only that process can build
            return False, serialize_error(error)

    def stop(self) -> None:
        """Ask it to stop, by SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def outcome(self) -> Any:
        """What the function returned.

        Raises:
            Killed: the process is gone without a word.
            Exception: what the function raised, see `errors.deserialize_error`.
        """
        while not self.has_ended(timeout=1):
            pass
        assert self._message is not None
        good, content = self._message
        if good:
            return content
        code = self._process.exitcode
        raise Killed.with_code(code) if content is None else deserialize_error(content)


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Context in which SIGINT is ignored, which a process inherits from its first instant on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _block_stop_signals() -> Iterator[None]:
    """Context in which requests to stop wait, also in processes that are started in it.

    The server never takes one: what signals a whole process group would end it, and with it all
    news of the workers. A worker takes one as soon as it runs.
    """
    resource_tracker.ensure_running()  # which would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _use_forkserver() -> Iterator[None]:
    """Context in which the server is the default: a new process takes over the default by name, and
    joblib's workers have one that it does not know."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


def _run_worker(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    threads: int,
    environment: Mapping[str, str],
    sender: Connection,
) -> None:
    """The whole life of the process."""
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    logging.raiseExceptions = False
    keep_freed_memory()
    torch.set_num_threads(threads)
    said: tuple[bool, Any]
    try:
        said = True, function(*arguments)
    except BaseException as error:
        said = False, serialize_error(error)
    with suppress(BrokenPipeError):  # nobody is there to hear of it
        _send(sender, said)
    sender.close()


def _send(sender: Connection, said: tuple[bool, Any]) -> None:
    try:
        sender.send(said)
    except BrokenPipeError:
        raise
    except Exception as error:  # a value that cannot be pickled
        sender.send((False, serialize_error(error)))


def _stop_with_parent() -> None:
    """Nobody else would know that it works on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
