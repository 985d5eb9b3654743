"""The text of a convergence certificate: a page of Markdown, and a line."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bmo_cli.config.schema import Certify
from bmo_cli.experiment.build import Experiment
from bmo_cli.results.tables import markdown
from bmo_cli.solver.nonexpansive import Pair
from bmo_cli.verification.certificate import Certificate
from bmo_cli.verification.examination import PATIENCE
from bmo_cli.verification.findings import Finding
from bmo_cli.verification.trajectory import TASK_START


def format_line(certificate: Certificate) -> str:
    """The certificate in one line: verdict, constant of D, residual and how far it was followed.

    Where the verdict is `not certified`, the line ends with the last assumption that does not hold.
    """
    followed = certificate.trajectories[TASK_START].residuals
    line = (
        f"certificate: {format_title(certificate)}; {describe_constant(certificate)}; residual "
        f"{followed[-1]:.1e} after {len(followed)} iterations"
    )
    if certificate.verdict != "not certified":
        return line
    failed = [f for f in certificate.assumptions if f.verdict not in ("holds", "not used")]
    return f"{line}; {failed[-1].name}: {failed[-1].verdict} ({failed[-1].meaning})"


def format_page(
    certificate: Certificate,
    scores: Mapping[int, float],
    experiment: Experiment,
    k: int,
    settings: Certify,
) -> str:
    """The certificate as Markdown.

    Args:
        certificate: of `experiment`.
        scores: validation scores by number of iterations.
        experiment: trained.
        k: K, the iterations of training.
        settings: of the search.
    """
    task, net, name = experiment.task, experiment.scheme.net, experiment.scheme.title
    parts = [f"# Convergence certificate: {format_title(certificate)}"]
    parts += [explain_verdict(certificate), f"{name}, K = {k}."]
    if net is not None:
        parts.append(f"The network promises: {net.guarantee}.")
    header = ["", "verdict", "evidence", "number", "why"]
    parts.append("## What the theory assumes")
    parts.append(
        markdown(header, [_format_finding(finding) for finding in certificate.assumptions])
    )
    parts.append("## What it predicts, measured")
    parts.append(
        markdown(header, [_format_finding(finding) for finding in certificate.predictions])
    )
    parts.append(_describe_search(certificate, k, settings))
    parts += ["## How far D stretches", _format_constants(certificate), _LEGEND]
    if certificate.checks:
        parts += ["## What is declared, measured", _format_declarations(certificate)]
    shown = f"validation {task.metric} {task.unit}".strip()
    layout = task.columns.get(task.metric, ".4g")
    parts.append(f"## {shown} beyond the K = {k} trained with")
    parts.append(
        markdown(
            ["iterations", *(str(count) for count in scores)],
            [[shown, *(format(score, layout) for score in scores.values())]],
        )
    )
    return "\n\n".join(parts) + "\n"


def _format_constants(certificate: Certificate) -> str:
    """The table of bounds and of measured ratios."""
    bound = certificate.bound
    on = "" if bound.value is None else f"{bound.evidence}: "
    rows = [["upper bound", "-" if bound.value is None else f"{bound.value:.7g}", on + bound.why]]
    rows += [[f"bound, {layer.layer}", f"{layer.value:.7g}", layer.how] for layer in bound.layers]
    rows += [
        [f"measured, {kind} pairs", f"{pair.ratio:.7g}", _describe_averaging(pair)]
        for kind, pair in certificate.pairs.items()
    ]
    if certificate.network is not None:
        alone = f"in the Euclidean norm; {_describe_averaging(certificate.network)}"
        rows.append(["measured, the network alone", f"{certificate.network.ratio:.7g}", alone])
    return markdown(["", "constant", "how"], rows)


def _format_declarations(certificate: Certificate) -> str:
    """The table of declared and measured values."""
    rows = [
        [
            check.what,
            f"{check.declared:.6g}",
            f"{check.measured:.6g}",
            "contradicted" if check.contradicts else "not contradicted",
            str(check.count),
        ]
        for check in certificate.checks
    ]
    return markdown(["", "declared", "measured", "", "measurements"], rows)


_LEGEND = (
    "proved: by this package, from weights and from constants that it computed in float64. "
    "declared: by a class from outside of the package, or by a constant that it states. measured: "
    "on the problems looked at; a measurement can contradict, and proves nothing about all states. "
    "constant: of |D(a) - D(b)|_G <= constant |a - b|_G; the upper bound is that of D, composed of "
    "the operator's and those of the network's layers (a step is a layer of net=lip and "
    "net=guided, conv one of net=norm_conv). averaging: the least theta in (0, 1) for which that "
    "pair allows D = (1 - theta) I + theta N with a nonexpansive N; a theta below 1 for all pairs "
    "is what makes iterations of D itself converge."
)


def format_title(certificate: Certificate) -> str:
    """The verdict in words."""
    if certificate.verdict != "as declared":
        return certificate.verdict.upper()
    by = ", ".join(certificate.declared_by)
    return f"as declared by {by}, not contradicted by {certificate.measurements} measurements"


def describe_constant(certificate: Certificate) -> str:
    """The bound of D and the largest measured ratio, in a line."""
    bound, stated = certificate.bound, "no bound is known"
    if bound.value is not None:
        stated = f"at most {bound.value:.7g} ({bound.evidence})"
    measured = f"largest measured ratio {certificate.ratio:.6g}"
    return f"Lipschitz constant of D in G: {stated}, {measured}"


def explain_verdict(certificate: Certificate) -> str:
    """The meaning of the verdict in words."""
    if certificate.verdict == "certified":
        (averaged,) = (f for f in certificate.assumptions if f.name == "T is averaged")
        damped = averaged.verdict == "holds"
        last = "T is averaged" if damped else f"T is {averaged.meaning}"
        return (
            "Every assumption of the convergence theory holds: from every start, iterating T leads "
            "to a fixed point. Proved, from the weights and from constants computed in float64: "
            "the problems looked at are convex, G is positive definite, D is nonexpansive in G, "
            f"and {last}. Measured, on these problems: T has a fixed point. Nothing is said about "
            "how good a fixed point is: see the last table."
        )
    if certificate.verdict == "as declared":
        by = ", ".join(certificate.declared_by)
        return (
            f"This is no certificate: {by} is not a part of this package, and what it declares is "
            "not proved. If it is true, every assumption of the convergence theory holds, and "
            "iterating T leads to a fixed point from every start."
        )
    if certificate.verdict == "refused":
        return (
            "A measurement contradicts a bound or a declaration: the network, the operator or a "
            "part of the problem does not compute what it declares, so that nothing below can be "
            "relied on. The worst pair of states is in worst_pair.safetensors."
        )
    lacking = [f for f in certificate.assumptions if f.verdict in ("violated", "not verifiable")]
    named = "; ".join(f"{finding.name} ({finding.verdict})" for finding in lacking)
    return (
        "The convergence theory does not apply, and says nothing of iterations beyond the K "
        f"trained with: {named}."
    )


def _describe_search(certificate: Certificate, k: int, settings: Certify) -> str:
    """How many problems and iterations were examined, in words."""
    text = f"Looked at: {certificate.problems} of the validation problems. Followed for "
    text += f"{settings.horizon * k} iterations (certificate.horizon={settings.horizon} times "
    text += f"K = {k}) from every start"
    if certificate.bound.nonexpansive:
        text += (
            f" and, because D is nonexpansive, up to {PATIENCE} times as long until |D(u) - u|_G "
            f"is at most certificate.tolerance={settings.tolerance:g} of its scale, the larger one "
            "of |u^0|_G and |D(u^0)|_G"
        )
    return text + "."


def _describe_averaging(pair: Pair) -> str:
    if math.isinf(pair.averaging):
        return "no averaging is possible"
    return f"averaging {pair.averaging:.3f} at least"


def _format_finding(finding: Finding) -> list[str]:
    number = "-" if finding.number is None else f"{finding.number:.5g}"
    return [finding.name, finding.verdict, finding.evidence or "-", number, finding.meaning]
