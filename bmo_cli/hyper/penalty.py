"""A penalty on the expansion of a network. It lowers the expansion and proves nothing.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bmo_cli.gkm.scheme import GKM
from bmo_cli.solver.fixed_point import iterate
from bmo_cli.solver.problem import Sample

_MARGIN = 0.05
_TURNS = 6


def expansion(scheme: GKM, sample: Sample, iterations: int) -> Tensor:
    """Mean over the batch of max(|2 J_R(x) - I|^2, 1 - 0.05), R the network, x along the iteration.

    2 R - I is nonexpansive if and only if R is firmly nonexpansive. Power iteration estimates the
    norm from below. x is a random mixture of the estimates at u^0 and u^K. (Pesquet, Repetti,
    Terris & Wiaux, "Learning maximally monotone operators for image recovery", SIAM J. Imaging Sci.
    2021.)

    Args:
        scheme: a scheme with a network.
        sample: its problem and start are used, not the ground truth.
        iterations: K.

    Returns:
        A scalar, at least 1 - 0.05.
    """
    net, problem = scheme.net, sample.problem
    assert net is not None
    guide = problem.guide() if net.guided and problem.guide is not None else None
    generator = torch.Generator().manual_seed(sample.seed)
    with torch.no_grad():
        mapping = scheme.bind(problem)
        begin = mapping.lift(sample.initial)
        end = iterate(mapping, begin, iterations=iterations).value
        first, last = (
            scheme.operator.network_argument(u, mapping.estimate(u)) for u in (begin, end)
        )
        share = torch.rand(len(first), 1, 1, 1, generator=generator).to(first)
        point = (1 - share) * first + share * last
        direction = torch.randn(point.shape, generator=generator).to(point)
    return reflected_norm_squared(net.bind(guide), point, direction).clamp_min(1 - _MARGIN).mean()


def reflected_norm_squared(
    network: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, turns: int = _TURNS
) -> Tensor:
    """|2 J_R(x) - I|^2 of each image, from below; differentiable in the network's weights.

    Args:
        network: R.
        point: x, (B, C, H, W).
        direction: first direction of the power iteration, (B, C, H, W).
        turns: steps of the power iteration on (2 J - I)^T (2 J - I).

    Returns:
        (B,).
    """
    x = point.detach().requires_grad_()
    reflected = 2 * network(x) - x
    cotangent = torch.zeros_like(reflected, requires_grad=True)
    (pulled,) = torch.autograd.grad(reflected, x, cotangent, create_graph=True)

    def push(v: Tensor, keep: bool) -> Tensor:
        """(2 J - I) v, as the derivative of the transposed product."""
        pushed: tuple[Tensor, ...] = torch.autograd.grad(
            pulled, cotangent, v, create_graph=keep, retain_graph=True
        )
        return pushed[0]

    v = _unit(direction)
    for _ in range(turns):
        (back,) = torch.autograd.grad(reflected, x, push(v, False), retain_graph=True)
        v = _unit(back)
    return push(v, True).square().flatten(1).sum(1)


def _unit(v: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)
    return v / length.clamp_min(1e-30)
