"""Plan the runs of a table: presets, rows, columns, seeds, and candidates of tuning."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bmo_cli.config.commands import format_plugins, quote_value
from bmo_cli.config.compose import compose
from bmo_cli.config.schema import Claim, Config, Preset, Table, Target, to_plain
from bmo_cli.errors import InputError, suggest_nearest
from bmo_cli.experiment.build import build, instantiate, load_target_class
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.results.run import RunSpec
from bmo_cli.tables.cell import Cell, Identity, name_cell_folder
from bmo_cli.tasks.task import Task

_UNSIGNED = re.compile(r"\.\d+[a-zA-Z%]")
"""A format to which a sign can be added."""


@dataclass(frozen=True)
class ScaledTable:
    """A table at the scale of a preset.

    Attributes:
        table: with the rows, columns and seeds of the preset.
        preset: its overrides count after those of the table.
    """

    table: Table
    preset: Preset = field(default_factory=Preset)

    def overrides(self, row: str, column: str) -> list[str]:
        """The overrides of a row in a column: those of the table, then those of the preset.

        Args:
            row, column: names.
        """
        table, preset = self.table, self.preset
        adjusted = table.adjust.get(row, {}).get(column, ())
        return [
            *(*table.common, *table.columns[column], *table.rows[row], *adjusted),
            *(
                *preset.common,
                *_overrides_of(preset.columns, column),
                *_overrides_of(preset.rows, row),
            ),
        ]


def _overrides_of(
    entries: Sequence[str] | Mapping[str, Sequence[str]] | None, name: str
) -> Sequence[str]:
    """The overrides of a row or column in a preset; none if the preset only lists names."""
    return entries.get(name, ()) if isinstance(entries, Mapping) else ()


def scale_table(table: Table, preset: str | None) -> ScaledTable:
    """The table at the scale of one of its presets.

    Args:
        table: the configuration's `table` section.
        preset: name; None: the table as it is.

    Raises:
        InputError: the table has no such preset, or the preset names no such row or column.
    """
    if preset is None:
        return ScaledTable(table)
    if preset not in table.presets:
        known = ", ".join(table.presets)
        has = f"it has {known}" if known else "it has none: leave preset= away"
        raise InputError(f"preset={preset} is not one of this table; {has}")
    wanted = table.presets[preset]
    rows = _select_entries(table.rows, wanted.rows, f"table.presets.{preset}.rows")
    columns = _select_entries(table.columns, wanted.columns, f"table.presets.{preset}.columns")
    seeds = wanted.seeds or table.seeds
    claims = [claim for claim in table.claims if wanted.claims and _is_about(claim, rows, columns)]
    against = table.against if table.against in rows else None
    scaled = replace(table, rows=rows, columns=columns, seeds=seeds, claims=claims, against=against)
    return ScaledTable(scaled, wanted)


def _is_about(claim: Claim, rows: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Whether a table has the rows and the column of a claim."""
    return claim.column in columns and {claim.row, *claim.than} <= rows.keys()


def _select_entries(
    entries: Mapping[str, list[str]], names: Iterable[str] | None, where: str
) -> dict[str, list[str]]:
    wanted = list(entries if names is None else names)
    _require_known(wanted, entries, where)
    return {name: entries[name] for name in wanted}


def check_table(table: Table) -> None:
    """Check the keys of a table before hours of running.

    Raises:
        InputError: a key is not valid; the message names it.
    """
    for key in ("rows", "columns", "scores", "seeds"):
        if not getattr(table, key):
            raise InputError(f"table.{key} is empty")
    if len(set(table.seeds)) < len(table.seeds):
        raise InputError(f"table.seeds has a seed twice: {', '.join(map(str, table.seeds))}")
    for score, layout in table.scores.items():
        try:
            format(1.0, layout)
        except ValueError as error:
            raise InputError(
                f"table.scores.{score} must be a format as .2f or .1e, got '{layout}'"
            ) from error
    _require_known(table.skip, table.rows, "table.skip")
    _require_known(table.adjust, table.rows, "table.adjust")
    for row, places in table.adjust.items():
        _require_known(places, table.columns, f"table.adjust.{row}")
    _require_known(table.tune, table.rows, "table.tune")
    _require_known(table.best, table.scores, "table.best")
    if table.against is not None:
        _require_known([table.against], table.rows, "table.against")
        if not table.best:
            raise InputError("table.against compares the scores of table.best, which is empty")
        for score in table.best:
            if not _UNSIGNED.fullmatch(table.scores[score]):
                raise InputError(
                    f"table.against shows differences of table.scores.{score} with a sign, which "
                    f"takes a format as .2f or .1e, got '{table.scores[score]}'"
                )
    for i, entry in enumerate(table.published):
        _require_known([entry.column], table.columns, f"table.published[{i}].column")
        _require_known([entry.score], table.scores, f"table.published[{i}].score")
        for key in ("protocol", "source"):
            if not getattr(entry, key).strip():
                raise InputError(
                    f"table.published[{i}].{key} is empty, so that the value compares with nothing"
                )
    for i, claim in enumerate(table.claims):
        _check_claim(claim, table, f"table.claims[{i}]")
    if table.input in table.rows:
        raise InputError(f"table.input: '{table.input}' is the name of a row; choose another")
    for row, keys in table.tune.items():
        for key, values in keys.items():
            if not values:
                raise InputError(f"table.tune.{row}.{key} is empty")


def _check_claim(claim: Claim, table: Table, where: str) -> None:
    _require_known([claim.column], table.columns, f"{where}.column")
    _require_known([claim.row], table.rows, f"{where}.row")
    _require_known(claim.than, table.rows, f"{where}.than")
    for key in ("score", "relative_to"):
        score = getattr(claim, key)
        _require_known([] if score is None else [score], table.scores, f"{where}.{key}")
    for key in ("text", "reading"):
        if not getattr(claim, key).strip():
            raise InputError(f"{where}.{key} is empty; say what the publication shows, and where")
    if bool(claim.than) == (claim.limit is not None):
        raise InputError(f"{where} compares with rows (than) or with a number (limit): give one")
    if claim.row in claim.than:
        raise InputError(f"{where}.than has the row itself, '{claim.row}'; name other rows")


def _require_known(names: Iterable[str], known: Mapping[str, Any], where: str) -> None:
    for name in names:
        if name not in known:
            hint = suggest_nearest(name, known) or f"; there are {', '.join(known)}"
            raise InputError(f"{where}: '{name}' is not in this table{hint}")


@dataclass(frozen=True)
class Place:
    """A row in a column.

    Attributes:
        row, column: names.
        candidates: runs that are scored on validation alone. The values of the best are chosen.
        cells: the runs that the table shows; empty before a candidate is chosen.
    """

    row: str
    column: str
    candidates: tuple[Cell, ...]
    cells: tuple[Cell, ...]


class Plan:
    """The runs of a table.

    Args:
        scaled_table: the table, checked.
        out: folder of the runs.
        plugins: plug-in files and modules.
        root: folder of the named data sets, for data that take one.
        task: only columns of this task; None: all.

    Raises:
        InputError: a row does not compose with a column, or does not fit it. The message names
            both.
    """

    def __init__(
        self,
        scaled_table: ScaledTable,
        out: Path,
        plugins: Sequence[str],
        root: str | None,
        task: str | None = None,
    ) -> None:
        self._scaled, self._table = scaled_table, scaled_table.table
        self._out, self._root = out, root
        self._plugins = plugins
        self._given = [format_plugins(plugins)] if plugins else []
        self._identity = Identity(plugins)
        self._only = task
        self._tasks: list[str] = []
        self._fitting: set[str] = set()
        self._rooted: dict[tuple[str, str], list[str]] = {}
        self.places = [
            place
            for column in self._table.columns
            for row in self._table.rows
            if (place := self._plan_place(row, column)) is not None
        ]
        if task is not None and task not in self._tasks:
            has = ", ".join(dict.fromkeys(self._tasks))
            raise InputError(f"task={task} is not in this table; it has {has}")

    @property
    def candidates(self) -> list[Cell]:
        """The candidates of tuning."""
        return [cell for place in self.places for cell in place.candidates]

    @property
    def cells(self) -> list[Cell]:
        """The runs that the table shows, as far as candidates are chosen."""
        return [cell for place in self.places for cell in place.cells]

    @property
    def unsettled(self) -> int:
        """Number of runs that depend on the choice among candidates."""
        return sum(len(self._seeds(p.candidates[0])) for p in self.places if not p.cells)

    def choose(self, failures: Mapping[Path, str]) -> None:
        """Choose the best candidate of every place whose candidates are all done or failed.

        Args:
            failures: why runs failed, by folder.
        """
        self.places = [
            place if place.cells else self._choose_candidate(place, failures)
            for place in self.places
        ]

    def _plan_place(self, row: str, column: str) -> Place | None:
        first = self._plan_cell(row, column, self._table.seeds[0])
        seeds = self._seeds(first)
        task = str(first.spec.choices["task"])
        self._tasks.append(task)
        skipped = task in self._table.skip.get(row, ())
        if skipped or self._only not in (None, task):
            return None
        if not first.problem:
            self._require_fit(first)
        tried = list(combine_values(self._table.tune.get(row, {})))
        candidates = tuple(
            self._plan_cell(row, column, seeds[0], values, judged=True) for values in tried
        )
        if candidates:
            return Place(row, column, candidates, ())
        return Place(
            row, column, (), (first, *(self._plan_cell(row, column, s) for s in seeds[1:]))
        )

    def _choose_candidate(self, place: Place, failures: Mapping[Path, str]) -> Place:
        done = [cell for cell in place.candidates if cell.result is not None]
        lost = {c.spec.path: failures.get(c.spec.path, c.problem) for c in place.candidates}
        if any(cell.result is None and not lost[cell.spec.path] for cell in place.candidates):
            return place
        judged = [(cell, _validation_score(cell, self._plugins)) for cell in done]
        ranked = [(value, cell) for cell, value in judged if value is not None]
        if not ranked:
            reasons = "; ".join(dict.fromkeys(filter(None, lost.values())))
            failed = replace(place.candidates[0], chosen={}, problem=f"no candidate: {reasons}")
            return replace(place, cells=(failed,))
        best = max(ranked, key=lambda pair: pair[0])[1]
        seeds = self._seeds(best)
        cells = (self._plan_cell(place.row, place.column, seed, best.chosen) for seed in seeds)
        return replace(place, cells=tuple(cells))

    def _plan_cell(
        self,
        row: str,
        column: str,
        seed: int,
        chosen: Mapping[str, str] | None = None,
        *,
        judged: bool = False,
    ) -> Cell:
        chosen = chosen or {}
        tuned = [f"{key}={value}" for key, value in chosen.items()]
        overrides = [*self._scaled.overrides(row, column), *tuned, *self._given, f"seed={seed}"]
        overrides = drop_overridden([*overrides, *(["eval.test=false"] if judged else [])])
        try:
            composed = compose([*overrides, *self._rooted.get((row, column), ())])
            if (row, column) not in self._rooted:  # only the composed data say if they take a root
                takes = self._root is not None and "root" in composed.config.data
                given = [f"data.root={quote_value(self._root)}"] if takes else []
                self._rooted[row, column] = given
                composed = compose([*overrides, *given]) if takes else composed
        except InputError as error:
            raise InputError(f"row '{row}', column '{column}': {error}") from error
        key, problem = self._identity.key(composed.config)
        path = name_cell_folder(self._out, row, column, seed, key)
        spec = RunSpec(composed.config, composed.choices, path, snapshot=composed.text)
        placed = tuple(self._rooted[row, column])
        training = None if problem else self._identity.training_key(composed.config)
        return Cell(row, column, seed, tuple(overrides), spec, chosen, problem, placed, training)

    def _seeds(self, cell: Cell) -> list[int]:
        """The seeds of a cell's place. One is enough where nothing is trained."""
        node = cell.spec.config.hyper
        trains = load_target_class(node, "hyper", self._plugins, HyperOptimizer).trains
        seeds = self._table.seeds
        return seeds if trains else seeds[:1]

    def _require_fit(self, cell: Cell) -> None:
        """Refuse a scheme that does not fit its hyper-optimiser or its task.

        Files of weights are left out, because a missing file fails its own cell alone.
        """
        config = _without_weights(cell.spec.config)
        parts = (config.task, config.gkm, config.net, config.hyper, config.train, config.device)
        scheme = json.dumps(to_plain(list(parts)), sort_keys=True)
        if scheme in self._fitting:
            return
        self._fitting.add(scheme)
        try:
            data = instantiate(config.data, "data", self._plugins, object)
            kind = load_target_class(config.task, "task", self._plugins, Task)
            instantiate(config.task, "task", self._plugins, kind, data=data, seed=0)
        except InputError:
            return  # the task needs a file that is missing; the cell reports it
        try:
            build(config)
        except InputError as error:
            raise InputError(f"row '{cell.row}', column '{cell.column}': {error}") from error


def _without_weights(config: Config) -> Config:
    """A configuration whose groups name no files of weights."""

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: None if k == "weights" else strip(v) for k, v in value.items()}
        return value

    return replace(
        config,
        task=Target(strip(config.task)),
        gkm=Target(strip(config.gkm)),
        net=Target(strip(config.net)),
        hyper=Target(strip(config.hyper)),
        data=Target(strip(config.data)),
    )


def drop_overridden(overrides: Sequence[str]) -> list[str]:
    """Overrides without those whose key occurs again later: the last override of a key counts."""
    keys = [text.split("=", 1)[0] for text in overrides]
    return [text for i, text in enumerate(overrides) if keys[i] not in keys[i + 1 :]]


def combine_values(tune: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, str]]:
    """Every combination of one value for each key, as texts; none where nothing is tuned."""
    for values in itertools.product(*tune.values()) if tune else ():
        yield dict(zip(tune, map(_format_value, values), strict=True))


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _validation_score(cell: Cell, plugins: Sequence[str]) -> float | None:
    """The validation score of a cell, with its sign changed where smaller is better."""
    kind = load_target_class(cell.spec.config.task, "task", plugins, Task)
    value = cell.score(f"val/{kind.metric}")
    return value if value is None or kind.larger_is_better else -value
