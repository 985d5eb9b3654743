"""`bmo restore`: restore one photograph of the user. Writes the output file and nothing else."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bmo_cli.config.schema import RestoreConfig
from bmo_cli.data.images.file import check_writable, read_image, write_image
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.data.images.white_level import Brightness, remarks
from bmo_cli.data.kernel_files import choose_kernel, read_kernels
from bmo_cli.data.patches import as_tensor
from bmo_cli.errors import DivergenceError, InputError
from bmo_cli.experiment.build import choose_device, instantiate, load_target_class
from bmo_cli.experiment.checkpoint import load_checkpoint
from bmo_cli.experiment.evaluation import Settings, solve
from bmo_cli.experiment.plugins import load_plugins, names_plugins
from bmo_cli.gkm.scheme import GKM
from bmo_cli.linear.boundary import (
    align_up,
    continue_periodically,
    enlargement,
    in_tiles,
    interior,
)
from bmo_cli.tasks.task import Task

log = logging.getLogger("bmo")

_SMOOTHING = 32  # pixels of continuation over which the input of a guided network becomes smooth
_PROBE = 64  # side of the corner on which a stated noise is tried


@names_plugins
def restore(config: RestoreConfig) -> None:
    """Restore `input` with the scheme of `run` and write `output` at the input's bit depth.

    ICC profile, resolution, white level and the kind of alpha are those of the input.

    A network for gray images restores colour photographs channel by channel. A network for colour
    restores a gray photograph as three equal channels. An alpha channel is copied.

    Photographs larger than `tile` are restored in tiles that see `tile_margin` pixels around
    themselves. docs/tutorials/restore.md explains which margin a scheme needs.

    Raises:
        InputError: a file is missing, cannot be used or would be overwritten, the task does not
            restore photographs, or the kernel does not fit.
    """
    device, plugins = choose_device(config.device), load_plugins(config.plugins)
    task = load_target_class(config.task, "task", plugins, Task)
    _require_photographs(task)
    photograph = _read_photograph(config)
    output = Path(config.output)
    check_writable(output, photograph, overwrite=config.overwrite)
    kernel = _read_kernel(config.kernel, config.kernel_name, config.kernel_clip)
    if kernel is not None:
        _require_fitting_kernel(photograph, kernel, config.kernel)
    channels = config.task.get("channels") or 1
    y = as_tensor(photograph.channels_first(max(channels, photograph.pixels.shape[2])))
    y = y.reshape(-1, channels, *y.shape[-2:]).to(device)
    scheme = _load_scheme(config, task.layers_of(config.task), device, plugins)
    restorer = Restorer(
        scheme,
        task,
        _with_noise(config.task, config.noise),
        Settings.of(config.eval),
        config.boundary,
        config.tile,
        config.tile_margin,
    )
    if kernel is not None:
        kernel = kernel.to(device)
    if config.noise is not None and not _reads_noise(restorer, y, kernel, config.noise):
        log.warning(
            "noise=%g changes nothing: no part of this scheme reads the level of the noise",
            config.noise,
        )
    images = restorer(y, kernel)
    height, width = _write_photograph(output, photograph, images, overwrite=config.overwrite)
    white = f", white is {photograph.white}" if photograph.white != photograph.levels else ""
    log.info("wrote %s (%d x %d, %d bit%s)", output, width, height, photograph.depth, white)


def _read_photograph(config: RestoreConfig) -> Photograph:
    file, white = Path(config.input), config.white
    photograph = read_image(file, config.max_megapixels, "max_megapixels", white=white)
    for line in remarks([Brightness.of(str(file), photograph, white)], "white"):
        log.warning("%s", line)
    return photograph


@dataclass(frozen=True)
class Restorer:
    """A trained scheme that restores degraded images, in tiles where they are larger than `tile`.

    Attributes:
        scheme: trained.
        task: whose `pose` poses the problem of a tile.
        settings: the configuration's `task` section.
        solver: settings of the iteration.
        boundary: pad: photographs are continued smoothly beyond their borders.
        tile: side in pixels.
        margin: pixels that a tile sees around itself.
    """

    scheme: GKM
    task: type[Task]
    settings: Mapping[str, Any]
    solver: Settings
    boundary: Literal["periodic", "pad"] = "periodic"
    tile: int = 1024
    margin: int = 0

    def __call__(self, y: Tensor, kernel: Tensor | None) -> Tensor:
        """The restored images.

        Args:
            y: (B, C, H, W), C the channels of the scheme.
            kernel: (h, w) blur kernel of a task that needs one.

        Returns:
            (B, C, a H, b W) with integers a and b, which are 1 where the task keeps the size.

        Raises:
            InputError: the task changes the size otherwise.
        """
        settings = self.task.settings_for(y, self.settings)
        padded, smoothing = (
            self.boundary == "pad",
            align_up(max(_SMOOTHING, *_kernel_shape(kernel))),
        )
        around = smoothing if padded else 0
        wide = continue_periodically(y, around)
        periodic = padded or kernel is not None
        # A periodic problem would wrap opposite borders of a tile onto each other.
        at_cuts = smoothing if periodic and max(wide.shape[-2:]) > self.tile else 0

        def restore_tile(tile: Tensor) -> Tensor:
            try:
                posed = self.task.pose(tile, settings, kernel, at_cuts)
            except NotImplementedError as error:
                raise _no_photographs_error(self.task) from error
            estimate = solve(self.scheme, posed.problem, posed.initial, self.solver, check=False)
            log.info("%d iterations, residual %.1e", estimate.iterations, estimate.residual)
            return posed.image(estimate.value)

        images = in_tiles(restore_tile, wide, self.tile, self.margin, periodic=periodic)
        rows, columns = enlargement(wide, images)
        return interior(images, (rows * around, columns * around))


def _load_scheme(
    config: RestoreConfig, layers: int, device: torch.device, plugins: Sequence[str]
) -> GKM:
    """The scheme of a run with its best weights. The task and its data are not built."""
    scheme: GKM = instantiate(config.gkm, "gkm", plugins, GKM, layers=layers)
    omega = torch.nn.ModuleDict({"scheme": scheme, "task": torch.nn.Module()})
    load_checkpoint(Path(config.run) / "checkpoints" / "best.safetensors", omega)
    scheme.to(device)
    return scheme


def _require_photographs(task: type[Task]) -> None:
    if inspect.getattr_static(task, "pose") is inspect.getattr_static(Task, "pose"):
        raise _no_photographs_error(task)


def _no_photographs_error(task: type[Task]) -> InputError:
    return InputError(
        f"bmo restore works on photographs, which {task.__name__} does not restore; use bmo eval, "
        "or a run of task=deconv or task=derain"
    )


def _with_noise(settings: Mapping[str, Any], noise: float | None) -> Mapping[str, Any]:
    """The settings of the task, with the noise that the user stated, if any."""
    if noise is None:
        return settings
    if "noise" not in settings:
        raise InputError("noise= is for runs of task=deconv; this task has none: leave it out")
    return {**settings, "noise": noise}


def _reads_noise(restorer: Restorer, y: Tensor, kernel: Tensor | None, noise: float) -> bool:
    """Whether another level changes the restored image, tried on a corner of the photograph.

    Args:
        restorer: with this noise.
        y, kernel: as for the restorer.
        noise: in grey levels of 255.
    """
    side = max(_PROBE, *_kernel_shape(kernel))
    corner = y[..., :side, :side]
    other = replace(restorer, settings=_with_noise(restorer.settings, 2 * noise + 1))
    try:
        return not torch.equal(restorer(corner, kernel), other(corner, kernel))
    except DivergenceError:
        return True  # the photograph itself will say so


def _kernel_shape(kernel: Tensor | None) -> tuple[int, ...]:
    return (0,) if kernel is None else tuple(kernel.shape)


def _require_fitting_kernel(photograph: Photograph, kernel: Tensor, file: str | None) -> None:
    height, width = photograph.pixels.shape[:2]
    if kernel.shape[0] > height or kernel.shape[1] > width:
        raise InputError(
            f"kernel {file} is {kernel.shape[0]} x {kernel.shape[1]}, larger than the photograph "
            f"({height} x {width})"
        )


def _read_kernel(file: str | None, name: int | str | None, clip: bool) -> Tensor | None:
    if file is None:
        if name is not None:
            raise InputError(
                f"kernel_name={name} chooses a kernel of a file, but there is none; give "
                "kernel=FILE, or leave kernel_name out"
            )
        if clip:
            raise InputError("kernel_clip=true is for the kernel of a file; give kernel=FILE")
        return None
    kernels: Mapping[str, Any] = read_kernels(Path(file), name, clip=clip, clip_key="kernel_clip")
    if name is not None:
        kernels = choose_kernel(kernels, name, "kernel_name")
    if len(kernels) > 1:
        names = ", ".join(kernels)
        raise InputError(f"{file} holds {len(kernels)} kernels; choose one: kernel_name={names}")
    return torch.tensor(next(iter(kernels.values())), dtype=torch.float32)


def _write_photograph(
    output: Path, source: Photograph, restored: Tensor, *, overwrite: bool
) -> tuple[int, int]:
    """Write the restored photograph, with the alpha channel enlarged like the image.

    Returns:
        Height and width.
    """
    image = restored.reshape(-1, *restored.shape[-2:]).clamp(0, 1).cpu().double().numpy()
    if image.shape[0] > source.pixels.shape[2]:
        image = image.mean(0, keepdims=True)  # a colour network on a gray photograph
    pixels = np.round(image * source.levels).astype(source.pixels.dtype).transpose(1, 2, 0)
    (height, width), (rows, columns) = pixels.shape[:2], source.pixels.shape[:2]
    alpha = source.alpha
    if alpha is not None:
        alpha = alpha.repeat(height // rows, 0).repeat(width // columns, 1)
    write_image(output, source.with_pixels(pixels, alpha), overwrite=overwrite)
    return height, width
