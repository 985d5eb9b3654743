"""Write the convergence certificate of a trained run as JSON, as Markdown and as a figure."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from safetensors.torch import save

from bmo_cli.config.schema import Certify, Config
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Experiment
from bmo_cli.experiment.certificate_curves import trace_starts
from bmo_cli.experiment.evaluation import scores_by_iteration
from bmo_cli.results.certificate_figure import draw_certificate
from bmo_cli.results.files import plain, write_atomically
from bmo_cli.results.iteration_curves import Curves
from bmo_cli.results.result import Certification
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.results.tables import markdown
from bmo_cli.solver.nonexpansive import Pair
from bmo_cli.solver.problem import Sample
from bmo_cli.tasks.task import Case
from bmo_cli.verification.certificate import Certificate, certify
from bmo_cli.verification.examination import PATIENCE, Subject
from bmo_cli.verification.findings import Finding

log = logging.getLogger("bmo")


def write_certificate(
    experiment: Experiment,
    config: Config,
    history: Sequence[Mapping[str, float]],
    folder: RunFolder,
) -> Certification:
    """Certify an experiment with its present weights, and write certificate.{json,md,png}.

    Args:
        experiment: trained.
        config: its configuration.
        history: rows of history.csv.
        folder: in which the certificate is written.

    Returns:
        The verdict, and why the certificate is refused, if it is.
    """
    settings = config.certificate or Certify()
    task, k = experiment.task, config.train.iterations
    cases = list(islice(task.cases("val"), max(settings.cases, Certify.cases)))
    subject = _build_subject(experiment, k, history, cases, settings)
    log.info("certifying on validation problems, %d iterations or more", settings.horizon * k)
    certificate = certify(subject, settings)
    counts = sorted({max(1, round(k * f)) for f in (0.2, 0.5, 1, 2, 5, settings.horizon)})
    scores = {
        count: math.fsum(values) / len(values)
        for count, values in scores_by_iteration(
            experiment.scheme, task, cases[: settings.cases], counts
        ).items()
    }
    curves = trace_starts(
        experiment.scheme,
        task,
        cases[0],
        trained=k,
        iterations=settings.curve,
        seed=settings.seed,
    )
    content = _build_content(certificate, scores, curves, experiment, k, settings)
    text = json.dumps(plain(content), indent=2, allow_nan=False)
    write_atomically(folder.path / "certificate.json", text.encode())
    page = _format_page(certificate, scores, experiment, k, settings)
    write_atomically(folder.path / "certificate.md", page.encode())
    _write_worst_pair(certificate, folder)
    draw_certificate(
        curves,
        k,
        f"{_format_title(certificate)}: {experiment.scheme.title}",
        _describe_constant(certificate),
        folder.path / "certificate.png",
    )
    log.info("\n%s", page)
    reason = _explain_refusal(certificate)
    if reason:
        log.warning(reason)
    return Certification(
        certificate=certificate.verdict,
        message=reason,
        metrics={
            "certificate/bound": certificate.bound.value,
            "certificate/ratio": certificate.ratio,
        },
    )


def _build_subject(
    experiment: Experiment,
    k: int,
    history: Sequence[Mapping[str, float]],
    cases: Sequence[Case],
    settings: Certify,
) -> Subject:
    hyper, gradients = experiment.hyper, [row["hypergrad_norm"] for row in history]
    return Subject(
        scheme=experiment.scheme,
        convex=experiment.task.convex,
        iterations=k,
        step=hyper.step,
        problems=[(case.problem, case.initial) for case in cases[: settings.cases]],
        sample=_draw_training_sample(experiment),
        gradients=gradients if hyper.minimises_phi else None,
        hyper=hyper,
        available=len(cases),
    )


def _write_worst_pair(certificate: Certificate, folder: RunFolder) -> None:
    """Write the pair of states with the largest ratio, so that it can be measured again."""
    worst = max(certificate.pairs.values(), key=lambda pair: pair.surely)
    tensors = {
        f"{name}.{i}": block.contiguous().cpu()
        for name, state in (("a", worst.a), ("b", worst.b))
        for i, block in enumerate(state)
    }
    write_atomically(folder.path / "worst_pair.safetensors", save(tensors))


def _explain_refusal(certificate: Certificate) -> str:
    """Why the certificate is refused; empty where it is not."""
    if certificate.verdict != "refused":
        return ""
    broken = next(f for f in certificate.assumptions if f.verdict == "violated")
    number = "" if broken.number is None else f" ({broken.number:.6f})"
    return f"the certificate is refused: {broken.name}: {broken.meaning}{number}"


def hash_run_files(run: RunFolder) -> dict[str, str]:
    """Hashes of the checkpoint and the configuration of a run."""
    files = {
        "checkpoint": run.checkpoints / "best.safetensors",
        "config": run.path / ".hydra" / "config.yaml",
    }
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if file.is_file()
    }


def _draw_training_sample(experiment: Experiment) -> Sample | None:
    """A training sample, if the training data are available."""
    if experiment.hyper.step is None:
        return None
    try:
        return next(iter(experiment.task.samples(range(1), 1)))
    except InputError:
        return None


def _build_content(
    certificate: Certificate,
    scores: Mapping[int, float],
    curves: Curves,
    experiment: Experiment,
    k: int,
    settings: Certify,
) -> dict[str, Any]:
    net = experiment.scheme.net
    return {
        "verdict": certificate.verdict,
        "assumptions": [asdict(finding) for finding in certificate.assumptions],
        "predictions": [asdict(finding) for finding in certificate.predictions],
        "bound": asdict(certificate.bound) | {"evidence": certificate.bound.evidence},
        "declared": [asdict(check) for check in certificate.checks],
        "measurements": certificate.measurements,
        "search": asdict(settings),
        "problems": certificate.problems,
        "network": None if net is None else {"name": type(net).__name__, "promise": net.guarantee},
        "network_ratio": None if certificate.network is None else certificate.network.ratio,
        "ratios": {kind: pair.ratio for kind, pair in certificate.pairs.items()},
        "averaging": {kind: pair.averaging for kind, pair in certificate.pairs.items()},
        "iterations_trained": k,
        "tolerance": settings.tolerance,
        "trajectories": {
            name: {
                "rate": t.rate,
                "growth": t.growth,
                "behaviour": t.behaviour(settings.tolerance),
                "motion": asdict(t.motion),
                "iterations_to_tolerance": t.iterations_to(settings.tolerance),
                "residuals": list(t.residuals),
            }
            for name, t in certificate.trajectories.items()
        },
        f"val_{experiment.task.metric}": dict(scores),
        "curves": curves,
    }


def _format_page(
    certificate: Certificate,
    scores: Mapping[int, float],
    experiment: Experiment,
    k: int,
    settings: Certify,
) -> str:
    task, net, name = experiment.task, experiment.scheme.net, experiment.scheme.title
    parts = [f"# Convergence certificate: {_format_title(certificate)}"]
    parts += [_explain_verdict(certificate), f"{name}, K = {k}."]
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


def _format_title(certificate: Certificate) -> str:
    """The verdict in words."""
    if certificate.verdict != "as declared":
        return certificate.verdict.upper()
    by = ", ".join(certificate.declared_by)
    return f"as declared by {by}, not contradicted by {certificate.measurements} measurements"


def _describe_constant(certificate: Certificate) -> str:
    """The bound of D and the largest measured ratio, in a line."""
    bound, stated = certificate.bound, "no bound is known"
    if bound.value is not None:
        stated = f"at most {bound.value:.7g} ({bound.evidence})"
    measured = f"largest measured ratio {certificate.ratio:.6g}"
    return f"Lipschitz constant of D in G: {stated}, {measured}"


def _explain_verdict(certificate: Certificate) -> str:
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
