"""`bmo table NAME`: run the missing cells of a table, read the others, write the table.

A cell is an ordinary run folder, `OUT/runs/ROW--COLUMN--SEED-KEY`. The key is a hash of its
resolved configuration, its data, the plug-ins and the version of this program. An interrupted cell
resumes. Cells that differ in their test alone share a training, see `tables.sharing`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from bmo_cli.config.commands import format_command
from bmo_cli.config.schema import Table, TableConfig
from bmo_cli.errors import BmoError, InputError, explain_full_disk
from bmo_cli.experiment.plugins import names_plugins
from bmo_cli.jobs.estimate import Work, list_works
from bmo_cli.results.files import write_atomically
from bmo_cli.results.run_folder import require_closed
from bmo_cli.tables.cell import Cell
from bmo_cli.tables.collect import build_sheet, format_csv, refuse_shared_images
from bmo_cli.tables.execute import RUN_AGAIN, run_cells
from bmo_cli.tables.figures import draw_figures
from bmo_cli.tables.latex import format_latex
from bmo_cli.tables.markdown import format_markdown
from bmo_cli.tables.plan import Plan, check_table, scale_table
from bmo_cli.tables.sharing import assign_sources

log = logging.getLogger("bmo")


@names_plugins
def make_table(config: TableConfig, name: str, own_files: Sequence[str] = ()) -> None:
    """Run the missing cells, then write OUT/NAME.md, .csv, .tex and figures.

    Args:
        config: resolved and checked.
        name: of the table; the names of preset and task are added to it.
        own_files: words with which a command finds the user's YAML files, see
            `config.overrides.own_config_words`.

    Raises:
        InputError: a row or column does not compose. Nothing has run.
        BmoError: cells failed. The table is written, with the reasons in it.
    """
    check_table(config.table)
    at_scale, out = scale_table(config.table, config.preset), Path(config.out)
    table = replace(at_scale.table, seeds=config.seeds or at_scale.table.seeds)
    check_table(replace(table, skip={}, tune={}, adjust={}, published=[], claims=[]))
    root = config.root or os.environ.get("BMO_DATA")
    plan = Plan(replace(at_scale, table=table), out, config.plugins, root, config.only)
    figures = out / "-".join(part for part in (name, config.preset) if part)
    name = "-".join(part for part in (figures.name, config.only) if part)
    if config.dry_run:
        plan.choose({})
        works = _list_works(plan, config.stale)
        log.info("\n%s", list_works(works, "cell", plan.unsettled, config.jobs))
        return
    with explain_full_disk(str(out), RUN_AGAIN):
        out.mkdir(parents=True, exist_ok=True)
        require_closed(out)
        with _lock(out):
            failures = _run_missing(plan, name, out, config)
            refused = refuse_shared_images(table, plan.cells)
            failures |= refused
            commands = _format_commands(plan.cells, own_files, rooted=config.root is not None)
            _write_documents(table, plan, failures, refused, commands, out / name, figures)
    if failures:
        count = len(plan.cells) + len(plan.candidates)
        what = "failed or were refused" if refused else "failed"
        raise BmoError(f"{len(failures)} of {count} cells {what}; the table says why")


def _run_missing(plan: Plan, name: str, out: Path, config: TableConfig) -> dict[Path, str]:
    """Run the candidates, choose among them, and run the cells of the table.

    Returns:
        Why cells failed, by folder.
    """
    failed_candidates: dict[Path, str] = {}
    if plan.candidates:
        missing = _select_missing(plan.candidates, config.stale)
        count = len(plan.candidates)
        log.info("%s: %d candidates to judge, %d to run, in %s", name, count, len(missing), out)
        failed_candidates = run_cells(missing, config.jobs, plan.candidates)
    plan.choose(failed_candidates)
    missing = _select_missing(plan.cells, config.stale)
    log.info("%s: %d cells, %d to run, in %s", name, len(plan.cells), len(missing), out)
    table = (*plan.candidates, *plan.cells)
    return failed_candidates | run_cells(missing, config.jobs, table)


def _select_missing(cells: Sequence[Cell], stale: str) -> list[Cell]:
    return [c for c in cells if c.result is None or (stale == "run" and c.stale)]


def _list_works(plan: Plan, stale: str) -> list[Work]:
    """The candidates and the cells of a table for the estimate."""
    cells = (*plan.candidates, *plan.cells)
    sources = assign_sources(_select_missing(cells, stale), cells)
    return [_describe_work(cell, stale == "run", sources.get(cell.spec.path)) for cell in cells]


def _describe_work(cell: Cell, rerun: bool, source: Cell | None) -> Work:
    """A cell for the estimate.

    Args:
        cell: of the table.
        rerun: whether a cell of other code runs again.
        source: the cell whose training it takes; None: it trains.
    """
    state, result, spec = _describe_state(cell, rerun), cell.result, cell.spec
    runs = state not in ("done", "done by other code") and not cell.problem
    took = source is not None if runs else result is not None and result.trained_in is not None
    return Work(
        cell.name,
        f"to test, trained in '{source.column}'" if source is not None else state,
        runs,
        spec.config,
        spec.choices["hyper"] != "none" and not took,
        result,
        cell.row,
        cell.column,
    )


def _describe_state(cell: Cell, rerun: bool) -> str:
    if cell.problem:
        return f"cannot run: {cell.problem}"
    if cell.result is not None:
        return "done" if not cell.stale else "runs again" if rerun else "done by other code"
    result = cell.spec.folder.read_result()
    if result is None:
        return "to run"
    return "failed, runs again" if result.status == "failed" else "goes on"


def _format_commands(cells: Sequence[Cell], own_files: Sequence[str], *, rooted: bool) -> list[str]:
    """The command of each cell. A root that BMO_DATA names is not a part of it."""
    return [
        format_command("train", *own_files, *cell.overrides, *(cell.placed if rooted else ()))
        for cell in cells
    ]


def _write_documents(
    table: Table,
    plan: Plan,
    failures: Mapping[Path, str],
    refused: Mapping[Path, str],
    commands: Sequence[str],
    stem: Path,
    figures: Path,
) -> None:
    cells = plan.cells
    content = build_sheet(table, cells, failures, commands, plan.candidates)
    text = format_markdown(content)
    documents = {"md": text, "csv": format_csv(table, cells, refused)}
    documents["tex"] = format_latex(content, stem.name)
    for suffix, document in documents.items():
        write_atomically(stem.with_name(f"{stem.name}.{suffix}"), document.encode())
    shown = [cell for cell in cells if cell.spec.path not in refused]
    for file in draw_figures(table, shown, figures):
        log.info("picture: %s", file)
    for remark in content.remarks:
        log.warning("%s", remark)
    log.info("\n%s\nwritten to %s", text, stem.with_name(f"{stem.name}.md"))


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Context with a lock on the table: a second process would restart cells that run."""
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"another bmo table works in {out}; wait for it, or use out=DIR"
        ) from error
