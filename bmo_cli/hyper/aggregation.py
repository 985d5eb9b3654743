"""Bilevel meta optimisation (BMO) and plain unrolling (docs/method.md, "The BMO iteration").

    v_l = T(u^k; omega),                            k = 0 ... K - 1
    v_u = u^k - s_k G^{-1} grad_u l(u^k),           s_k = s / (k + 1)
    u^{k+1} = Proj_{U,G}( mu v_u + (1 - mu) v_l )
    phi_K(omega) = l(u^K(omega)),  differentiated through all K steps

Unrolling is mu = 0.
"""

from __future__ import annotations

from bmo_cli.config.checks import Finite, HalfOpenUnit, Memory, OpenUnit, Positive, checked
from bmo_cli.errors import DivergenceError, InputError
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import Outcome
from bmo_cli.hyper.reverse import ReverseMode
from bmo_cli.solver.fixed_point import FixedPointMap, UpdateRule
from bmo_cli.solver.problem import Loss, Sample
from bmo_cli.solver.state import State, step_towards


@checked
class Unrolled(ReverseMode):
    """Reverse mode through K iterations of T.

    Args:
        memory, memory_mib: see `ReverseMode`.
    """

    def __init__(self, *, memory: Memory = "auto", memory_mib: Positive | None = None) -> None:
        super().__init__(memory, memory_mib)

    def objective(self, scheme: GKM, sample: Sample, iterations: int) -> Outcome:
        mapping = scheme.bind(sample.problem)
        loss = mapping.loss_on_state(sample.loss)
        update = self._update_rule(mapping, loss)
        solution = self._iterate(scheme, mapping, sample.initial, iterations, update=update)
        objective = loss.value(solution.value).mean() / loss.size
        return Outcome(objective, solution.residuals[-1], solution.status)


@checked
class BMO(Unrolled):
    """Joint training and hyper-training: T aggregated with a vanishing descent step on l.

    Args:
        mu: aggregation weight, in [0, 1).
        mu_end: aggregation weight that the training approaches linearly; None: `mu`.
        s: step on l as a share of its upper limit lambda_min(G) / L_l, in (0, 1). The limit is
            taken at the present omega, so a learned metric cannot leave the condition.
        box: bounds (low, high) of the estimate. The first block is projected onto them after every
            step. Only for operators whose iterate is the estimate. None: no bounds.
        memory, memory_mib: see `ReverseMode`.
    """

    def __init__(
        self,
        *,
        mu: HalfOpenUnit = 0.05,
        mu_end: HalfOpenUnit | None = None,
        s: OpenUnit = 0.9,
        box: tuple[Finite, Finite] | None = None,
        memory: Memory = "auto",
        memory_mib: Positive | None = None,
    ) -> None:
        super().__init__(memory=memory, memory_mib=memory_mib)
        if box is not None and not box[0] < box[1]:
            raise InputError(f"box must be (low, high) with low < high, got {tuple(box)}")
        self.mu, self.s, self.box = mu, s, box
        self._ends = (mu, mu if mu_end is None else mu_end)

    def begin_step(self, done: float) -> None:
        first, last = self._ends
        self.mu = first + done * (last - first)

    def _update_rule(self, mapping: FixedPointMap, loss: Loss) -> UpdateRule | None:
        metric = mapping.metric
        if self.box is not None and mapping.readout is not None:
            raise InputError(
                "hyper.box bounds the estimate of u, and the iterate of this operator is another "
                "quantity (gkm=dr iterates s, gkm=rain_dictionary sparse maps), which need not lie "
                "in the box; use hyper.box=null, or gkm=pg"
            )
        if self.box is not None and not metric.is_diagonal:
            raise InputError(
                f"hyper.box needs a diagonal metric, but {type(metric).__name__} is not: "
                "the G-projection onto a box is then no clamp; use hyper.box=null"
            )
        limit = metric.smallest_eigenvalue
        if limit.item() == 0:
            raise DivergenceError(
                f"lambda_min(G) of {type(metric).__name__} became 0: a step size is beyond the "
                f"range of {str(limit.dtype).removeprefix('torch.')}"
            )
        if limit.item() < 0:
            raise InputError(
                f"lambda_min(G) = {limit.item():.3g} of {type(metric).__name__} is not positive: a "
                "step on the loss would climb. The operator's step sizes break their condition; "
                "state the norms of its linear maps right, or use shorter steps"
            )
        s = self.s * metric.smallest_eigenvalues / loss.lipschitz

        def aggregate(k: int, u: State, averaged: State) -> State:
            direction = metric.solve(loss.grad(u))
            descended = tuple(a - s / (k + 1) * d for a, d in zip(u, direction, strict=True))
            return self._project(step_towards(averaged, descended, self.mu))

        return aggregate

    @property
    def step(self) -> float:
        return self.s

    def _project(self, u: State) -> State:
        return u if self.box is None else (u[0].clamp(*self.box), *u[1:])

    def check(self, scheme: GKM) -> tuple[str, ...]:
        reason = scheme.expansive_because
        return () if reason is None else (f"bmo converges for a nonexpansive D, but {reason}",)
