"""Blur kernels in files, which may hold other things as well."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmo_cli.data.images.file import SUFFIXES
from bmo_cli.data.kernel_arrays import Unread, read_arrays
from bmo_cli.errors import InputError, escape_unprintable, suggest_nearest

log = logging.getLogger(__name__)
Kernel = NDArray[np.float64]
FILE_SUFFIXES = (".npz", ".npy", ".mat", *SUFFIXES)
_CLIPPED = 0.05
"""Largest negative part of a kernel that is set to zero, as a share of its sum."""


class KernelFile(Mapping[str, Kernel]):
    """The kernels of a file by name. A kernel is checked and normalised when it is asked for.

    Args:
        file: that they are from.
        arrays: what it holds, by name.
        clip: whether a small negative part is set to zero.
        clip_key: of the configuration that asks for it, for messages.
    """

    def __init__(
        self, file: Path, arrays: Mapping[str, Any], clip: bool = False, clip_key: str = ""
    ) -> None:
        self._file, self._arrays, self._clip, self._clip_key = file, arrays, clip, clip_key
        self._kernels: dict[str, Kernel] = {}

    def __getitem__(self, key: str) -> Kernel:
        if key not in self._kernels:
            self._kernels[key] = self._normalise(key)
        return self._kernels[key]

    def _normalise(self, key: str) -> Kernel:
        array = self._arrays[key]
        name = f"kernel '{key}' of {self._file}" if len(self) > 1 else f"kernel {self._file}"
        kernel = normalise_kernel(array, name, clip=self._clip, clip_key=self._clip_key)
        total = float(array.sum())
        if abs(total - 1) > 1e-3:
            log.info("%s has sum %.4g; normalised to 1", name, total)
        return kernel

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def read_kernels(
    file: Path, which: int | str | None = None, *, clip: bool = False, clip_key: str = ""
) -> KernelFile:
    """The kernels of a .npz, .npy, .mat (any version) or image file.

    A warning names numbers, words and other arrays beside the kernels, unless `which` names a
    kernel.

    Args:
        file: to read.
        which: name of an array that is wanted, whatever its shape. An index has no effect here.
        clip: see `normalise_kernel`.
        clip_key: see `normalise_kernel`.

    Raises:
        InputError: missing or damaged file, or none of its arrays is a kernel.
    """
    if not file.is_file():
        raise InputError(f"no kernel file {file}; check the path")
    suffix = file.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise InputError(f"kernel file {file} must end in one of {', '.join(FILE_SUFFIXES)}")
    try:
        arrays = read_arrays(file)
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"kernel file {file} cannot be read: {detail}") from error
    if not arrays:
        raise InputError(f"kernel file {file} holds no arrays")
    return KernelFile(file, _kernels_among(arrays, which, file), clip, clip_key)


def choose_kernel(
    kernels: Mapping[str, Kernel], which: int | str, key: str
) -> Mapping[str, Kernel]:
    """The kernel of this index or name. `key` is the configuration key, for messages."""
    names = list(kernels)
    if isinstance(which, int) and which < len(names):
        return {names[which]: kernels[names[which]]}
    if isinstance(which, str) and which in kernels:
        return {which: kernels[which]}
    hint = suggest_nearest(which, names) if isinstance(which, str) else ""
    raise InputError(
        f"{key}={which} does not exist: there are {len(names)}, {', '.join(names)}{hint}"
    )


def normalise_kernel(
    array: NDArray[Any], name: str, *, clip: bool = False, clip_key: str = ""
) -> Kernel:
    """The kernel with sum 1.

    Args:
        array: the weights.
        name: of the kernel, for messages.
        clip: whether a negative part of at most 5 % of the sum, as estimated kernels have, is set
            to zero.
        clip_key: of the configuration that asks for it; empty: there is none.

    Raises:
        InputError: not 2-D, empty, not real, not finite, negative, or zero everywhere.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name} must be a full matrix, got {type(array).__name__}")
    if array.ndim != 2:
        raise InputError(f"{name} must be 2-D, got shape {array.shape}")
    if array.size == 0:
        raise InputError(f"{name} is empty: shape {array.shape}")
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise InputError(f"{name} must hold real numbers, got {array.dtype}")
    kernel = array.astype(np.float64)
    if not np.isfinite(kernel).all():
        raise InputError(f"{name} holds NaN or infinite values")
    if kernel.min() < 0:
        kernel = _without_negative(kernel, name, clip, clip_key)
    total = float(kernel.sum())
    if total == 0:
        raise InputError(f"{name} is zero everywhere")
    return kernel / total


def _without_negative(kernel: Kernel, name: str, clip: bool, clip_key: str) -> Kernel:
    negative, total = -float(kernel[kernel < 0].sum()), float(kernel.sum())
    share = negative / total if total > 0 else np.inf
    size = f"{share:.3g} of its sum" if total > 0 else "larger than the positive one"
    if not clip:
        option = f"; {clip_key}=true sets it to zero" if clip_key and share <= _CLIPPED else ""
        raise InputError(
            f"{name} must be non-negative, its smallest value is {kernel.min():.3g}, its negative "
            f"part {size}{option}"
        )
    if share > _CLIPPED:
        raise InputError(
            f"{name} has a negative part {size}; {clip_key} is for at most {_CLIPPED:g} of it"
        )
    log.info("%s: its negative part, %s, is set to zero", name, size)
    return np.maximum(kernel, 0)


def _kernels_among(
    arrays: Mapping[str, Any], which: int | str | None, file: Path
) -> Mapping[str, Any]:
    """The arrays that are kernels, and the one that is wanted by name.

    A single row or column counts as a kernel only where no matrix is beside it.
    """
    if len(arrays) == 1:
        return arrays
    sides = {name: _sides(value) for name, value in arrays.items()}
    least = 2 if any(min(pair) >= 2 for pair in sides.values()) else 1
    names = [n for n, pair in sides.items() if min(pair) >= least and max(pair) >= 2]
    left_out = [f"{n} ({_kind(value)})" for n, value in arrays.items() if n not in names]
    listed = escape_unprintable(", ".join(left_out))
    if isinstance(which, str) and which in arrays:
        return {n: value for n, value in arrays.items() if n in names or n == which}
    if not names:
        raise InputError(f"kernel file {file} holds no kernel: {listed}")
    if left_out:
        log.warning("%s: left out, as no kernels: %s", file, listed)
    return {n: arrays[n] for n in names}


def _sides(value: Any) -> tuple[int, int]:
    """(h, w) of a matrix of real numbers; (0, 0) of anything else."""
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "iuf":
        return (0, 0)
    return value.shape[0], value.shape[1]


def _kind(value: Any) -> str:
    """What something is that is no kernel."""
    if not isinstance(value, np.ndarray):
        return str(value) if isinstance(value, Unread) else type(value).__name__
    if value.dtype.kind in "SU":
        return "text"
    if value.dtype.names:
        return "a struct"
    if value.dtype.kind not in "iuf":
        return str(value.dtype)
    return " x ".join(map(str, value.shape)) or "a number"
