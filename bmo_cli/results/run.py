"""A run as an object: what it is (`RunSpec`), and how far it is in this process (`Run`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from bmo_cli.config.schema import AnyConfig, Config
from bmo_cli.results.files import write_atomically
from bmo_cli.results.result import RunResult
from bmo_cli.results.run_folder import RunFolder

ConfigT_co = TypeVar("ConfigT_co", bound=AnyConfig, covariant=True)


@dataclass(frozen=True)
class RunSpec(Generic[ConfigT_co]):
    """What a run is, before anything of it is built. It can be pickled.

    Attributes:
        config: resolved and checked.
        choices: chosen option of every group of `config.names.NAMED`.
        path: of the run folder, which exists.
        logging: configuration of the run's log, for `logging.config.dictConfig`.
        snapshot: text that becomes .hydra/config.yaml when the run starts; None: it is there.
        about: folder of the run that an evaluation or a certificate is about.
    """

    config: ConfigT_co
    choices: Mapping[str, str | None]
    path: Path
    logging: Mapping[str, Any] = field(default_factory=dict)
    snapshot: str | None = None
    about: str | None = None

    @property
    def plugins(self) -> Sequence[str]:
        """Files and modules of the user's own."""
        return self.config.plugins

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.path)


TrainSpec = RunSpec[Config]


@dataclass
class Run(Generic[ConfigT_co]):
    """A run in this process.

    It is `prepared` until everything is built, loaded and checked: a run that is refused before it
    has started has changed nothing in its folder.

    Attributes:
        spec: what it is.
        state: how far it is.
        written: what this process last wrote to result.json; None: nothing yet.
    """

    spec: RunSpec[ConfigT_co]
    state: Literal["prepared", "started", "finished"] = "prepared"
    written: RunResult | None = None

    @property
    def config(self) -> ConfigT_co:
        """Of the run."""
        return self.spec.config

    @property
    def plugins(self) -> Sequence[str]:
        """Files and modules of the user's own."""
        return self.spec.plugins

    @property
    def folder(self) -> RunFolder:
        """Of the run."""
        return self.spec.folder

    def start(self, result: RunResult | None = None) -> None:
        """From here on the folder is this run's: write its snapshot, and the result so far."""
        self.state = "started"
        if self.spec.snapshot is not None:
            file = self.spec.path / ".hydra" / "config.yaml"
            write_atomically(file, self.spec.snapshot.encode())
        if result is not None:
            self.write(result)

    def write(self, result: RunResult) -> None:
        """Replace result.json."""
        self.written = replace(result, choices=self.spec.choices, run=self.spec.about)
        self.written.write(self.spec.path)

    def finish(self, result: RunResult) -> None:
        """Write the final result."""
        self.write(result)
        self.state = "finished"
