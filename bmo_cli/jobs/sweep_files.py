"""Check that the files that the jobs of a sweep name exist, before the first job starts.

A file or folder that several jobs share is checked once. Nothing is decoded. No code of a plug-in
runs, so that files which only a plug-in reads are not checked.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bmo_cli.config.schema import AnyConfig, Config, plugin_files, to_plain
from bmo_cli.config.signature import read_signature
from bmo_cli.data.dictionary import read_dictionary
from bmo_cli.data.kernels import GENERATED, KernelSet
from bmo_cli.data.splits import PhotographData, Split
from bmo_cli.experiment.build import instantiate
from bmo_cli.experiment.inputs import find_weights_files
from bmo_cli.nets.weights import require_weights_file

_OWN = "bmo_cli."
_SPLITS: Mapping[str, Sequence[Split]] = {
    "train": ("train", "val", "test"),
    "eval": ("test",),
    "certify": ("val",),
}
"""Splits that a command reads."""


class SweepFiles:
    """Checks files, each once.

    Args:
        command: of the sweep.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._checked: set[str] = set()

    def require(self, config: AnyConfig) -> None:
        """Refuse a configuration that names a missing file.

        Args:
            config: resolved and checked.

        Raises:
            InputError: a file is missing; the message names its key and path.
        """
        if not isinstance(config, Config) or self._command not in _SPLITS:
            return
        task, data = config.task, config.data
        with _silence_logging():
            if self._is_new("data", data, task["_target_"]) and _takes_photographs(config):
                self._require_photographs(config)
            kind = task.get("kernels")
            if isinstance(kind, str) and self._is_new("kernels", task, data.get("root")):
                _require_kernels(task, data.get("root"))
            file = task.get("dictionary")
            if isinstance(file, str) and self._is_new("dictionary", task):
                read_dictionary(Path(file), rows=task["rows"], columns=task["columns"])
            for _, file in find_weights_files(to_plain(config)):
                if self._is_new("weights", file):
                    require_weights_file(file)

    def _require_photographs(self, config: Config) -> None:
        tested = self._command != "train" or config.eval.test
        splits = [split for split in _SPLITS[self._command] if tested or split != "test"]
        data: PhotographData = instantiate(config.data, "data", (), PhotographData)
        data.require_files(splits)

    def _is_new(self, *what: Any) -> bool:
        """Whether this was not checked before."""
        key = json.dumps(what, sort_keys=True)
        if key in self._checked:
            return False
        self._checked.add(key)
        return True


def _takes_photographs(config: Config) -> bool:
    """Whether the task reads photographs, from a data set of this package."""
    if not config.data["_target_"].startswith(_OWN):
        return False
    signature = read_signature(config.task["_target_"], plugin_files(config.plugins))
    return "data" in signature.annotations


def _require_kernels(task: Mapping[str, Any], root: str | None) -> None:
    if not task["_target_"].startswith(_OWN) or task["kernels"] in GENERATED:
        return
    KernelSet(root=root, **{key: task[key] for key in task if key.startswith("kernel")})


@contextmanager
def _silence_logging() -> Iterator[None]:
    """Context in which nothing is logged, because the jobs will log the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
