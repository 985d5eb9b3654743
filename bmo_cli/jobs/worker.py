"""Workers: a worker runs one function in a process of its own.

A server process, started with the first worker, imports torch once and forks every worker. A job
therefore starts in milliseconds instead of seconds. The server computes nothing and starts no
thread.

A worker stops when the process that started it ends. Only that process stops it: a worker ignores
Ctrl-C, and the parent forwards it once, as SIGTERM. An error in a worker is sent to the parent.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
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
"""Modules that the server imports once for all workers."""
_STOPS = {signal.SIGTERM, signal.SIGUSR1}
_EXIT_TIMEOUT = 60.0
"""Seconds that a process has to end after it has sent its result."""


class Worker:
    """Runs `function(*arguments)` in a process of its own.

    Args:
        function: a function of a module; the process imports it by name.
        arguments: plain data.
        threads: number of torch threads of the process.
        environment: variables that are added to those of this process.

    Raises:
        NotStarted: the system refused to start another process.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        multiprocessing.set_forkserver_preload(_PRELOADED)
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
        """Whether the worker has ended, after waiting for at most `timeout` seconds."""
        if self._message is None and (self._receiver.poll(timeout) or not self._process.is_alive()):
            # A process that it forked may keep the channel open, so that its own end counts, too.
            self._message = self._receive() or (False, None)
            self._process.join(_EXIT_TIMEOUT)
            if self._process.is_alive():  # its message is complete, and a thread of it hangs
                self._process.kill()
                self._process.join()
            self._receiver.close()
        return self._message is not None

    def _receive(self) -> tuple[bool, Any] | None:
        """The message of the worker; None: it sent none, or was killed while it sent one."""
        try:
            message: tuple[bool, Any] | None = None
            if self._receiver.poll():
                message = self._receiver.recv()
            return message
        except (EOFError, OSError):
            return None
        except Exception as error:  # the value cannot be unpickled in this process
            return False, serialize_error(error)

    def stop(self) -> None:
        """Request the worker to stop, by SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """End the worker at once, by SIGKILL."""
        self._process.kill()

    def outcome(self) -> Any:
        """The return value of the function.

        Raises:
            Killed: the process ended without a message.
            Exception: the error of the function, see `errors.deserialize_error`.
        """
        while not self.has_ended(timeout=1):
            pass
        assert self._message is not None
        succeeded, content = self._message
        if succeeded:
            return content
        code = self._process.exitcode
        raise Killed.with_code(code) if content is None else deserialize_error(content)


def start_server() -> None:
    """Start the server for processes that this module does not start: those of torch's launcher.

    They have to call `unblock_stop_signals`.
    """
    multiprocessing.set_forkserver_preload(_PRELOADED)
    with _ignore_interrupts(), _block_stop_signals():
        forkserver.ensure_running()


def unblock_stop_signals() -> None:
    """Receive requests to stop, which the server blocks, also those that were sent before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Context in which SIGINT is ignored. A process started in it ignores SIGINT from the start."""
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
    """Context in which signals to stop are blocked, also in processes that are started in it.

    The server keeps them blocked: a signal to the whole process group would otherwise end it, and
    the parent would no longer learn how workers end. A worker unblocks them as soon as it runs.
    """
    resource_tracker.ensure_running()  # starting it later would unblock these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _use_forkserver() -> Iterator[None]:
    """Context in which forkserver is the default start method.

    A new process takes over the name of the default, and does not know that of joblib's workers.
    """
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
    """The main function of the process."""
    os.environ.update(environment)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    unblock_stop_signals()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    logging.raiseExceptions = False
    keep_freed_memory()
    torch.set_num_threads(threads)
    message: tuple[bool, Any]
    try:
        message = True, function(*arguments)
    except BaseException as error:
        message = False, serialize_error(error)
    with suppress(BrokenPipeError):  # the parent has ended
        _send(sender, message)
    sender.close()


def _send(sender: Connection, message: tuple[bool, Any]) -> None:
    try:
        sender.send(message)
    except BrokenPipeError:
        raise
    except Exception as error:  # the value cannot be pickled
        sender.send((False, serialize_error(error)))


def _stop_with_parent() -> None:
    """Stop this process when its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
