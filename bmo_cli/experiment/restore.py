"""`bmo restore`: one photograph of the user's own. Writes the output file and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmo_cli.data.image_file import Photograph, check_writable, read_image, write_image
from bmo_cli.data.kernels import choose_kernel, read_kernels
from bmo_cli.data.patches import as_tensor
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import choose_device, instantiate, load_plugins
from bmo_cli.experiment.checkpoint import load_checkpoint
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.blur import PeriodicBlur, transfer_function
from bmo_cli.tasks.deconvolution import Deconvolution, Form, blur_problem

log = logging.getLogger("bmo")


def restore(config: Mapping[str, Any]) -> None:
    """Deblur `input` with the scheme of `run` and write `output` at the input's bit depth.

    Colour photographs are restored channel by channel by a network for gray images. An alpha
    channel is kept as it is.

    Raises:
        InputError: a file is missing, unusable or would be overwritten, or the kernel is larger
            than the photograph.
    """
    if config["task"]["_target_"] != f"{Deconvolution.__module__}.{Deconvolution.__name__}":
        raise InputError(
            f"bmo restore deblurs photographs, and {config['run']} was trained on another task "
            f"({config['task']['_target_']}); use bmo eval run={config['run']}"
        )
    photograph, output = read_image(Path(config["input"])), Path(config["output"])
    check_writable(output, photograph, overwrite=config["overwrite"])
    kernel = _one_kernel(Path(config["kernel"]), config["kernel_name"])
    height, width = photograph.pixels.shape[:2]
    if kernel.shape[0] > height or kernel.shape[1] > width:
        raise InputError(
            f"kernel {config['kernel']} is {kernel.shape[0]} x {kernel.shape[1]}, larger than the "
            f"photograph ({height} x {width})"
        )
    device = choose_device(config["device"])
    scheme = instantiate(config["gkm"], "gkm", load_plugins(config["plugins"]), GKM)
    omega = torch.nn.ModuleDict({"scheme": scheme, "task": torch.nn.Module()})
    load_checkpoint(Path(config["run"]) / "checkpoints" / "best.safetensors", omega)
    scheme.to(device)

    channels = scheme.net.channels if scheme.net is not None else 1
    y = as_tensor(photograph.channels_first(max(channels, photograph.pixels.shape[2])))
    y = y.reshape(-1, channels, height, width).to(device)
    margin = max(kernel.shape) if config["boundary"] == "pad" else 0
    restored = _deblur(
        scheme,
        y,
        kernel[None].to(device),
        config["task"].get("form", "least_squares"),
        config["task"].get("tv_weight", 0.0),
        margin,
        config["eval"],
    )
    _write(output, photograph, restored, overwrite=config["overwrite"])
    log.info("wrote %s (%d x %d, %d bit)", output, width, height, photograph.depth)


def _deblur(
    scheme: GKM,
    y: Tensor,
    kernel: Tensor,
    form: Form,
    tv_weight: float,
    margin: int,
    settings: Mapping[str, Any],
) -> Tensor:
    """(B, C, H, W) restored; with a margin the photograph is continued beyond its borders."""
    padded = _continue_periodically(y, margin) if margin else y
    size = (padded.shape[-2], padded.shape[-1])
    blur = PeriodicBlur(transfer_function(kernel, size), size)
    problem = blur_problem(padded, blur, form, tv_weight=tv_weight)
    estimate = solve(scheme, problem, (padded,), Settings.of(settings))
    log.info("%d iterations, residual %.1e", estimate.iterations, estimate.residual)
    u = estimate.value[0]
    return u[..., margin : margin + y.shape[-2], margin : margin + y.shape[-1]]


def _continue_periodically(y: Tensor, margin: int) -> Tensor:
    """Continue an image by `margin` pixels so that opposite borders meet without a step.

    A photograph is not periodic, and its jump from one border to the other would ring. Beyond a
    border the nearest pixel is continued and blended into the one of the opposite border.
    """
    for dim in (-2, -1):
        ramp = (torch.arange(2 * margin, device=y.device, dtype=y.dtype) + 0.5) / (2 * margin)
        shape = [1] * y.dim()
        shape[dim] = 2 * margin
        weight = (0.5 - 0.5 * torch.cos(torch.pi * ramp)).reshape(shape)
        first, last = y.narrow(dim, 0, 1), y.narrow(dim, y.shape[dim] - 1, 1)
        bridge = (1 - weight) * last + weight * first
        after, before = bridge.narrow(dim, 0, margin), bridge.narrow(dim, margin, margin)
        y = torch.cat([before, y, after], dim)
    return y


def _one_kernel(file: Path, name: int | str | None) -> Tensor:
    kernels = read_kernels(file)
    if name is not None:
        kernels = choose_kernel(kernels, name, "kernel_name")
    if len(kernels) > 1:
        names = ", ".join(kernels)
        raise InputError(f"{file} holds {len(kernels)} kernels; choose one: kernel_name={names}")
    return torch.tensor(next(iter(kernels.values())), dtype=torch.float32)


def _write(output: Path, source: Photograph, restored: Tensor, *, overwrite: bool) -> None:
    image = restored.reshape(-1, *restored.shape[-2:]).clamp(0, 1).cpu().double().numpy()
    if image.shape[0] > source.pixels.shape[2]:
        image = image.mean(0, keepdims=True)  # a colour network on a gray photograph
    pixels = np.round(image * source.levels).astype(source.pixels.dtype).transpose(1, 2, 0)
    write_image(output, Photograph(pixels, source.alpha), overwrite=overwrite)
