"""Blur kernels: generated from a seed, or read from a file.

Every kernel is a 2-D array, non-negative, with sum 1; its centre is pixel (h // 2, w // 2).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from bmo_cli.data.image_file import SUFFIXES, read_image
from bmo_cli.data.named_sets import KERNELS, kernel_file
from bmo_cli.errors import InputError, nearest

log = logging.getLogger(__name__)
Kernel = NDArray[np.float64]
FILE_SUFFIXES = (".npz", ".npy", ".mat", *SUFFIXES)


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


def make_kernels(
    kind: str, *, count: int, size: int, width: float, seed: int, root: str | None = None
) -> dict[str, Kernel]:
    """Kernels by name: `kind` is motion, gaussian, disk, a published set, or a file.

    Args:
        kind: how they are made.
        count: how many motion kernels.
        size: window in pixels.
        width: standard deviation (gaussian) or radius (disk) in pixels.
        seed: of the random trajectories.
        root: folder of the data sets with names; None: environment variable BMO_DATA.

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
        names = ("motion", "gaussian", "disk", *KERNELS)
        endings = ", ".join(FILE_SUFFIXES)
        raise InputError(
            f"task.kernels must be {', '.join(names)} or a file ({endings}), got '{kind}'"
            f"{nearest(kind, names)}"
        )
    found = read_kernels(file)
    if kind in KERNELS:
        _require_published(found, kind, file)
    return found


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


def _require_published(found: Mapping[str, Kernel], name: str, file: Path) -> None:
    """Refuse kernels of other sizes than those of the published set, see `named_sets.KERNELS`."""
    have, sides = [kernel.shape for kernel in found.values()], KERNELS[name][1]
    if have != [(side, side) for side in sides]:
        sizes = ", ".join(f"{h} x {w}" for h, w in have)
        raise InputError(
            f"task.kernels={name}: {file} holds kernels of {sizes}; expected squares of sides "
            f"{', '.join(map(str, sides))}"
        )


def read_kernels(file: Path) -> dict[str, Kernel]:
    """All kernels of a .npz, .npy, .mat (any version) or image file, by name.

    Raises:
        InputError: missing or damaged file, or a kernel that is no kernel.
    """
    if not file.is_file():
        raise InputError(f"no kernel file {file}")
    suffix = file.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise InputError(f"kernel file {file} must end in one of {', '.join(FILE_SUFFIXES)}")
    try:
        arrays = _READERS.get(suffix, _read_picture)(file)
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"kernel file {file} cannot be read: {detail}") from error
    if not arrays:
        raise InputError(f"kernel file {file} holds no arrays")
    kernels = {}
    for key, array in arrays.items():
        name = f"kernel '{key}' of {file}" if len(arrays) > 1 else f"kernel {file}"
        kernels[key] = normalised(array, name)
        total = float(array.sum())
        if abs(total - 1) > 1e-3:
            log.info("%s has sum %.4g; normalised to 1", name, total)
    return kernels


def kernels_digest(kernels: Mapping[str, Kernel]) -> str:
    """A hash of the values, which a file of the same kernels under another name shares."""
    digest = hashlib.sha256()
    for kernel in kernels.values():
        digest.update(f"{kernel.shape}\0".encode() + np.ascontiguousarray(kernel).tobytes())
    return digest.hexdigest()[:16]


def choose_kernel(kernels: dict[str, Kernel], which: int | str, key: str) -> dict[str, Kernel]:
    """The one kernel of this index or name; `key` is the configuration key that asks for it."""
    names = list(kernels)
    if isinstance(which, int) and which < len(names):
        return {names[which]: kernels[names[which]]}
    if isinstance(which, str) and which in kernels:
        return {which: kernels[which]}
    hint = nearest(which, names) if isinstance(which, str) else ""
    raise InputError(
        f"{key}={which} does not exist: there are {len(names)}, {', '.join(names)}{hint}"
    )


def normalised(array: NDArray[Any], name: str) -> Kernel:
    """The kernel with sum 1.

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
        raise InputError(f"{name} must be non-negative, its smallest value is {kernel.min():.3g}")
    total = float(kernel.sum())
    if total == 0:
        raise InputError(f"{name} is zero everywhere")
    return kernel / total


def _read_npz(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_npy(file: Path) -> dict[str, NDArray[Any]]:
    return {file.stem: np.load(file, allow_pickle=False)}


def _read_picture(file: Path) -> dict[str, NDArray[Any]]:
    pixels = read_image(file).channels_first()
    if pixels.shape[0] == 3 and not (pixels == pixels[:1]).all():
        raise InputError(f"kernel {file} is a colour image; expected gray")
    return {file.stem: pixels[0]}


def _read_mat(file: Path) -> dict[str, NDArray[Any]]:
    """MATLAB files: up to version 7 through SciPy, 7.3 is HDF5 with arrays transposed."""
    if h5py.is_hdf5(file):
        with h5py.File(file) as archive:
            return dict(_hdf5_arrays(archive, archive))
    content: Mapping[str, Any] = scipy.io.loadmat(file)
    found: dict[str, NDArray[Any]] = {}
    for name, value in content.items():
        if name.startswith("__"):
            continue
        if value.dtype == object:
            cells = value.ravel()
            found.update({f"{name}{i + 1}": cell for i, cell in enumerate(cells)})
        else:
            found[name] = value
    return found


def _hdf5_arrays(group: Any, archive: Any) -> list[tuple[str, NDArray[Any]]]:
    found: list[tuple[str, NDArray[Any]]] = []
    for name, item in group.items():
        if name.startswith("#") or not isinstance(item, h5py.Dataset):
            continue
        value = item[()]
        if value.dtype == h5py.ref_dtype:
            cells = [archive[reference][()].T for reference in value.ravel()]
            found += [(f"{name}{i + 1}", cell) for i, cell in enumerate(cells)]
        else:
            found.append((name, value.T))
    return found


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".mat": _read_mat}
