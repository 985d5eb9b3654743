"""Stop requests: Ctrl-C, SIGTERM and SIGUSR1 end a run between two steps, not within a step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Context in which these signals set `signal`. A second SIGINT raises KeyboardInterrupt.

    Slurm can send SIGUSR1 before a time limit (`#SBATCH --signal=USR1@120`, with `srun`).

    `timeout` and job schedulers signal a process and its group, so that one request may arrive
    several times. A signal within a second of the first counts as the same request. A second
    SIGTERM has no effect.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = number, now
        elif number == signal.SIGINT and now - self._since > 1:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as in shells."""
        return 128 + (self.signal or signal.SIGINT)
