"""TensorBoard: `tensorboard --logdir outputs` shows every run below a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bmo_cli.data.images.file import read_image
from bmo_cli.errors import InputError
from bmo_cli.loggers.logger import Logger
from bmo_cli.results.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Logger):
    """Logs the history, scores and pictures of the test split, and the configuration as text.

    Event files are in `tensorboard/` of the run folder. A resumed run writes its whole history
    again, which replaces the earlier one.

    Args:
        images: largest number of test images shown at the end.

    Raises:
        InputError: tensorboard is not installed.
    """

    def __init__(self, images: int = 8) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise InputError(
                "logger=tensorboard needs the package tensorboard: pip install "
                "'bmo-cli[tensorboard]'"
            ) from error
        self._images = images
        self._writer: SummaryWriter | None = None

    def open(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, float]],
        metric: str,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._metric, self._step = folder, metric, 0
        again = (folder.path / "tensorboard").exists()
        self._writer = SummaryWriter(
            str(folder.path / "tensorboard"), purge_step=0 if again else None, flush_secs=10
        )
        text = json.dumps(config, indent=2, default=str)
        self._writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()), 0)
        for row in rows:
            self.row(row)

    def row(self, row: Mapping[str, float]) -> None:
        assert self._writer is not None
        self._step = int(row["step"])
        for key, value in row.items():
            if key != "step" and math.isfinite(value):
                name = f"val/{self._metric}" if key == "val" else f"train/{key}"
                self._writer.add_scalar(name, value, self._step)

    def close(self, result: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in result.get("metrics", {}).items():
            if name.startswith("test/") and value is not None and math.isfinite(value):
                self._writer.add_scalar(name, value, self._step)
        shown = list(result.get("pictures", {}).items())[: self._images]
        for number, (case, names) in enumerate(shown, 1):
            for name in names:
                picture = read_image(self._folder.picture(number, case, name))
                self._writer.add_image(
                    f"{case}/{name}", picture.pixels, self._step, dataformats="HWC"
                )
        self._writer.close()
