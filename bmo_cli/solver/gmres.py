"""GMRES for systems that are not symmetric (Saad & Schultz, SIAM J. Sci. Stat. Comput. 1986)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.solver.state import binary_scale


def gmres(
    apply: Callable[[Tensor], Tensor], right: Tensor, *, iterations: int, tolerance: float
) -> tuple[Tensor, float]:
    """Solve A q = b without restarts.

    Arnoldi process with modified Gram-Schmidt. The small least-squares problem is solved anew at
    every step, which costs little compared with a product with A. Non-finite products lead to nan.
    Steps, stopping and relative defect do not depend on the scale of b, as long as A q is
    representable.

    Args:
        apply: q -> A q, shapes (n,).
        right: b, (n,).
        iterations: largest number of products with A.
        tolerance: stop at |b - A q| <= tolerance |b|.

    Returns:
        q and |b - A q| / |b|. The latter is above the tolerance if the iterations did not suffice
        or A is singular.
    """
    scale = binary_scale((right,))
    scaled = right / scale
    norm = scaled.norm()
    if norm == 0:
        return torch.zeros_like(right), 0.0
    basis = [scaled / norm]
    size = norm.item()
    eps = torch.finfo(right.dtype).eps
    # The small system is solved in double precision on the CPU, whatever the device of A.
    hessenberg = np.zeros((iterations + 1, iterations))
    target = np.zeros(iterations + 1)
    target[0] = size
    weights: NDArray[Any] = np.zeros(0)
    defect = size
    for j in range(iterations):
        w = apply(basis[j])
        before = w.norm().item()
        for i, v in enumerate(basis):
            product = torch.dot(v, w)
            hessenberg[i, j] = product.item()
            w = w - product * v
        length = w.norm()
        # The rest of A v is rounding error: the Krylov space is invariant.
        invariant = length.item() <= eps * (j + 2) * before
        hessenberg[j + 1, j] = length.item()
        small, short = hessenberg[: j + 2, : j + 1], target[: j + 2]
        if not np.isfinite(small).all():
            return torch.full_like(right, torch.nan), math.inf
        # Singular values below the precision of A count as 0, so that q is finite.
        rcond = eps * len(small)
        weights = np.linalg.lstsq(small, short, rcond=rcond)[0]
        defect = float(np.linalg.norm(small @ weights - short))
        if defect <= tolerance * size or invariant:
            break
        basis.append(w / length)
    combined = torch.stack(basis[: len(weights)], 1) @ torch.from_numpy(weights).to(right)
    return combined * scale, defect / size
