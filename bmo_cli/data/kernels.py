"""Blur kernels: generated from a seed, or read from a file.

Every kernel is a 2-D array, non-negative, with sum 1. Its centre is pixel (h // 2, w // 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmo_cli.config.checks import Count, Index, Positive, Seed, checked
from bmo_cli.data.kernel_files import (
    FILE_SUFFIXES,
    Kernel,
    choose_kernel,
    normalise_kernel,
    read_kernels,
)
from bmo_cli.data.named_sets import KERNELS, kernel_file
from bmo_cli.errors import InputError, suggest_nearest


def motion_kernel(rng: np.random.Generator, size: int) -> Kernel:
    """Blur of a hand-held camera: a random trajectory, drawn with bilinear weights.

    The velocity is an Ornstein-Uhlenbeck process, so that the path has inertia and turns. The path
    is scaled to fill 50 to 80 % of the window.
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
    return normalise_kernel(kernel[:size, :size], "a motion kernel")


def gaussian_kernel(size: int, width: float) -> Kernel:
    """Gaussian of standard deviation `width` pixels."""
    y, x = _grid(size)
    return normalise_kernel(np.exp(-(y**2 + x**2) / (2 * width**2)), "a Gaussian kernel")


def disk_kernel(size: int, width: float) -> Kernel:
    """Defocus: a disk of radius `width` pixels with a soft rim of one pixel."""
    y, x = _grid(size)
    return normalise_kernel(np.clip(width + 0.5 - np.hypot(y, x), 0, 1), "a disk kernel")


def _grid(size: int) -> tuple[Kernel, Kernel]:
    axis = np.arange(size, dtype=np.float64) - size // 2
    return axis[:, None], axis[None, :]


GENERATED = ("motion", "gaussian", "disk")
"""Kinds of kernels that are made from numbers."""


@checked
class KernelGenerator:
    """Makes kernels from numbers.

    Args:
        kernel_count: how many motion kernels are generated.
        kernel_size: window of generated kernels in pixels.
        kernel_width: standard deviation (gaussian) or radius (disk) in pixels.
        kernel_seed: of the motion kernels.
    """

    def __init__(
        self,
        *,
        kernel_count: Count = 8,
        kernel_size: Count = 19,
        kernel_width: Positive = 2.0,
        kernel_seed: Seed = 0,
    ) -> None:
        self.count, self.size = kernel_count, kernel_size
        self.width, self.seed = kernel_width, kernel_seed

    def generate(self, kind: str) -> dict[str, Kernel]:
        """Kernels by name, of one of the kinds in `GENERATED`."""
        if kind == "gaussian":
            return {"gaussian": gaussian_kernel(self.size, self.width)}
        if kind == "disk":
            return {"disk": disk_kernel(self.size, self.width)}
        children = np.random.SeedSequence([self.seed, 0x6B]).spawn(self.count)
        return {
            f"motion{i}": motion_kernel(np.random.default_rng(child), self.size)
            for i, child in enumerate(children)
        }


@checked
class KernelSet:
    """The blur kernels that the keys of a configuration describe.

    Args:
        kernels: motion, gaussian, disk, levin (published, under the root of the data sets with
            names), or a file (.npz, .npy, .mat, image).
        kernel: index or name of the one kernel to use; None: one for every image at random.
        kernel_clip: whether a negative part of a kernel of a file, of at most 5 % of its sum, is
            set to zero. Otherwise it is refused.
        root: folder of the data sets with names; None: environment variable BMO_DATA.
        generator_keys: arguments of `KernelGenerator`.

    Attributes:
        available: kernels by name. Those of a file are checked when they are asked for.

    Raises:
        InputError: no such kind, or a file that is missing or holds no kernels.
    """

    def __init__(
        self,
        *,
        kernels: str = "motion",
        kernel: Index | str | None = None,
        kernel_clip: bool = False,
        root: str | None = None,
        **generator_keys: Any,
    ) -> None:
        self._kind, self._which, self._root = kernels, kernel, root
        generate = KernelGenerator(**generator_keys).generate
        self.available: Mapping[str, Kernel] = (
            generate(kernels)
            if kernels in GENERATED
            else _kernels_of_file(kernels, root, kernel, clip=kernel_clip)
        )

    @cached_property
    def chosen(self) -> Mapping[str, Kernel]:
        """The kernels to use, by name.

        Raises:
            InputError: no kernel of this index or name, or one that is unusable.
        """
        if self._which is None:
            return self.available
        return choose_kernel(self.available, self._which, "task.kernel")

    @property
    def numbers(self) -> dict[str, int]:
        """Names of the chosen kernels, with the number of each among all."""
        names = list(self.available)
        return {name: names.index(name) for name in self.chosen}

    def content(self) -> str | None:
        """A hash of the chosen kernels of a file; None: the keys say what they are."""
        of_file = kernels_file(self._kind, self._root) is not None
        return kernels_digest(self.chosen) if of_file else None


def make_kernels(kind: str, **options: Any) -> Mapping[str, Kernel]:
    """The available kernels of a `KernelSet`, by short names of its arguments.

    Args:
        kind: motion, gaussian, disk, a published set, or a file.
        options: `count`, `size`, `width` and `seed` of `KernelGenerator`, and `root`, `which` and
            `clip`, which are `root`, `kernel` and `kernel_clip` of `KernelSet`.
    """
    long_names = {"which": "kernel", "root": "root"}
    keys = {long_names.get(key, f"kernel_{key}"): value for key, value in options.items()}
    return KernelSet(kernels=kind, **keys).available


def _kernels_of_file(
    kind: str, root: str | None, which: int | str | None, *, clip: bool
) -> Mapping[str, Kernel]:
    """The kernels of a published set or of a file. `which` is the wanted one."""
    file = kernels_file(kind, root)
    if file is None:
        names = (*GENERATED, *KERNELS)
        endings = ", ".join(FILE_SUFFIXES)
        raise InputError(
            f"task.kernels must be {', '.join(names)} or a file ({endings}), got '{kind}'"
            f"{suggest_nearest(kind, names)}"
        )
    kernels = read_kernels(file, which, clip=clip, clip_key="task.kernel_clip")
    if kind in KERNELS:
        _require_published(kernels, kind, file)
    return kernels


def kernels_file(kind: str, root: str | None = None) -> Path | None:
    """The file that kernels of this kind are read from; None: there is none to read.

    Args:
        kind: as `kernels` of `KernelSet`.
        root: as there.

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
