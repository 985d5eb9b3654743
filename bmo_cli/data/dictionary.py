"""Dictionaries of square patches: learned from clean ones, or read from a file.

Shape legend: B patches, m pixels of a patch (side x side, row by row), n atoms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmo_cli.errors import InputError

_CODING_STEPS = 40
_FORGETTING = 10.0


def cosine_dictionary(side: int, columns: int) -> Tensor:
    """Overcomplete discrete cosine transform in two dimensions, unit atoms, (side^2, columns).

    Products of k >= side one-dimensional cosines of frequency pi j / k, the slowest first. The
    first atom is constant, all others have mean zero.

    Args:
        side: of a patch in pixels, >= 2.
        columns: n.
    """
    k = max(side, math.isqrt(columns - 1) + 1)
    t, j = torch.arange(side, dtype=torch.float64) + 0.5, torch.arange(k, dtype=torch.float64)
    waves = torch.cos(math.pi / k * t[:, None] * j)
    waves[:, 1:] -= waves[:, 1:].mean(0)
    waves /= waves.norm(dim=0)
    pairs = sorted((a + b, a, b) for a in range(k) for b in range(k))[:columns]
    atoms = [torch.outer(waves[:, a], waves[:, b]).flatten() for _, a, b in pairs]
    return torch.stack(atoms, 1).float()


def learn_dictionary(batches: Iterable[Tensor], initial: Tensor, *, kappa: float) -> Tensor:
    """Unit atoms Q that code clean patches sparsely: online dictionary learning.

        min_Q  E_p min_x  1/2 |Q x - p|^2 + kappa |x|_1       over unit atoms

    Each batch is coded by 40 steps of FISTA. Its statistics x x^T and p x^T are added to those of
    earlier batches, whose weight decays. Then every atom is minimised over in turn. The first atom
    stays constant, since patches are coded without their mean. An atom that no patch uses keeps its
    value. Atoms have unit length here. In the reference their length is at most
    one. (Mairal, Bach, Ponce & Sapiro, ICML 2009.)

    Args:
        batches: clean patches, (B, m) each.
        initial: (m, n), unit atoms, the first one constant and the others of mean zero.
        kappa: weight of |x|_1, > 0.

    Returns:
        (m, n).
    """
    q = initial.clone()
    moving = q[:, 1:]  # a view
    codes_by_codes = q.new_zeros(moving.shape[1], moving.shape[1])
    patches_by_codes = torch.zeros_like(moving)
    for step, batch in enumerate(batches):
        centred = batch - batch.mean(1, keepdim=True)
        codes = sparse_codes(centred, moving, kappa=kappa, steps=_CODING_STEPS)
        # the weight of batch i after t of them is about (i / t)^10: early codes are poor ones
        kept = step / (step + _FORGETTING)
        codes_by_codes = kept * codes_by_codes + codes.mT @ codes / len(batch)
        patches_by_codes = kept * patches_by_codes + centred.mT @ codes / len(batch)
        _update_atoms(moving, codes_by_codes, patches_by_codes)
    return q


def sparse_codes(patches: Tensor, q: Tensor, *, kappa: float, steps: int) -> Tensor:
    """Steps of FISTA on 1/2 |Q x - p|^2 + kappa |x|_1 from 0, (B, n). (Beck & Teboulle, 2009.)"""
    gram, back = q.mT @ q, patches @ q
    step = 1 / float(torch.linalg.eigvalsh(gram)[-1])
    x = torch.zeros_like(back)
    ahead, t = x, 1.0
    for _ in range(steps):
        moved = ahead - step * (ahead @ gram - back)
        new = moved - moved.clamp(-step * kappa, step * kappa)
        t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        ahead = new + (before - 1) / t * (new - x)
        x = new
    return x


def _update_atoms(q: Tensor, codes_by_codes: Tensor, patches_by_codes: Tensor) -> None:
    """Minimise over one atom after the other, in place."""
    used = codes_by_codes.diagonal()
    for j in (used > 1e-9).nonzero().flatten().tolist():
        atom = q[:, j] + (patches_by_codes[:, j] - q @ codes_by_codes[:, j]) / used[j]
        length = float(atom.norm())
        if length > 0:
            q[:, j] = atom / length


def read_dictionary(file: Path, *, rows: int, columns: int) -> Tensor:
    """The matrix of a .npy file, or of an .npz file that holds one. Atoms become unit vectors.

    Args:
        file: nothing in it is unpickled.
        rows: expected pixels of a patch, m.
        columns: expected atoms, n.

    Raises:
        InputError: missing or damaged file, or a matrix that is no dictionary of this shape.
    """
    matrix, name = _load(file), f"dictionary {file}"
    if matrix.ndim != 2 or matrix.size == 0:
        raise InputError(f"{name} must be a matrix (pixels x atoms), got shape {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.number) or np.iscomplexobj(matrix):
        raise InputError(f"{name} must hold real numbers, got {matrix.dtype}")
    have = f"{name} is {matrix.shape[0]} x {matrix.shape[1]}"
    if matrix.shape[0] != rows:
        side = math.isqrt(rows)
        hint = "; it looks transposed" if matrix.shape[1] == rows else ""
        raise InputError(
            f"{have}, but a patch of {side} x {side} pixels (task.rows) needs {rows} rows{hint}"
        )
    if matrix.shape[1] != columns:
        raise InputError(f"{have}, but task.columns={columns}; use task.columns={matrix.shape[1]}")
    atoms = torch.from_numpy(matrix.astype(np.float64))
    if not torch.isfinite(atoms).all():
        raise InputError(f"{name} holds NaN or infinite values")
    lengths = atoms.norm(dim=0)
    zero = (lengths == 0).nonzero().flatten().tolist()
    if zero:
        shown = ", ".join(map(str, zero[:8])) + (", ..." if len(zero) > 8 else "")
        what = "1 zero column" if len(zero) == 1 else f"{len(zero)} zero columns"
        left = columns - len(zero)
        hint = f"drop {'it' if len(zero) == 1 else 'them'} and use task.columns={left}"
        raise InputError(f"{name} has {what} ({shown}), which no atom may be; {hint}")
    unit: Tensor = atoms / lengths
    return unit.float()


def _load(file: Path) -> NDArray[Any]:
    if not file.is_file():
        raise InputError(f"no dictionary file {file}")
    if file.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"dictionary file {file} must end in .npy or .npz")
    try:
        with file.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            arrays = {key: loaded[key] for key in loaded.files}
    except Exception as error:  # numpy raises many kinds of errors on damaged files
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"dictionary file {file} cannot be read: {detail}") from error
    if len(arrays) != 1:
        names = ", ".join(arrays) or "none"
        raise InputError(
            f"dictionary file {file} must hold one matrix, got {len(arrays)} ({names})"
        )
    return next(iter(arrays.values()))
