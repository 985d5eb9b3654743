"""`bmo audit`: measure whether every hyper-optimiser and operator keeps what it declares."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

import torch

from bmo_cli.config.commands import format_plugins
from bmo_cli.config.compose import compose
from bmo_cli.config.schema import AuditConfig
from bmo_cli.errors import BmoError, InputError, suggest_nearest
from bmo_cli.experiment.build import instantiate
from bmo_cli.experiment.plugins import load_plugins, names_plugins
from bmo_cli.gkm.operator import NumericalOperator
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.results.figures import error_against_cost
from bmo_cli.results.files import write_atomically
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import Run
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.tables import comma_separated, markdown, text_table
from bmo_cli.verification.audit import GradientRecord, NormRecord, audit_gradient, audit_norm
from bmo_cli.verification.audit_problems import PROBLEMS

log = logging.getLogger("bmo")

OPERATORS = ("pg", "prox", "dr", "alm", "ladmm", "pdhg", "rain_dictionary")


@names_plugins
def audit(run: Run[AuditConfig]) -> RunResult:
    """Measure, and write audit.md, audit.csv and audit.png.

    Args:
        run: of the audit.

    Returns:
        The content of result.json, which the caller writes.

    Raises:
        BmoError: a measurement contradicts the declaration of a method or an operator. The report
            is written before.
    """
    torch.set_num_threads(1)  # for such small problems several threads are slower
    config, choices = run.config, run.spec.choices
    plugins = load_plugins(config.plugins)
    methods = _build_methods(config, choices, plugins)
    scheme = None
    if config.gkm is not None:
        scheme = instantiate(config.gkm, "gkm", plugins, GKM)
    problems = _choose_problems(config.problem)
    run.start()
    gradients = [
        _audit_gradient(problem, method, hyper, scheme)
        for problem in problems
        for method, hyper in methods.items()
    ]
    if config.hyper is None:
        operators = _build_operators(choices["gkm"], scheme)
        norms = [record for name, part in operators.items() for record in audit_norm(name, part)]
    else:
        norms = []
    _write_report(run.folder, gradients, norms)
    _require_no_violation(gradients, norms, run.folder)
    return RunResult(
        status="ok",
        metrics={
            "audit/largest_error": max(
                (r.error for r in gradients if r.bound is not None), default=math.nan
            ),
            "audit/largest_ratio": max((r.inside for r in norms if r.nonexpansive), default=None),
        },
        gradients=[asdict(record) for record in gradients],
        norms=[asdict(record) for record in norms],
    )


def _require_no_violation(
    gradients: Sequence[GradientRecord], norms: Sequence[NormRecord], folder: RunFolder
) -> None:
    """Raise BmoError if a measurement contradicts a declaration."""
    broken = [
        *(f"{r.method} on {r.problem}: error {r.error:.1e}" for r in gradients if r.failed),
        *(f"{r.operator} on {r.problem}: ratio {r.inside:.8f}" for r in norms if r.failed),
    ]
    if broken:
        raise BmoError(f"the audit found broken promises: {'; '.join(broken)}; see {folder.path}")
    kept = [r for r in gradients if r.bound is not None] + [r for r in norms if r.nonexpansive]
    log.info("%d promises hold, none is broken", len(kept))


def _build_methods(
    config: AuditConfig, choices: Mapping[str, str | None], plugins: Sequence[str]
) -> dict[str, HyperOptimizer]:
    if config.hyper is not None:
        name = choices["hyper"] or "hyper"
        return {name: instantiate(config.hyper, "hyper", plugins, HyperOptimizer)}
    given = [format_plugins(plugins)] if plugins else []
    return {
        name: instantiate(
            compose([*overrides, *given]).config.hyper, "hyper", plugins, HyperOptimizer
        )
        for name, overrides in config.methods.items()
    }


def _choose_problems(chosen: str | Sequence[str]) -> list[str]:
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    if names == ["all"]:
        return list(PROBLEMS)
    if not names:
        raise InputError(f"problem is empty; known: all, {', '.join(PROBLEMS)}")
    for name in names:
        if name not in PROBLEMS:
            hint = suggest_nearest(name, PROBLEMS)
            known = ", ".join(("all", *PROBLEMS))
            raise InputError(f"unknown problem '{name}'{hint} Known: {known}")
    return names


def _audit_gradient(
    name: str, method: str, hyper: HyperOptimizer, given: GKM | None
) -> GradientRecord:
    problem = PROBLEMS[name]()
    operator = problem.operator if given is None else copy.deepcopy(given.operator)
    undamped = given is not None and given.alpha == 1
    stages = 1 if given is None else len(given.stages)
    alpha = None if undamped else 0.9
    scheme = GKM(operator=operator, net=problem.net, alpha=alpha, stages=stages).double()
    record = audit_gradient(name, problem, method, hyper, scheme)
    if math.isnan(record.error):
        log.info("%-16s %-24s -        %s", name, method, record.note)
    else:
        log.info("%-16s %-24s %.1e  %s", name, method, record.error, record.note)
    return record


def _build_operators(name: str | None, given: GKM | None) -> dict[str, NumericalOperator]:
    if given is not None:
        return {name or "gkm": given.operator}
    # Without a network there is no recipe, which could give an operator other settings.
    configs = {name: compose([f"gkm={name}", "net=none"]).config.gkm for name in OPERATORS}
    return {name: instantiate(config, "gkm", [], GKM).operator for name, config in configs.items()}


_GRADIENTS = (
    "bound: the largest relative error that the method promises; -: it promises none, because "
    "it is biased by design or its assumptions do not hold on this problem. T: evaluations of "
    "T. J^T v: products with the derivative of D. BROKEN: the error is above the bound."
)
_NORMS = (
    "Largest measured |D(a) - D(b)|_G / |a - b|_G of every operator on small problems. f: least "
    "squares. f + g: with an l1 norm. l1, squares, exact: with a linear relation A u + z = b, "
    "where z has an l1 norm, a squared norm, or is 0. two layers: 1/2 |b + r - y|^2. inside: "
    "parameters anywhere inside the condition; a promise to be nonexpansive is broken above 1. "
    "30 % beyond: the same with L_f and |A|^2 declared 30 % too small, so that steps are too "
    "long; a value above 1 shows that the condition is needed, and 1 that this does not break "
    "it, as where an operator computes its constants itself."
)


def _write_report(
    folder: RunFolder, gradients: Sequence[GradientRecord], norms: Sequence[NormRecord]
) -> None:
    gradient_header = [
        *("problem", "method", "relative error", "angle (deg)", "bound", "T", "J^T v"),
        *("seconds", "graph (KiB)", "note"),
    ]
    gradient_rows = [_format_gradient_row(record) for record in gradients]
    norm_header = ["operator", "problem", "condition", "inside", "30 % beyond", "promise"]
    norm_rows = [_format_norm_row(record) for record in norms]
    text = "# Audit\n\nHyper-gradients against central finite differences of their own objective, "
    text += "float64.\n\n" + markdown(gradient_header, gradient_rows) + f"\n\n{_GRADIENTS}\n"
    if norms:
        text += f"\n{_NORMS}\n\n" + markdown(norm_header, norm_rows) + "\n"
        log.info("\n%s", text_table([norm_header, *norm_rows]))
    keys = [field.name for field in fields(GradientRecord)]
    table = comma_separated(keys, [[asdict(record)[key] for key in keys] for record in gradients])
    write_atomically(folder.path / "audit.md", text.encode())
    write_atomically(folder.path / "audit.csv", table.encode())
    points = [
        (r.problem, r.method, r.evaluations + r.products, r.error, r.bound is not None)
        for r in gradients
        if not math.isnan(r.error)
    ]
    if points:
        error_against_cost(points, folder.path / "audit.png")
    log.info("\n%s\n", text_table([gradient_header[:-1], *(row[:-1] for row in gradient_rows)]))


def _format_gradient_row(record: GradientRecord) -> list[str]:
    if math.isnan(record.error):
        return [record.problem, record.method, *["-"] * 7, record.note]
    bound = "-" if record.bound is None else f"{record.bound:.0e}"
    return [
        record.problem,
        record.method,
        f"{record.error:.1e}" + (" BROKEN" if record.failed else ""),
        f"{record.angle:.1e}",
        bound,
        str(record.evaluations),
        str(record.products),
        f"{record.seconds:.3f}",
        f"{record.memory / 1024:.0f}",
        record.note,
    ]


def _format_norm_row(record: NormRecord) -> list[str]:
    promise = "nonexpansive" if record.nonexpansive else "none"
    return [
        record.operator,
        record.problem,
        record.condition or "-",
        f"{record.inside:.7f}" + (" BROKEN" if record.failed else ""),
        f"{record.broken:.4f}",
        promise,
    ]
