"""Predictions of the convergence theory, measured on trajectories and on the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bmo_cli.verification.findings import Finding, finite_or_none
from bmo_cli.verification.trajectory import Trajectory


def assess_residual(trajectories: Mapping[str, Trajectory], tolerance: float) -> Finding:
    """Whether the residual goes to 0 far beyond K."""
    name, slowest = "the residual goes to 0 from every start", _slowest(trajectories, tolerance)
    trajectory = trajectories[slowest]
    behaviour, done = trajectory.behaviour(tolerance), len(trajectory.residuals)
    met, motion = trajectory.iterations_to(tolerance), trajectory.motion
    last = trajectory.residuals[-1] if trajectory.residuals else math.nan
    rate = f", about {trajectory.rate:.3f} an iteration" if math.isfinite(trajectory.rate) else ""
    if behaviour == "converged":
        after = f"at most {tolerance:g} after {met} iterations" if met is not None else ""
        after = after or f"|D(u) - u|_G is {motion.relative:.0e} of |u^0|_G after {done} iterations"
        text = f"{after} from {slowest}, the slowest{rate}"
        return Finding(name, "holds", last, text, "measured")
    if behaviour == "converging":
        text = (
            f"from {slowest} still falling after {done} iterations{rate}: follow it longer with a "
            "larger certificate.horizon"
        )
        return Finding(name, "not verifiable", last, text)
    if behaviour == "moves on":
        text = (
            f"from {slowest} u moves on after {done} iterations: |D(u) - u|_G stays at "
            f"{motion.displacement:.3g}, whatever its share of |u|"
        )
        return Finding(name, "not verifiable", last, text)
    text = f"from {slowest} it {behaviour} within {done} iterations"
    text += f" (least {min(trajectory.residuals):.1e})" if trajectory.residuals else ""
    return Finding(name, "violated", finite_or_none(last), text, "measured")


def assess_steps(trajectories: Mapping[str, Trajectory]) -> Finding:
    """Whether steps never grow, which holds for every averaged map."""
    growths = [t.growth for t in trajectories.values() if not math.isnan(t.growth)]
    growth = max(growths, default=math.nan)
    name = "|u^{k+1} - u^k|_G never grows"
    if math.isnan(growth):
        return Finding(name, "not verifiable", None, "it stopped at once")
    held = growth <= 1 + 1e-3
    return Finding(
        name,
        "holds" if held else "violated",
        growth,
        "largest factor from one iteration to the next, rounding left out; at most 1 for an "
        "averaged map",
        "measured",
    )


def assess_uniqueness(
    trajectories: Mapping[str, Trajectory], tolerance: float, apart: float
) -> Finding:
    """Whether the ends of all trajectories agree."""
    name = "all starts lead to one fixed point (the theory allows several)"
    behaviours = {t.behaviour(tolerance) for t in trajectories.values()}
    if behaviours != {"converged"}:
        text = "not all of them have converged; follow them with a larger certificate.horizon"
        return Finding(name, "not verifiable", finite_or_none(apart), text)
    if len(trajectories) < 2:
        return Finding(name, "not verifiable", None, "only one start")
    text = "largest relative distance of the ends"
    if apart <= max(1e-2, 100 * tolerance):
        return Finding(name, "holds", apart, text, "measured")
    if apart <= 2 * max(_remaining_distance(t) for t in trajectories.values()):
        return Finding(
            name, "not verifiable", apart, f"{text}, which creep: their limits may agree"
        )
    return Finding(name, "several", apart, f"{text}: several fixed points", "measured")


def assess_stationarity(gradients: Sequence[float] | None) -> Finding:
    """Whether |grad phi_K| decreases from the beginning to the end of training."""
    name = "|grad phi_K| goes to 0 along training"
    if gradients is None:
        return Finding(name, "not used", None, "this method minimises another objective than phi_K")
    share = gradient_decay(gradients)
    if math.isnan(share):
        return Finding(name, "not verifiable", None, "fewer than four recorded values")
    text = "mean over the last tenth of training, as a share of that over the first tenth"
    if share <= 0.1:
        return Finding(name, "holds", share, text, "measured")
    return Finding(
        name, "not verifiable", share, f"{text}; where batches change, a noise floor remains"
    )


def gradient_decay(gradients: Sequence[float]) -> float:
    """Mean of the last tenth of the values as a share of the first tenth's; nan for too few."""
    known = [g for g in gradients if math.isfinite(g)]
    part = max(1, len(known) // 10)
    first = math.fsum(known[:part])
    return math.fsum(known[-part:]) / first if len(known) >= 4 and first > 0 else math.nan


def last_residual(trajectory: Trajectory) -> float:
    """The last residual; infinite if an iterate was not finite."""
    return trajectory.residuals[-1] if trajectory.finite else math.inf


def _remaining_distance(trajectory: Trajectory) -> float:
    """Relative distance of the end from its limit, by the geometric series of its rate."""
    rate = trajectory.rate
    return last_residual(trajectory) / max(1 - rate, 1e-30) if math.isfinite(rate) else 0.0


def slowness(trajectory: Trajectory, tolerance: float) -> tuple[bool, float]:
    """A sort key: trajectories that diverge or never reach the tolerance are the slowest."""
    if trajectory.motion.is_uniform:
        return True, math.inf
    met = trajectory.iterations_to(tolerance)
    return (True, last_residual(trajectory)) if met is None else (False, met)


def _slowest(trajectories: Mapping[str, Trajectory], tolerance: float) -> str:
    return max(trajectories, key=lambda name: slowness(trajectories[name], tolerance))
