"""Weights & Biases, offline: logs stay in the run folder until `wandb sync` uploads them."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from bmo_cli.errors import InputError
from bmo_cli.loggers.logger import Logger
from bmo_cli.results.files import plain, write_atomically
from bmo_cli.results.run_folder import RunFolder


class WandB(Logger):
    """Logs the history, the configuration, and the scores as the summary of the run.

    All files are in `wandb/` of the run folder, and no host is contacted. A resumed run keeps its
    identifier, so that `wandb sync DIR/wandb/offline-run-*` joins its parts.

    Args:
        project: name of the project of Weights & Biases.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self, project: str = "bmo") -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                "logger=wandb needs the package wandb: pip install 'bmo-cli[wandb]'"
            ) from error
        self._wandb, self._project = wandb, project
        self._run: Any = None

    def open(
        self,
        folder: RunFolder,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, float]],
        metric: str,
    ) -> None:
        self._metric = metric
        place = folder.path.absolute() / "wandb"
        place.mkdir(exist_ok=True)
        identifier = place / "id"
        if not identifier.is_file():
            write_atomically(identifier, uuid.uuid4().hex[:12].encode())
        for kind in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):  # by default in the home folder
            os.environ[f"WANDB_{kind}_DIR"] = str(place / kind.lower())
        self._run = self._wandb.init(
            project=self._project,
            id=identifier.read_text(encoding="utf-8").strip(),
            name=folder.path.name,
            dir=str(folder.path.absolute()),
            config=dict(plain(config)),
            mode="offline",
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
            ),
        )

    def row(self, row: Mapping[str, float]) -> None:
        named = {
            (f"val/{self._metric}" if key == "val" else f"train/{key}"): value
            for key, value in row.items()
            if key != "step" and math.isfinite(value)
        }
        self._run.log(named, step=int(row["step"]))

    def close(self, result: Mapping[str, Any]) -> None:
        if self._run is None:
            return
        self._run.summary.update(plain(result.get("metrics", {})))
        self._run.finish(exit_code=0 if result.get("status") == "ok" else 1)
