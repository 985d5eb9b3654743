"""`profile=true`: measure the time of each part of training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("data", "forward", "backward", "optimiser", "validation", "writing")
_HINTS = {
    "data": "data.workers prepares batches ahead",
    "validation": "train.validate_every makes it rarer",
    "writing": "train.validate_every makes checkpoints rarer",
}
_MUCH = 0.1  # share of the time from which a hint is given


class Profile:
    """A clock for the parts of training.

    Attributes:
        seconds: spent in each of `PARTS`.
        steps: number of hyper-training steps that were timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps = 0
        self._device = device

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Context whose time is added to a part."""
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - start

    def describe(self, total: float) -> str:
        """The parts of `total` seconds of training in words, largest first."""
        shares = {name: spent / max(total, 1e-9) for name, spent in self.seconds.items()}
        shares["the rest"] = max(1 - sum(shares.values()), 0.0)
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        step = sum(self.seconds[name] for name in PARTS[:4]) / max(self.steps, 1)
        listed = ", ".join(f"{name} {100 * share:.1f} %" for name, share in ordered)
        text = f"profile: {total:.1f} s, {1000 * step:.1f} ms a step: {listed}"
        hints = [hint for name, hint in _HINTS.items() if shares[name] > _MUCH and self.steps > 0]
        return "; ".join([text, *hints])

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class Untimed(Profile):
    """Measures nothing, so that a GPU is not synchronised."""

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        yield
