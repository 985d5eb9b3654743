"""Write the convergence certificate of a trained run as JSON, as Markdown and as a figure."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

from safetensors.torch import save

from bmo_cli.config.schema import Certify, Config
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Experiment
from bmo_cli.experiment.certificate_curves import Recorder, scored_counts, trace_starts
from bmo_cli.experiment.certificate_page import (
    describe_constant,
    format_line,
    format_page,
    format_title,
)
from bmo_cli.results.certificate_figure import draw_certificate
from bmo_cli.results.files import plain, write_atomically
from bmo_cli.results.iteration_curves import Curves
from bmo_cli.results.result import Certification
from bmo_cli.results.run_folder import RunFolder
from bmo_cli.solver.problem import Sample
from bmo_cli.tasks.task import Case
from bmo_cli.verification.certificate import Certificate, certify
from bmo_cli.verification.examination import Subject

log = logging.getLogger("bmo")


def write_certificate(
    experiment: Experiment,
    config: Config,
    history: Sequence[Mapping[str, float]],
    folder: RunFolder,
    *,
    shown: Literal["page", "line"] = "page",
) -> Certification:
    """Certify an experiment with its present weights, and write certificate.{json,md,png}.

    Args:
        experiment: trained.
        config: its configuration.
        history: rows of history.csv.
        folder: in which the certificate is written.
        shown: what is logged.

    Returns:
        The verdict, and why the certificate is refused, if it is.
    """
    settings = config.certificate or Certify()
    task, k = experiment.task, config.train.iterations
    cases = list(islice(task.cases("val"), max(settings.cases, Certify.cases)))
    counts = sorted({max(1, round(k * f)) for f in (0.2, 0.5, 1, 2, 5, settings.horizon)})
    drawn = scored_counts(settings.curve, k)
    recorder = Recorder(task, cases[: settings.cases], {*counts, *drawn})
    subject = _build_subject(experiment, k, history, cases, settings, recorder)
    log.info("certifying on validation problems, %d iterations or more", settings.horizon * k)
    certificate = certify(subject, settings)
    scores = recorder.scores(experiment.scheme, counts)
    curves = trace_starts(
        experiment.scheme,
        task,
        cases[0],
        trained=k,
        iterations=settings.curve,
        seed=settings.seed,
        known=recorder.traces(certificate.first, drawn),
    )
    content = _build_content(certificate, scores, curves, experiment, k, settings)
    text = json.dumps(plain(content), indent=2, allow_nan=False)
    write_atomically(folder.path / "certificate.json", text.encode())
    page = format_page(certificate, scores, experiment, k, settings)
    write_atomically(folder.path / "certificate.md", page.encode())
    _write_worst_pair(certificate, folder)
    draw_certificate(
        curves,
        k,
        f"{format_title(certificate)}: {experiment.scheme.title}",
        describe_constant(certificate),
        folder.path / "certificate.png",
    )
    log.info("%s", f"\n{page}" if shown == "page" else format_line(certificate))
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
    recorder: Recorder,
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
        watch=recorder.watch,
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
