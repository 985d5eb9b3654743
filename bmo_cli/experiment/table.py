"""`bmo table NAME`: rows and columns of runs; what is missing runs, what is there is read.

A cell is an ordinary run folder, `OUT/runs/ROW--COLUMN--SEED-KEY`, whose key is made from its
resolved configuration, the plug-ins and this program's version. An interrupted cell goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import re
import shlex
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bmo_cli import __version__
from bmo_cli.config.snapshot import quoted
from bmo_cli.errors import BmoError, InputError, Interrupted
from bmo_cli.experiment.compose import Composed, compose
from bmo_cli.experiment.train import train
from bmo_cli.results.run_folder import RunFolder, write_atomically
from bmo_cli.results.table_figures import Course, Price, convergence_figure, tradeoff_figure
from bmo_cli.results.tables import comma_separated, markdown

log = logging.getLogger("bmo")


@dataclass(frozen=True)
class Cell:
    """One run of a table.

    Attributes:
        row, column: names.
        seed: of the run.
        overrides: what `bmo train` is given.
        composed: its configuration.
        folder: of the run.
    """

    row: str
    column: str
    seed: int
    overrides: list[str]
    composed: Composed
    folder: RunFolder

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json of a cell that is done; None: to be run."""
        result = self.folder.read_result()
        wanted = self.composed.config.get("certify") and "certificate" not in result
        return result if result.get("status") == "ok" and not wanted else None


def make_table(config: Mapping[str, Any], name: str) -> None:
    """Run what is missing, then write OUT/NAME.md and OUT/NAME.csv.

    Args:
        config: resolved configuration that passed `config.schema.check_config`.
        name: of the table.

    Raises:
        InputError: a row or column does not compose; nothing has run then.
        BmoError: cells failed; the table is written, with the reasons in it.
    """
    table, out, title = config["table"], Path(config["out"]), name
    _check(table)
    cells = list(_cells(table, out, config["plugins"]))
    cells = _of_task(cells, config["only"])
    name = name if config["only"] is None else f"{name}-{config['only']}"
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        missing = [cell for cell in cells if cell.result is None]
        log.info("%s: %d cells, %d to run, in %s", name, len(cells), len(missing), out)
        failures: dict[Path, str] = {}
        for i, cell in enumerate(missing, 1):
            log.info("%d/%d  %s, %s, seed %d", i, len(missing), cell.row, cell.column, cell.seed)
            try:
                _run(cell)
            except Interrupted as error:
                raise Interrupted(
                    f"stopped; {i - 1} cells were run and this one is saved, the same command "
                    "goes on",
                    exit_code=error.exit_code,
                ) from error
            except Exception as error:  # one cell must not hide the others
                failures[cell.folder.path] = reason = _reason(error)
                log.warning("failed: %s", reason)
        text = _markdown(table, cells, failures)
        write_atomically(out / f"{name}.md", text.encode())
        write_atomically(out / f"{name}.csv", _csv(table, cells).encode())
        for file in _figures(table, cells, out / name, title):
            log.info("picture: %s", file)
    log.info("\n%s\nwritten to %s", text, out / f"{name}.md")
    if failures:
        raise BmoError(f"{len(failures)} of {len(cells)} cells failed; the table says why")


def _of_task(cells: list[Cell], task: str | None) -> list[Cell]:
    known = list(dict.fromkeys(cell.composed.names["task"] or "" for cell in cells))
    if task is None:
        return cells
    if task not in known:
        raise InputError(f"task={task} is not in this table; it has {', '.join(known)}")
    return [cell for cell in cells if cell.composed.names["task"] == task]


def _figures(
    table: Mapping[str, Any], cells: Sequence[Cell], stem: Path, table_name: str
) -> Iterator[Path]:
    """Draw what the table asks for, of the cells that are done."""
    done = [cell for cell in cells if cell.result is not None]
    if table.get("figure") == "convergence":
        for task in dict.fromkeys(cell.composed.names["task"] for cell in done):
            own = [cell for cell in done if cell.composed.names["task"] == task]
            file = stem.with_name(f"{table_name}-{task}.png")
            convergence_figure([_course(cell) for cell in own], str(task), file)
            yield file
    elif table.get("figure") == "tradeoff" and done:
        file = stem.with_suffix(".png")
        tradeoff_figure([_price(cell) for cell in done], file)
        yield file


def _course(cell: Cell) -> Course:
    """What the convergence figure shows of a cell."""
    certificate = json.loads((cell.folder.path / "certificate.json").read_text(encoding="utf-8"))
    first = next(iter(certificate["trajectories"].values()))
    return Course(
        method=cell.row,
        iterations=cell.composed.config["train"]["iterations"],
        history=cell.folder.read_history(),
        residuals=[math.nan if r is None else r for r in first["residuals"]],
        minimises_phi=cell.composed.names["hyper"] != "separate",
    )


def _price(cell: Cell) -> Price:
    """What the tradeoff figure shows of a cell."""
    metrics = (cell.result or {})["metrics"]
    found = (re.fullmatch(r"test/psnr@(\d+)", name) for name in metrics)
    scores = {int(match[1]): metrics[match[0]] for match in found if match}
    return Price(
        method=cell.row,
        iterations=cell.composed.config["train"]["iterations"],
        scores={count: math.nan if v is None else v for count, v in scores.items()},
        bound=metrics["certificate/bound"],
        ratio=math.inf if metrics["certificate/ratio"] is None else metrics["certificate/ratio"],
    )


def _check(table: Mapping[str, Any]) -> None:
    """Refuse what would only be noticed after hours of running."""
    for key in ("rows", "columns", "scores", "seeds"):
        if not table[key]:
            raise InputError(f"table.{key} is empty")
    for score, layout in table["scores"].items():
        try:
            format(1.0, layout)
        except ValueError as error:
            raise InputError(
                f"table.scores.{score} must be a format as .2f or .1e, got '{layout}'"
            ) from error


def _cells(table: Mapping[str, Any], out: Path, plugins: Sequence[str]) -> Iterator[Cell]:
    given = [f"plugins=[{','.join(map(quoted, plugins))}]"] if plugins else []
    sources = [Path(p).read_text(encoding="utf-8") for p in plugins if Path(p).is_file()]
    for column, of_column in table["columns"].items():
        for row, of_row in table["rows"].items():
            for seed in table["seeds"]:
                overrides = [*table["common"], *of_column, *of_row, f"seed={seed}", *given]
                try:
                    composed = compose(overrides)
                except InputError as error:
                    raise InputError(f"row '{row}', column '{column}': {error}") from error
                text = json.dumps([__version__, composed.config, sources], sort_keys=True)
                if composed.names["task"] in table.get("skip", {}).get(row, ()):
                    continue
                key = hashlib.sha256(text.encode()).hexdigest()[:10]
                folder = out / "runs" / f"{_plain(row)}--{_plain(column)}--{seed}-{key}"
                yield Cell(row, column, seed, overrides, composed, RunFolder(folder))


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Two processes must not work on one table: each would take the other's cells for abandoned."""
    with (out / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another bmo table works in {out}; wait for it, or use out=DIR"
            ) from error
        yield


def _run(cell: Cell) -> None:
    """Train a cell, its output going to run.log alone; one that was interrupted goes on."""
    path, before = cell.folder.path, cell.folder.read_result()
    steps, wanted = before.get("steps", 0), cell.composed.config["train"]["steps"]
    goes_on = before.get("status") in ("interrupted", "running") and steps > 0
    goes_on = goes_on and (wanted is None or steps < wanted)
    goes_on = goes_on and (cell.folder.checkpoints / "last.safetensors").is_file()
    if path.exists() and not goes_on:
        shutil.rmtree(path)  # it failed, had not begun, or stopped between training and result
    (path / ".hydra").mkdir(parents=True, exist_ok=True)
    (path / ".hydra" / "config.yaml").write_text(cell.composed.text, encoding="utf-8")
    listed = yaml.safe_dump(cell.overrides)
    (path / ".hydra" / "overrides.yaml").write_text(listed, encoding="utf-8")
    config = cell.composed.config | {"resume": str(path) if goes_on else None}
    with _logged_to(path / "run.log"):
        try:
            cell.folder.write_result(train(config, cell.composed.names, cell.folder))
        except Exception as error:
            status = "interrupted" if isinstance(error, Interrupted) else "failed"
            failure = {"status": status, "message": _reason(error)}
            cell.folder.write_result({"metrics": {}, **cell.folder.read_result(), **failure})
            if status == "failed":
                log.exception("the cell failed")
            raise


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, BmoError) else f"{type(error).__name__}: {error}"


@contextmanager
def _logged_to(file: Path) -> Iterator[None]:
    root = logging.getLogger()
    kept, handler = root.handlers[:], logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = kept
        handler.close()


def _markdown(table: Mapping[str, Any], cells: Sequence[Cell], failures: Mapping[Path, str]) -> str:
    """A section for every column, with the rows as lines and the scores as columns."""
    parts = [f"# {table['title']}\n"]
    for column in dict.fromkeys(cell.column for cell in cells):
        lines = []
        for row in table["rows"]:
            own = [cell for cell in cells if (cell.row, cell.column) == (row, column)]
            if not own:
                continue
            reasons = [failures[c.folder.path] for c in own if c.folder.path in failures]
            shown = [_shown(own, key, layout) for key, layout in table["scores"].items()]
            lines.append([row, *shown, "; ".join(reasons)])
        notes = any(line[-1] for line in lines)
        header = ["", *table["scores"], *(["failed because"] if notes else [])]
        lines = lines if notes else [line[:-1] for line in lines]
        parts.append(f"## {column}\n\n{markdown(header, lines)}\n")
    commands = [shlex.join(["bmo", "train", *cell.overrides]) for cell in cells]
    listing = "\n".join(f"    {command}" for command in commands)
    return "\n".join([*parts, f"Every cell is one run:\n\n{listing}\n"])


def _shown(cells: Sequence[Cell], key: str, layout: str) -> str:
    """Mean over the seeds, and the 95 % interval where there are several."""
    values = [value for value in (_score(cell, key) for cell in cells) if value is not None]
    if not values:
        return "-"
    text = format(statistics.fmean(values), layout)
    if len(values) == 1:
        return text
    from scipy.stats import t

    spread = statistics.stdev(values) / len(values) ** 0.5
    return f"{text} ± {format(t.ppf(0.975, len(values) - 1) * spread, layout)}"


def _score(cell: Cell, key: str) -> float | None:
    result = cell.result or {}
    value = result.get("metrics", {}).get(key, result.get(key))
    return float(value) if isinstance(value, int | float) else None


def _csv(table: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    header = ["column", "row", "seed", *table["scores"], "status", "message", "folder"]
    rows = []
    for cell in cells:
        result = cell.folder.read_result()
        scores = [_score(cell, key) for key in table["scores"]]
        end = [result.get("status"), result.get("message"), cell.folder.path.name]
        rows.append([cell.column, cell.row, cell.seed, *scores, *end])
    return comma_separated(header, rows)
