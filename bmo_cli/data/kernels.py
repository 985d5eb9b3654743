"""Blur kernels: generated from a seed, or read from a file.

Every kernel is a 2-D array, non-negative, with sum 1; its centre is pixel (h // 2, w // 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bmo_cli.data.kernel_files import FILE_SUFFIXES, Kernel, normalised, read_kernels
from bmo_cli.data.named_sets import KERNELS, kernel_file
from bmo_cli.errors import InputError, nearest


def motion_kernel(rng: np.random.Generator, size: int) -> Kernel:
    """Blur of a hand-held camera: a random trajectory, drawn with bilinear weights.

    The velocity is an Ornstein-Uhlenbeck process, so that the path has inertia and turns; it is
    scaled to fill about 80 % of the window.
    """
    steps, inertia = 400, 0.985
    velocity, position = rng.normal(size=2), np.zeros(2)
    path = np.empty((steps, 2))
    for i in range(steps):
        velocity = inertia * velocity + np.sqrt(1 - inertia**2) * rng.normal(size=2)
        position = position + velocity
        path[i] = position
    path -= (path.max(0) + path.min(0)) / 2
    path *= rng.uniform(0.5, 0.8) * (size - 1) / max(float(np.ptp(path, axis=0).max()), 1e-9)
    path += size // 2
    kernel = np.zeros((size + 1, size + 1))
    corner = np.floor(path).astype(int)
    fraction = path - corner
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - fraction[:, 0]) * np.abs(1 - dx - fraction[:, 1])
            np.add.at(kernel, (corner[:, 0] + dy, corner[:, 1] + dx), weight)
    return normalised(kernel[:size, :size], "a motion kernel")


def gaussian_kernel(size: int, width: float) -> Kernel:
    """Gaussian of standard deviation `width` pixels."""
    y, x = _grid(size)
    return normalised(np.exp(-(y**2 + x**2) / (2 * width**2)), "a Gaussian kernel")


def disk_kernel(size: int, width: float) -> Kernel:
    """Defocus: a disk of radius `width` pixels with a soft rim of one pixel."""
    y, x = _grid(size)
    return normalised(np.clip(width + 0.5 - np.hypot(y, x), 0, 1), "a disk kernel")


def _grid(size: int) -> tuple[Kernel, Kernel]:
    axis = np.arange(size, dtype=np.float64) - size // 2
    return axis[:, None], axis[None, :]


GENERATED = ("motion", "gaussian", "disk")
"""Kinds of kernels that are made from numbers."""


def make_kernels(
    kind: str,
    *,
    count: int,
    size: int,
    width: float,
    seed: int,
    root: str | None = None,
    which: int | str | None = None,
    clip: bool = False,
) -> Mapping[str, Kernel]:
    """Kernels by name: `kind` is motion, gaussian, disk, a published set, or a file.

    Args:
        kind: how they are made.
        count: how many motion kernels.
        size: window in pixels.
        width: standard deviation (gaussian) or radius (disk) in pixels.
        seed: of the random trajectories.
        root: folder of the data sets with names; None: environment variable BMO_DATA.
        which: index or name of the one kernel that is wanted, for messages about the others.
        clip: whether a small negative part of a kernel in a file is set to zero.

    Returns:
        Kernels by name; those of a file are looked at when they are asked for.

    Raises:
        InputError: no such kind, or a file that is missing or holds no kernels.
    """
    if kind == "motion":
        children = np.random.SeedSequence([seed, 0x6B]).spawn(count)
        return {
            f"motion{i}": motion_kernel(np.random.default_rng(child), size)
            for i, child in enumerate(children)
        }
    if kind == "gaussian":
        return {"gaussian": gaussian_kernel(size, width)}
    if kind == "disk":
        return {"disk": disk_kernel(size, width)}
    file = kernels_file(kind, root)
    if file is None:
        names = (*GENERATED, *KERNELS)
        endings = ", ".join(FILE_SUFFIXES)
        raise InputError(
            f"task.kernels must be {', '.join(names)} or a file ({endings}), got '{kind}'"
            f"{nearest(kind, names)}"
        )
    kernels = read_kernels(file, which, clip=clip, clip_key="task.kernel_clip")
    if kind in KERNELS:
        _require_published(kernels, kind, file)
    return kernels


def kernels_file(kind: str, root: str | None = None) -> Path | None:
    """The file that kernels of this kind are read from; None: there is none to read.

    Args:
        kind: as in `make_kernels`.
        root: as in `make_kernels`.

    Raises:
        InputError: a published set that is not there.
    """
    if kind in KERNELS:
        return kernel_file(kind, root)
    return Path(kind) if kind.lower().endswith(FILE_SUFFIXES) else None


def _require_published(kernels: Mapping[str, Kernel], name: str, file: Path) -> None:
    """Refuse kernels of other sizes than those of the published set, see `named_sets.KERNELS`."""
    have, sides = [kernel.shape for kernel in kernels.values()], KERNELS[name][1]
    if have != [(side, side) for side in sides]:
        sizes = ", ".join(f"{h} x {w}" for h, w in have)
        raise InputError(
            f"task.kernels={name}: {file} holds kernels of {sizes}; expected squares of sides "
            f"{', '.join(map(str, sides))}"
        )


def kernels_digest(kernels: Mapping[str, Kernel]) -> str:
    """A hash of the values, which a file of the same kernels under another name shares."""
    digest = hashlib.sha256()
    for kernel in kernels.values():
        digest.update(f"{kernel.shape}\0".encode() + np.ascontiguousarray(kernel).tobytes())
    return digest.hexdigest()[:16]
