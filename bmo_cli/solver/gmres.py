"""GMRES for systems that are not symmetric (Saad & Schultz, SIAM J. Sci. Stat. Comput. 1986)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gmres(
    apply: Callable[[Tensor], Tensor], right: Tensor, *, iterations: int, tolerance: float
) -> tuple[Tensor, float]:
    """Solve A q = b without restarts.

    Arnoldi with modified Gram-Schmidt; the small least-squares problem is solved afresh at every
    step, whose cost is nothing beside a product with A.

    Args:
        apply: q -> A q, shapes (n,).
        right: b, (n,).
        iterations: largest number of products with A.
        tolerance: stop at |b - A q| <= tolerance |b|.

    Returns:
        q and |b - A q| / |b|, which is above the tolerance when the iterations did not suffice or
        A is singular.
    """
    norm = right.norm()
    if norm == 0:
        return torch.zeros_like(right), 0.0
    basis = [right / norm]
    hessenberg = right.new_zeros(iterations + 1, iterations)
    target = right.new_zeros(iterations + 1)
    target[0] = norm
    weights, defect = right.new_zeros(0), norm
    for j in range(iterations):
        w = apply(basis[j])
        for i, v in enumerate(basis):
            hessenberg[i, j] = torch.dot(v, w)
            w = w - hessenberg[i, j] * v
        hessenberg[j + 1, j] = w.norm()
        small, short = hessenberg[: j + 2, : j + 1], target[: j + 2]
        weights = torch.linalg.lstsq(small, short[:, None], driver="gelsd").solution[:, 0]
        defect = (small @ weights - short).norm()
        if defect <= tolerance * norm or hessenberg[j + 1, j] <= 1e-14 * norm:
            break
        basis.append(w / hessenberg[j + 1, j])
    return torch.stack(basis[: len(weights)], 1) @ weights, float(defect / norm)
