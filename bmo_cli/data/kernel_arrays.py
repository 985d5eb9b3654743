"""What files of kernels hold, by name: the containers .npz, .npy, .mat and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from bmo_cli.data.images.file import read_values
from bmo_cli.errors import InputError


def read_arrays(file: Path) -> dict[str, Any]:
    """Everything in a file, by name. The ending decides how it is read.

    Raises:
        Exception: what the decoder raises on a damaged file.
    """
    return _READERS.get(file.suffix.lower(), _read_picture)(file)


class Unread(str):
    """Why an entry of a file has no array."""


def _read_npz(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: _npz_entry(archive, name) for name in archive.files}


def _npz_entry(archive: Any, name: str) -> Any:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        return Unread("a pickled object")


def _read_npy(file: Path) -> dict[str, Any]:
    return {file.stem: np.load(file, allow_pickle=False)}


def _read_picture(file: Path) -> dict[str, Any]:
    values = read_values(file)
    if values.ndim == 3:
        if not (values == values[..., :1]).all():
            raise InputError(f"kernel {file} is a colour image; expected gray")
        values = values[..., 0]
    return {file.stem: values}


def _read_mat(file: Path) -> dict[str, Any]:
    """MATLAB files: up to version 7 through SciPy, 7.3 is HDF5 with arrays transposed."""
    if h5py.is_hdf5(file):
        with h5py.File(file) as archive:
            return dict(_hdf5_entries(archive))
    entries: dict[str, Any] = {}
    for name, value in scipy.io.loadmat(file).items():
        if name.startswith("__"):
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            cells = enumerate(value.ravel(), 1)
            entries.update({f"{name}{i}": cell for i, cell in cells})
        else:
            entries[name] = value
    return entries


def _hdf5_entries(archive: Any) -> Iterator[tuple[str, Any]]:
    for name, item in archive.items():
        if name.startswith("#"):
            continue
        if not isinstance(item, h5py.Dataset):
            yield name, Unread("a struct")
        elif item.dtype == h5py.ref_dtype:
            for i, reference in enumerate(item[()].ravel(), 1):
                yield f"{name}{i}", _hdf5_array(archive[reference])
        else:
            yield name, _hdf5_array(item)


def _hdf5_array(item: Any) -> Any:
    """A data set as MATLAB shows it. MATLAB stores text as numbers."""
    if not isinstance(item, h5py.Dataset):
        return Unread("a struct")
    if item.attrs.get("MATLAB_class") == b"char":
        return Unread("text")
    value = item[()]
    return value.T if isinstance(value, np.ndarray) else np.asarray(value)


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".mat": _read_mat}
