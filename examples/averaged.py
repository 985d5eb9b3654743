"""A hyper-optimiser of one's own: the loss is taken at the mean of the last iterates."""

import torch

from bmo_cli.config.checks import Count, checked
from bmo_cli.hyper.base import HyperOptimizer, Outcome
from bmo_cli.solver.fixed_point import iterate


@checked
class AveragedIterates(HyperOptimizer):
    """phi(omega) = l( mean of u^{K-M+1}, ..., u^K ), differentiated through all iterations.

    Args:
        last: M, how many iterates are averaged.
    """

    def __init__(self, *, last: Count = 3) -> None:
        self.last = last

    def objective(self, scheme, sample, iterations):
        mapping = scheme.bind(sample.problem)
        loss, iterates = mapping.loss_on_state(sample.loss), []

        def collect(k, u, following):
            iterates.append(following)

        solution = iterate(mapping, sample.initial, iterations=iterations, observe=collect)
        blocks = zip(*iterates[-self.last :], strict=True)
        mean = tuple(torch.stack(block).mean(0) for block in blocks)
        objective = loss.value(mean).mean() / loss.size
        return Outcome(objective, solution.residuals[-1], solution.status)
