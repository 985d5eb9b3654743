"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm

log = logging.getLogger("bmo")


class Console:
    """Progress of one training run.

    Args:
        total: hyper-training steps; None: only the time ends the run.
        start: steps done before, of a resumed run.
        show: formats a validation score.
        quiet: whether nothing is shown.
    """

    def __init__(
        self,
        total: int | None,
        start: int = 0,
        show: Callable[[float], str] = "{:.2f}".format,
        *,
        quiet: bool = False,
    ) -> None:
        self._show = show
        self._started: float | None = None
        self._start_fraction = 0.0
        self._score = math.nan
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            share = "/{total_fmt} {percentage:3.0f}% [{remaining} left]" if total else ""
            layout = "{n_fmt}" + share + "{postfix}"
            self._bar = tqdm(total=total, initial=start, dynamic_ncols=True, bar_format=layout)

    def advance(self) -> None:
        """Advance the bar by one step."""
        if self._bar is not None:
            self._bar.update()

    def show_row(self, row: Mapping[str, float], fraction: float, steps: int | None) -> None:
        """Show a row of the history."""
        scored = not math.isnan(row["val"])
        self._score = row["val"] if scored else self._score
        left = self._time_left(fraction)
        pairs = [
            f"loss {row['loss']:.1e}",
            f"val {self._show(self._score)}" if not math.isnan(self._score) else "val -",
            f"residual {row['residual']:.0e}",
            f"grad {row['hypergrad_norm']:.0e}",
        ]
        if self._bar is not None:
            if self._bar.total is None:
                pairs.append(f"{left} left")
            self._bar.set_postfix_str(", ".join(pairs))
        elif scored:
            step = f"step {row['step']:.0f}" + (f"/{steps}" if steps else "")
            log.info("%s: %s, %s left", step, ", ".join(pairs), left)

    def close(self) -> None:
        """End the bar, leaving its last state."""
        if self._bar is not None:
            self._bar.close()

    def _time_left(self, fraction: float) -> str:
        if self._started is None:
            self._started, self._start_fraction = time.monotonic(), fraction
            return "?"
        done = max(fraction - self._start_fraction, 1e-9)
        seconds = (time.monotonic() - self._started) * (1 - fraction) / done
        return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
