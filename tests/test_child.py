"""A function in a process of its own: what it says is heard, however the process ends."""

import os
import signal
import threading
import time

import pytest

from bmo_cli.errors import InputError, Killed
from bmo_cli.experiment import child
from bmo_cli.experiment.child import Child


def half(number):
    return number / 2


def refuse():
    raise InputError("not today")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def linger():
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return "said"


def test_what_it_returns_and_raises_is_heard():
    assert Child(half, 3, threads=1).outcome() == 1.5
    with pytest.raises(InputError, match="not today"):
        Child(refuse, threads=1).outcome()
    with pytest.raises(Killed, match="SIGKILL"):
        Child(die, threads=1).outcome()


def test_a_process_that_does_not_end_is_ended_once_it_has_said_its_word(monkeypatch):
    monkeypatch.setattr(child, "_PARTING", 0.2)
    process = Child(linger, threads=1)
    assert process.outcome() == "said"
    assert not process._process.is_alive()


def see(name):
    return os.environ.get(name)


def test_its_environment_is_its_own(monkeypatch):
    monkeypatch.setenv("BMO_A", "before")
    process = Child(see, "BMO_A", threads=1, environment={"BMO_A": "x", "BMO_B": "y"})
    assert os.environ["BMO_A"] == "before" and "BMO_B" not in os.environ
    assert process.outcome() == "x"
