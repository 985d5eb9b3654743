"""A cell of a table: one run, identified by its configuration, its data and this version."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmo_cli import __version__
from bmo_cli.config.keys import NO_NUMBER, TEST_ALONE
from bmo_cli.config.schema import Config, to_plain
from bmo_cli.data.kernels import kernels_file
from bmo_cli.data.splits import SPLITS, PhotographData, Split
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import instantiate, load_target_class, takes_argument
from bmo_cli.experiment.plugins import hash_plugins, load_plugins
from bmo_cli.hyper.base import HyperOptimizer
from bmo_cli.jobs.status import is_done
from bmo_cli.results.provenance import source_hash
from bmo_cli.results.result import RunResult
from bmo_cli.results.run import TrainSpec
from bmo_cli.tasks.task import Task

_PLACES = ("root", "train", "val", "test", "workers", "cache_mib", "max_megapixels")
"""Keys of `data` that say where images are and how they are read. The digest identifies them."""


@dataclass(frozen=True)
class Cell:
    """One run of a table.

    Attributes:
        row, column: names.
        seed: of the run.
        overrides: of `bmo train`.
        spec: of the run; its snapshot becomes config.yaml of the run folder.
        chosen: tuned values.
        problem: why the cell cannot run; empty if it can.
        placed: overrides that say where its data are.
        training: key of its training, equal for cells that differ in their test alone; None: no
            other cell can take its training.
    """

    row: str
    column: str
    seed: int
    overrides: tuple[str, ...]
    spec: TrainSpec
    chosen: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    placed: tuple[str, ...] = ()
    training: str | None = None

    @property
    def name(self) -> str:
        """The cell in words."""
        values = ", ".join(f"{key}={value}" for key, value in self.chosen.items())
        shown = f"{self.row} ({values})" if values else self.row
        judged = "" if self.tests else ", validation alone"
        return f"{shown}, {self.column}, seed {self.seed}{judged}"

    @property
    def tests(self) -> bool:
        """Whether its run is scored on the test split. Candidates of tuning are not."""
        return self.spec.config.eval.test

    @property
    def result(self) -> RunResult | None:
        """The result of a cell that is done; None for others."""
        result = self.spec.folder.read_result()
        if result is None or self.problem or not is_done(result, self.spec.config):
            return None
        return result

    @property
    def stale(self) -> bool:
        """Whether the cell was computed by other code than the present."""
        result = self.result
        return result is not None and result.code != source_hash()

    def score(self, name: str) -> float | None:
        """A finite number of a cell that is done; None: it has none.

        Args:
            name: a metric, another entry of its result, or `images/IMAGE/SCORE`, a score of one
                test image.
        """
        result = self.result
        if result is None:
            return None
        if name.startswith("images/"):
            image, _, score = name.removeprefix("images/").rpartition("/")
            value = (result.images or {}).get(image, {}).get(score)
        else:
            value = result.metrics.get(name, getattr(result, name, None))
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def name_cell_folder(out: Path, row: str, column: str, seed: int, key: str) -> Path:
    """`OUT/runs/ROW--COLUMN--SEED-KEY`."""
    return out / "runs" / f"{sanitize_name(row)}--{sanitize_name(column)}--{seed}-{key}"


def sanitize_name(name: str) -> str:
    """The name of a row or column with characters that every file system accepts."""
    return re.sub(r"\W+", "_", name).strip("_")[:80]


class Identity:
    """Computes keys of cells, which are equal for runs that would compute the same.

    Args:
        plugins: plug-in files and modules; their content is a part of the key.

    Raises:
        InputError: a plug-in cannot be imported.
    """

    def __init__(self, plugins: Sequence[str]) -> None:
        self._plugins = load_plugins(plugins)
        self._sources = hash_plugins(self._plugins)
        self._digests: dict[str, str | InputError | None] = {}

    def key(self, config: Config) -> tuple[str, str]:
        """The key, and what is wrong with the data or the kernels (empty: nothing).

        Args:
            config: resolved and checked.
        """
        digest, problem = self._digest_data(config, SPLITS), ""
        if isinstance(digest, InputError):
            digest, problem = None, str(digest)
        kernels: dict[str, str] = {}
        try:
            kernels = _hash_named_kernels(config)
        except InputError as error:
            problem = problem or str(error)
        return self._hash(_drop_keys(to_plain(config), NO_NUMBER), kernels, digest), problem

    def training_key(self, config: Config) -> str | None:
        """Key of the training, equal for runs whose configurations differ in `TEST_ALONE`.

        Args:
            config: resolved and checked; its data and its kernels can be read.

        Returns:
            None where nothing is trained. None also where a task or data of a plug-in may read
            those keys in training.
        """
        hyper = load_target_class(config.hyper, "hyper", self._plugins, HyperOptimizer)
        own = all(
            str(node["_target_"]).startswith("bmo_cli.") for node in (config.task, config.data)
        )
        if not hyper.trains or not own:
            return None
        digest = self._digest_data(config, ("train", "val"))
        if isinstance(digest, InputError):
            return None
        content = _drop_keys(to_plain(config), {**NO_NUMBER, **TEST_ALONE})
        return self._hash(content, _hash_named_kernels(config), digest)

    def _hash(
        self, content: Mapping[str, Any], kernels: Mapping[str, str], digest: str | None
    ) -> str:
        """Hash of a configuration, its kernels and its data, this version and the plug-ins."""
        counted = _replace_files_by_hashes(content)
        counted["task"] |= kernels
        if digest is not None:
            counted["data"] = {k: v for k, v in counted["data"].items() if k not in _PLACES}
        text = json.dumps([__version__, counted, self._sources, digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def _digest_data(self, config: Config, splits: Sequence[Split]) -> str | InputError | None:
        """Hash of the data of a task that takes photographs; None for other tasks.

        Where the test split is left out, what it chooses of the training crops counts.

        Returns the error where the data cannot be read.
        """
        task = load_target_class(config.task, "task", self._plugins, Task)
        if not takes_argument(task, "data", self._plugins):
            return None
        node = config.data
        where = json.dumps([node, splits], sort_keys=True)
        if where not in self._digests:
            try:
                data = instantiate(node, "data", self._plugins, PhotographData)
                every = tuple(splits) == SPLITS
                self._digests[where] = (
                    data.digest() if every else f"{data.digest(splits)} {data.flips}"
                )
            except InputError as error:
                self._digests[where] = error
        return self._digests[where]


def _drop_keys(
    content: Mapping[str, Any], dropped: Collection[str], prefix: str = ""
) -> dict[str, Any]:
    """A configuration without some of its keys."""
    return {
        key: _drop_keys(value, dropped, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in content.items()
        if f"{prefix}{key}" not in dropped
    }


def _replace_files_by_hashes(value: Any) -> Any:
    """A value with names of files replaced by hashes of their content.

    Moving a file therefore does not change the key.
    """
    if isinstance(value, Mapping):
        return {key: _replace_files_by_hashes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_files_by_hashes(item) for item in value]
    if isinstance(value, str) and "." in value and Path(value).is_file():
        return _hash_file(value)
    return value


def _hash_named_kernels(config: Config) -> dict[str, str]:
    """The hash of the kernels that have a name, which lie in the root of the data."""
    kind = config.task.get("kernels")
    file = kernels_file(kind, config.data.get("root")) if isinstance(kind, str) else None
    return {"kernels": _hash_file(file)} if file is not None and file.is_file() else {}


def _hash_file(file: str | Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
