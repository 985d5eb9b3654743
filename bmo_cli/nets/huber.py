"""The gradient of Huber functions of filter responses, as one differentiable operation.

Shape legend: B images, C channels, H x W pixels, m filters of k x k.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bmo_cli.nets.filter_bank import (
    PeriodicBuffer,
    analyse,
    filter_gradient,
    in_one_precision,
    synthesise,
    wrap,
)

Rotation = tuple[Tensor, Tensor]
"""cos and sin of the angle of every pair of neighbouring responses, each (B, m / 2, H, W)"""


def huber_gradient(
    x: Tensor, filters: Tensor, levels: Tensor, rotation: Rotation | None = None
) -> Tensor:
    """W^T Q^T clip(Q W x, -t, t), the gradient of sum_i h_i((Q W x)_i).

    h_i is the Huber function whose slope is limited to t_i. The result is computed in place where
    that is possible, and responses are computed again for the derivative, so that the graph keeps
    x alone of what changes along an iteration.

    Args:
        x: (B, C, H, W).
        filters: W, (m, C, k, k).
        levels: t >= 0, of a shape that broadcasts to (B, m, H, W).
        rotation: Q; None: Q = I.

    Returns:
        (B, C, H, W).
    """
    x, filters = in_one_precision(x, filters)
    cos, sin = rotation or (None, None)
    gradient: Tensor = _HuberGradient.apply(x, filters, levels, cos, sin)  # type: ignore[no-untyped-call]
    return gradient


def rotate(z: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Every pair of neighbouring channels as a vector, rotated: (B, m, H, W) to the same shape.

    Args:
        z: (B, m, H, W), m even.
        cos, sin: (B, m / 2, H, W), of the angles.
    """
    a, b = z[:, 0::2], z[:, 1::2]
    return torch.stack([cos * a + sin * b, cos * b - sin * a], 2).flatten(1, 2)


def _compose(
    x: Tensor, filters: Tensor, levels: Tensor, cos: Tensor | None, sin: Tensor | None
) -> Tensor:
    """`huber_gradient` by its definition, with derivatives of every order."""
    z = analyse(x, filters)
    if cos is None or sin is None:
        clipped = torch.clamp(z, -levels, levels)
    else:
        clipped = rotate(torch.clamp(rotate(z, cos, sin), -levels, levels), cos, -sin)
    return synthesise(clipped.to(z.dtype), filters)


class _HuberGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        filters: Tensor,
        levels: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, filters, levels, cos, sin)
        z = F.conv2d(wrap(x, filters), filters)
        clipped = _clip_(_rotated(z, cos, sin), levels)
        buffer = PeriodicBuffer(z.shape, filters)
        _rotate_back(clipped, cos, sin, buffer.interior)
        return buffer.synthesise(filters)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # of an order above the first
            return _derivatives(ctx, gradient)
        x, filters, levels, cos, sin = ctx.saved_tensors
        to_x, to_filters, *to_others = ctx.needs_input_grad
        z, pulled = (F.conv2d(wrap(image, filters), filters) for image in (x, gradient))
        rotated, turned = _rotated(z, cos, sin), _rotated(pulled, cos, sin)
        clipped = _clip_(rotated.clone(), levels)
        passed = torch.where(clipped == rotated, turned, 0.0)
        buffer = PeriodicBuffer(z.shape, filters)
        _rotate_back(passed, cos, sin, buffer.interior)
        by_filters = by_levels = by_cos = by_sin = None
        if to_filters:
            before = clipped
            if cos is not None:
                before = torch.empty_like(z)
                _rotate_back(clipped, cos, sin, before)
            by_filters = filter_gradient(x, buffer.interior.contiguous(), filters)
            by_filters += filter_gradient(gradient, before.to(gradient.dtype), filters)
        if any(to_others):
            limited = turned.sub_(passed).mul_(rotated.sign())
            by_levels = limited.sum_to_size(levels.shape)
        if cos is not None and any(to_others):
            (a, b), (c, d), (e, f), (g, h) = map(_pairs, (z, passed, pulled, clipped))
            by_cos = (c * a).addcmul_(d, b).addcmul_(e, g).addcmul_(f, h)
            by_sin = (c * b).addcmul_(d, a, value=-1).addcmul_(f, g).addcmul_(e, h, value=-1)
        by_x = buffer.synthesise(filters) if to_x else None
        return by_x, by_filters, by_levels, by_cos, by_sin


def _derivatives(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The derivatives with a graph of their own."""
    # Other names of the arguments: x may depend on W and t, through iterations before this one.
    inputs: list[Any] = [None if v is None else v.view_as(v) for v in ctx.saved_tensors]
    needed = [t for t, needs in zip(inputs, ctx.needs_input_grad, strict=True) if needs]
    value = _compose(*inputs)
    computed = iter(torch.autograd.grad(value, needed, gradient, create_graph=True))
    return tuple(next(computed) if needs else None for needs in ctx.needs_input_grad)


def _pairs(z: Tensor) -> tuple[Tensor, Tensor]:
    return z[:, 0::2], z[:, 1::2]


def _rotated(z: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """Q z, in memory of its own unless Q = I."""
    if cos is None or sin is None:
        return z
    rotated = torch.empty(z.shape, dtype=torch.promote_types(z.dtype, cos.dtype), device=z.device)
    (a, b), (c, d) = _pairs(z), _pairs(rotated)
    torch.mul(cos, a, out=c).addcmul_(sin, b)
    torch.mul(cos, b, out=d).addcmul_(sin, a, value=-1)
    return rotated


def _rotate_back(z: Tensor, cos: Tensor | None, sin: Tensor | None, out: Tensor) -> None:
    """Write Q^T z to `out`."""
    if cos is None or sin is None:
        out.copy_(z)
        return
    (a, b), (c, d) = _pairs(z), _pairs(out)
    torch.mul(cos, a, out=c).addcmul_(sin, b, value=-1)
    torch.mul(cos, b, out=d).addcmul_(sin, a)


def _clip_(z: Tensor, t: Tensor) -> Tensor:
    return torch.clamp(z, -t, t, out=z)
