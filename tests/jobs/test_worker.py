"""Workers: the parent receives the result or the error, however the process ends."""

import os
import signal
import sys
import threading
import time

import pytest

from bmo_cli.errors import Exited, InputError, Killed, NotStarted, OutOfMemory
from bmo_cli.jobs import worker
from bmo_cli.jobs.worker import Worker


def half(number):
    return number / 2


def refuse():
    raise InputError("not today")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave_word_less():
    os._exit(7)


def leave():
    sys.exit("enough")


class Unspeakable(Exception):
    """Neither can be pickled nor shown."""

    def __init__(self, a, b):
        self.lock = threading.Lock()

    def __str__(self):
        raise ZeroDivisionError


def raise_unspeakable():
    raise Unspeakable(1, 2)


def return_unspeakable():
    return threading.Lock()


class Foreign:
    """Only its own process can build it."""

    def __reduce__(self):
        return forbidden, ()


def forbidden():
    raise ImportError("no module 'own'")


def return_foreign():
    return Foreign()


def close_pipe():
    raise BrokenPipeError("of its own")


def run_out_of_memory():
    raise MemoryError


def return_much(count):
    return bytes(count)


def die_while_it_speaks():
    threading.Timer(0.3, die).start()
    return Slow()


class Slow:
    """Takes its time to be pickled."""

    def __reduce__(self):
        time.sleep(30)
        return int, ()


def fork_and_die():
    if os.fork() == 0:
        time.sleep(60)  # holds all that it inherited
        os._exit(0)
    die()


def linger():
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return "said"


def test_what_it_returns_and_raises_is_heard():
    assert Worker(half, 3, threads=1).outcome() == 1.5
    with pytest.raises(InputError, match="not today"):
        Worker(refuse, threads=1).outcome()
    with pytest.raises(Killed, match="SIGKILL"):
        Worker(die, threads=1).outcome()


ENDS = [
    (leave_word_less, Killed, "its process ended with code 7 and no error message"),
    (leave, Exited, r"sys\.exit\('enough'\) was called"),
    (raise_unspeakable, RuntimeError, "Unspeakable: an error without a message"),
    (return_unspeakable, RuntimeError, "cannot pickle '_thread.lock' object"),
    (return_foreign, RuntimeError, "ImportError: no module 'own'"),
    (close_pipe, RuntimeError, "BrokenPipeError: of its own"),
    (run_out_of_memory, OutOfMemory, "memory ran out"),
    (die_while_it_speaks, Killed, "SIGKILL"),
    (fork_and_die, Killed, "SIGKILL"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "kind", "message"), ENDS, ids=lambda v: getattr(v, "__name__", "")
)
def test_every_end_is_an_error_with_a_message(function, kind, message):
    started = time.monotonic()
    with pytest.raises(kind, match=message) as caught:
        Worker(function, threads=1).outcome()
    assert type(caught.value) is kind
    assert time.monotonic() - started < 25  # nobody waits for what a fork holds open


@pytest.mark.slow
def test_a_large_result_arrives():
    assert Worker(return_much, 200_000_000, threads=1).outcome() == bytes(200_000_000)


def test_a_process_that_cannot_be_started_is_an_error_with_a_hint(monkeypatch):
    def refuse(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.popen_forkserver.Popen.__init__", refuse)
    with pytest.raises(NotStarted, match=r"\(Resource temporarily unavailable\); use fewer jobs"):
        Worker(half, 3, threads=1)


def test_a_process_that_does_not_end_is_ended_once_it_has_said_its_word(monkeypatch):
    monkeypatch.setattr(worker, "_EXIT_TIMEOUT", 0.2)
    process = Worker(linger, threads=1)
    assert process.outcome() == "said"
    assert not process._process.is_alive()


def see(name):
    return os.environ.get(name)


def test_its_environment_is_its_own(monkeypatch):
    monkeypatch.setenv("BMO_A", "before")
    process = Worker(see, "BMO_A", threads=1, environment={"BMO_A": "x", "BMO_B": "y"})
    assert os.environ["BMO_A"] == "before" and "BMO_B" not in os.environ
    assert process.outcome() == "x"
