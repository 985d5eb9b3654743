"""`bmo certify`: the convergence certificate of a trained run, as JSON, a page and a picture."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors.torch import save

from bmo_cli.certificate.certify import PATIENCE, Certificate, Subject, certify
from bmo_cli.certificate.findings import Finding
from bmo_cli.config.commands import command
from bmo_cli.config.schema import Certify
from bmo_cli.errors import BmoError, InputError
from bmo_cli.experiment.behaviour import require_map_of
from bmo_cli.experiment.build import Experiment, build
from bmo_cli.experiment.checkpoint import load_checkpoint
from bmo_cli.experiment.evaluation import along
from bmo_cli.experiment.inputs import differing
from bmo_cli.experiment.plugins import names_plugins, plugin_contents
from bmo_cli.results.figures import certificate_figure
from bmo_cli.results.run_folder import RunFolder, plain, write_atomically
from bmo_cli.results.tables import markdown
from bmo_cli.solver.nonexpansive import Pair
from bmo_cli.solver.problem import Sample

log = logging.getLogger("bmo")


@names_plugins
def certify_run(
    config: Mapping[str, Any],
    names: Mapping[str, str | None],
    folder: RunFolder,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Certify the best checkpoint of `config["run"]` on its validation problems.

    Args:
        config: resolved configuration that passed `config.schema.check_config`.
        names: chosen option of every group, for the result.
        folder: where the certificate goes.
        begin: called when everything is built and loaded, before anything is written.

    Returns:
        The content of result.json.

    Raises:
        InputError: not a finished run, or its checkpoint, configuration and data do not belong
            together.
        BmoError: the certificate is refused; it is written before.
    """
    run = RunFolder(Path(config["run"]))
    trained = run.read_result()
    _require_identity(run, trained, config["plugins"])
    experiment = build(config)
    experiment.task.prepare(["val"])
    best = run.checkpoints / "best.safetensors"
    progress = load_checkpoint(best, experiment.omega)
    _require_inputs(trained, experiment.task.fingerprints())
    history = run.read_history()
    require_map_of(experiment, "val")
    _require_plugins(trained, config["plugins"])
    begin()
    result: dict[str, Any] = {
        "status": "ok",
        "message": "",
        "run": str(run.path),
        **names,
        "steps": progress.step,
        "identity": trained["identity"],
    }
    result |= write_certificate(experiment, config, history, folder)
    if result["message"]:
        folder.write_result(result)  # a refusal is a result, too
        raise BmoError(f"{result['message']}; see {folder.path}")
    return result


def write_certificate(
    experiment: Experiment,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    folder: RunFolder,
) -> dict[str, Any]:
    """Certify an experiment at its present weights and write certificate.{json,md,png}.

    Args:
        experiment: trained.
        config: its configuration.
        history: rows of history.csv.
        folder: where the certificate goes.

    Returns:
        `metrics` (certificate/bound, certificate/ratio), `certificate` (the verdict) and `message`
        (why it is refused, if it is).
    """
    settings, train = Certify(**(config.get("certificate") or {})), config["train"]
    task, k = experiment.task, train["iterations"]
    cases = list(islice(task.cases("val"), max(settings.cases, Certify.cases)))
    available, cases = len(cases), cases[: settings.cases]
    gradients = [row["hypergrad_norm"] for row in history]
    subject = Subject(
        scheme=experiment.scheme,
        convex=task.convex,
        iterations=k,
        step=experiment.hyper.step,
        problems=[(case.problem, case.initial) for case in cases],
        sample=_sample(experiment),
        gradients=gradients if experiment.hyper.minimises_phi else None,
        hyper=experiment.hyper,
        available=available,
    )
    log.info("certifying on validation problems, %d iterations or more", settings.horizon * k)
    certificate = certify(subject, settings)
    counts = sorted({max(1, round(k * f)) for f in (0.2, 0.5, 1, 2, 5, settings.horizon)})
    scores = {
        count: math.fsum(values) / len(values)
        for count, values in along(experiment.scheme, task, cases, counts).items()
    }
    content = _content(certificate, scores, experiment, k, settings)
    text = json.dumps(plain(content), indent=2, allow_nan=False)
    write_atomically(folder.path / "certificate.json", text.encode())
    page = _page(certificate, scores, experiment, k, settings)
    write_atomically(folder.path / "certificate.md", page.encode())
    worst = max(certificate.pairs.values(), key=lambda pair: pair.surely)
    tensors = {
        f"{name}.{i}": block.contiguous().cpu()
        for name, state in (("a", worst.a), ("b", worst.b))
        for i, block in enumerate(state)
    }
    write_atomically(folder.path / "worst_pair.safetensors", save(tensors))
    certificate_figure(
        {name: t.residuals for name, t in certificate.trajectories.items()},
        (scores, f"{task.metric} {task.unit}".strip()),
        [(row["step"], row["hypergrad_norm"]) for row in history],
        k,
        certificate.verdict,
        folder.path / "certificate.png",
    )
    log.info("\n%s", page)
    reason = ""
    if certificate.verdict == "refused":
        broken = next(f for f in certificate.assumptions if f.verdict == "violated")
        number = "" if broken.number is None else f" ({broken.number:.6f})"
        reason = f"the certificate is refused: {broken.name}: {broken.meaning}{number}"
        log.warning(reason)
    return {
        "metrics": {
            "certificate/bound": certificate.bound.value,
            "certificate/ratio": certificate.ratio,
        },
        "certificate": certificate.verdict,
        "message": reason,
    }


def run_identity(run: RunFolder) -> dict[str, str]:
    """Hashes of the files of a run that belong together."""
    files = {
        "checkpoint": run.checkpoints / "best.safetensors",
        "config": run.path / ".hydra" / "config.yaml",
    }
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if file.is_file()
    }


def _require_identity(run: RunFolder, trained: Mapping[str, Any], plugins: Sequence[str]) -> None:
    recorded, found = trained.get("identity"), run_identity(run)
    if recorded is None and trained.get("status") != "ok":
        status = trained.get("status", "no result.json")
        again = command("train", plugins=plugins, resume=run.path)
        raise InputError(
            f"{run.path} is not a finished run ({status}), and a certificate needs one; finish it "
            f"with '{again}'"
        )
    if not isinstance(recorded, Mapping) or not set(found) <= set(recorded):
        raise InputError(
            f"{run.path}: result.json does not say which checkpoint and configuration it belongs "
            "to; train the run again"
        )
    for name, digest in recorded.items():
        if found.get(name) != digest:
            what = {"checkpoint": "checkpoints/best.safetensors", "config": ".hydra/config.yaml"}
            raise InputError(
                f"{run.path}: {what.get(name, name)} is not the one that the run's result.json "
                "belongs to; a certificate needs the run as it was trained"
            )


def _require_inputs(trained: Mapping[str, Any], fingerprints: Mapping[str, Any]) -> None:
    keys = ("val", "val_rain", "kernel_content", "dictionary")
    others = differing(trained.get("data", {}), fingerprints, keys)
    if others:
        raise InputError(
            f"the run was trained with other data ({', '.join(others)}) than are found now; name "
            "those that it was trained with (data.val=..., task.kernels=...)"
        )


def _require_plugins(trained: Mapping[str, Any], plugins: Sequence[str]) -> None:
    """To be asked when they have computed something: what they import then is a part of them."""
    recorded, present = trained.get("plugins"), plugin_contents(plugins)
    for name, digest in recorded.items() if isinstance(recorded, Mapping) else ():
        if present.get(name, digest) != digest:
            raise InputError(
                f"the plug-in {name} is not the one that the run was trained with; a certificate "
                "needs the run as it was trained"
            )


def _sample(experiment: Experiment) -> Sample | None:
    """A training sample where the training data are at hand."""
    if experiment.hyper.step is None:
        return None
    try:
        return next(iter(experiment.task.samples(range(1), 1)))
    except InputError:
        return None


def _content(
    certificate: Certificate,
    scores: Mapping[int, float],
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
                "iterations_to_tolerance": t.met(settings.tolerance),
                "residuals": list(t.residuals),
            }
            for name, t in certificate.trajectories.items()
        },
        f"val_{experiment.task.metric}": dict(scores),
    }


def _page(
    certificate: Certificate,
    scores: Mapping[int, float],
    experiment: Experiment,
    k: int,
    settings: Certify,
) -> str:
    task, net, bound = experiment.task, experiment.scheme.net, certificate.bound
    operator = type(experiment.scheme.operator).__name__
    name = operator if net is None else f"{operator} with {type(net).__name__}"
    parts = [f"# Convergence certificate: {_title(certificate)}"]
    parts += [_meaning(certificate), f"{name}, K = {k}."]
    if net is not None:
        parts.append(f"The network promises: {net.guarantee}.")
    header = ["", "verdict", "evidence", "number", "why"]
    parts.append("## What the theory assumes")
    parts.append(markdown(header, [_line(finding) for finding in certificate.assumptions]))
    parts.append("## What it predicts, measured")
    parts.append(markdown(header, [_line(finding) for finding in certificate.predictions]))
    parts.append(_searched(certificate, k, settings))
    parts.append("## How far D stretches")
    on = "" if bound.value is None else f"{bound.evidence}: "
    rows = [["upper bound", "-" if bound.value is None else f"{bound.value:.7g}", on + bound.why]]
    rows += [[f"bound, {layer.layer}", f"{layer.value:.7g}", layer.how] for layer in bound.layers]
    rows += [
        [f"measured, {kind} pairs", f"{pair.ratio:.7g}", _averaging(pair)]
        for kind, pair in certificate.pairs.items()
    ]
    if certificate.network is not None:
        alone = f"in the Euclidean norm; {_averaging(certificate.network)}"
        rows.append(["measured, the network alone", f"{certificate.network.ratio:.7g}", alone])
    parts.append(markdown(["", "constant", "how"], rows))
    parts.append(_LEGEND)
    if certificate.checks:
        parts.append("## What is declared, measured")
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
        parts.append(markdown(["", "declared", "measured", "", "measurements"], rows))
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


def _title(certificate: Certificate) -> str:
    """The verdict in words."""
    if certificate.verdict != "as declared":
        return certificate.verdict.upper()
    by = ", ".join(certificate.declared_by)
    return f"as declared by {by}, not contradicted by {certificate.measurements} measurements"


def _meaning(certificate: Certificate) -> str:
    """What the verdict says, in words."""
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


def _searched(certificate: Certificate, k: int, settings: Certify) -> str:
    """How far the iteration was followed."""
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


def _averaging(pair: Pair) -> str:
    if math.isinf(pair.averaging):
        return "no averaging is possible"
    return f"averaging {pair.averaging:.3f} at least"


def _line(finding: Finding) -> list[str]:
    number = "-" if finding.number is None else f"{finding.number:.5g}"
    return [finding.name, finding.verdict, finding.evidence or "-", number, finding.meaning]
