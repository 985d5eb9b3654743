"""Published weights: tensors that are read from a file into a network, without running code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bmo_cli.errors import InputError

SUFFIXES = (".safetensors", ".pt", ".pth")


def require_weights_file(file: str) -> Path:
    """The path of a file that exists.

    Raises:
        InputError: the file is missing, or of another kind.
    """
    path = Path(file).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"weights {file} must be a file {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"no weights file {file}; give its path, or null for initial weights")
    return path


def read_weights(file: str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU.

    Raises:
        InputError: the file is missing, of another kind, damaged, or not a plain state dict.
    """
    path = require_weights_file(file)
    content: Any
    try:
        if path.suffix.lower() == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise errors of many kinds on damaged files
        raise InputError(
            f"weights {file} cannot be read: damaged, or more than a state dict of tensors, which "
            "could run code and is refused; write it with torch.save(net.state_dict(), FILE)"
        ) from error
    if not isinstance(content, Mapping) or not content:
        kind = f"a {type(content).__name__}" if content else "nothing"
        raise InputError(f"weights {file} must hold a state dict of tensors, found {kind}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"weights {file} must hold a state dict of tensors, found {name!r}: "
                f"{type(value).__name__}; save the state dict inside alone"
            )
    return dict(content)


def copy_weights(
    module: nn.Module, weights: Mapping[str, Tensor], file: str, *, own: Collection[str] = ()
) -> None:
    """Copy `weights`, read from `file`, into the module's tensors of the same names.

    Args:
        module: module to copy into; it keeps its precision and device.
        weights: tensors by the names of the module.
        file: name of their file, for messages.
        own: names that the file may lack; they keep the values of the module.

    Raises:
        InputError: tensors are missing, unknown or of another shape; nothing was copied.
    """
    wanted = module.state_dict()
    needed = [name for name in wanted if name not in own]
    missing = [name for name in needed if name not in weights]
    unknown = [name for name in weights if name not in wanted]
    if missing or unknown:
        lacks = f"; it lacks {missing[0]}" if missing else ""
        extra = f"; it has an unknown {unknown[0]}" if unknown else ""
        raise InputError(
            f"weights {file} are of another network: expected {len(needed)} tensors, "
            f"found {len(weights)}{lacks}{extra}"
        )
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise InputError(
                f"weights {file} are of another network: {name} must have shape "
                f"{tuple(wanted[name].shape)}, found {tuple(tensor.shape)}"
            )
    module.load_state_dict({**wanted, **weights})
