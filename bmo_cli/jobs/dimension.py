"""The dimensions of a search space, from overrides in the grammar of Hydra's sweeps.

`a,b` and `choice(a,b)`: one of the values. `interval(low,high)`: a number, with `tag(log,...)` on a
logarithmic scale, with `int(...)` an integer. `range(start,stop,step)`: one of these integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from bmo_cli.errors import InputError


@dataclass(frozen=True)
class Dimension:
    """A key of a search and its values.

    Attributes:
        key: of the configuration.
        choices: texts to choose among; empty: a number between `low` and `high`.
        low, high: both included; integers for an integer dimension.
        step: of integers.
        log: whether the scale is logarithmic.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: int = 1
    log: bool = False

    @classmethod
    def of(cls, override: Override) -> Dimension:
        """The dimension that an override describes.

        Raises:
            InputError: the limits are not valid.
        """
        key, sweep = override.get_key_element(), override.value()
        if isinstance(sweep, IntervalSweep):
            dimension = cls(key, (), *_interval_ends(sweep), log="log" in sweep.tags)
        elif isinstance(sweep, RangeSweep) and _is_whole(sweep):
            values = sorted(int(value) for value in sweep.range())
            if not values:
                raise InputError(f"{override.input_line}: the range is empty")
            step = values[1] - values[0] if len(values) > 1 else 1
            dimension = cls(key, (), values[0], values[-1], step, "log" in sweep.tags)
        else:
            texts = tuple(dict.fromkeys(override.sweep_string_iterator()))
            if getattr(sweep, "shuffle", False):
                texts = tuple(sorted(texts))
            dimension = cls(key, texts)
        if not dimension.choices and dimension.low > dimension.high:
            raise InputError(f"{override.input_line}: the lower end is above the upper one")
        if dimension.log and (dimension.low <= 0 or dimension.step != 1):
            raise InputError(
                f"{override.input_line}: a logarithmic scale takes numbers > 0 without a step"
            )
        return dimension

    @property
    def is_whole(self) -> bool:
        """Whether the values are integers."""
        return not self.choices and isinstance(self.low, int)

    @property
    def limits(self) -> list[str]:
        """Every choice, or both ends, as texts."""
        return list(self.choices) or [self.text(self.low), self.text(self.high)]

    def suggest(self, trial: Any) -> Any:
        """The value that a trial of Optuna suggests."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.is_whole:
            low, high = int(self.low), int(self.high)
            return trial.suggest_int(self.key, low, high, step=self.step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def require_valid(self, value: Any) -> Any:
        """A recorded value, if it belongs to this dimension.

        Raises:
            ValueError: it does not.
        """
        if self.choices:
            valid = value in self.choices
        else:
            kind = int if self.is_whole else float
            valid = isinstance(value, kind) and self.low <= value <= self.high
        if not valid or isinstance(value, bool):
            raise ValueError(f"{self.key}={value!r}")
        return value

    def text(self, value: Any) -> str:
        """A value as text of an override."""
        return value if isinstance(value, str) else repr(value)


def _interval_ends(sweep: IntervalSweep) -> tuple[float, float]:
    assert sweep.start is not None and sweep.end is not None
    return sweep.start, sweep.end


def _is_whole(sweep: RangeSweep) -> bool:
    return all(isinstance(value, int) for value in (sweep.start, sweep.stop, sweep.step))
