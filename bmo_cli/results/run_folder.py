"""The folder of a run: history.csv, result.json, pictures and locks."""

from __future__ import annotations

import csv
import fcntl
import io
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bmo_cli.errors import InputError, RunLocked
from bmo_cli.results.files import write_atomically
from bmo_cli.results.result import RunResult

HISTORY = ("step", "seconds", "loss", "val", "hypergrad_norm", "residual", "lr")
"""Columns of history.csv; in the file `val` carries the name of the metric, as `val_psnr`."""


class RunFolder:
    """Paths and writers of one run.

    Args:
        path: the folder; it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the folder for this process; the lock ends with the process.

        Unfinished files of a killed process are removed.

        Raises:
            RunLocked: another process holds the lock.
        """
        with self._locked(fcntl.LOCK_EX, patience=1.0):
            self._remove_unfinished()
            yield

    def is_claimed(self) -> bool:
        """Whether a process holds the lock. The check does not block a process that starts."""
        try:
            with self._locked(fcntl.LOCK_SH, patience=0.0):
                return False
        except (RunLocked, OSError):
            return True

    @contextmanager
    def _locked(self, kind: int, patience: float) -> Iterator[None]:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            until = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(handle, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= until:  # a check holds the lock for an instant
                        raise RunLocked(
                            f"another process is training in {self.path}; wait until it has "
                            "ended, or stop it"
                        ) from error
                    time.sleep(0.05)
                except OSError:  # a file system without locks
                    break
            yield
        finally:
            os.close(handle)

    def _remove_unfinished(self) -> None:
        """Remove temporary files that a killed process left, see `write_atomically`."""
        for folder, names in (
            (self.path, ("result.json", "history.csv", "curves.png", "certificate.*")),
            (self.checkpoints, ("*.safetensors",)),
        ):
            for name in names:
                for file in [*folder.glob(f".{name}"), *folder.glob(f".{name}.*")]:
                    file.unlink(missing_ok=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of the weights."""
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        """Folder of the pictures."""
        return self.path / "images"

    def picture(self, number: int, case: str, name: str) -> Path:
        """Path of a picture of the test case with this number, counted from 1.

        Characters that a file name cannot hold become underscores. The name is cut because most
        file systems allow 255 bytes.
        """
        stem = "".join(c if c.isprintable() and c != "/" else "_" for c in case.rsplit(".", 1)[0])
        short = stem[:80].encode()[:200].decode(errors="ignore")
        return self.images / f"{number:02d}_{short}_{name}.png"

    def read_result(self) -> RunResult | None:
        """What result.json says, see `RunResult.read`."""
        return RunResult.read(self.path)

    def read_history(self) -> list[dict[str, float]]:
        """Rows of history.csv; empty cells are NaN. An incomplete last line is ignored."""
        file = self.path / "history.csv"
        if not file.is_file():
            return []
        try:
            content = file.read_text(encoding="utf-8")
            reader = csv.DictReader(io.StringIO(content[: content.rfind("\n") + 1]))
            given = reader.fieldnames or ()
            names = {"val" if key.startswith("val_") else key: key for key in given}
            return [{key: float(row[names[key]] or "nan") for key in HISTORY} for row in reader]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is damaged: {error}") from error


def require_closed(folder: Path) -> None:
    """Refuse a folder that leads out of itself before something is written in it.

    A stranger's folder may hold a link to a file elsewhere, or a pipe that blocks its reader.

    Raises:
        InputError: something in it is a link to the outside, a pipe or a device.
    """
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entry = Path(place) / name
            if entry.is_symlink():
                if not entry.resolve().is_relative_to(home):
                    raise InputError(f"{entry} is a link out of {folder}; remove it, or copy it in")
            elif not entry.is_dir() and not entry.is_file():
                raise InputError(f"{entry} is no regular file; remove it")


class History:
    """history.csv with a row for every logged step. `add` flushes to the operating system.

    Args:
        folder: the run folder.
        metric: name of the validation score.
        keep_until: rows of an existing file are kept up to this step (a resumed run).
    """

    def __init__(self, folder: RunFolder, metric: str, keep_until: int = 0) -> None:
        self._file = folder.path / "history.csv"
        kept = [row for row in folder.read_history() if row["step"] <= keep_until]
        header = [f"val_{metric}" if key == "val" else key for key in HISTORY]
        lines = [",".join(header), *(_csv_line(row) for row in kept)]
        write_atomically(self._file, ("\n".join(lines) + "\n").encode())

    def add(self, row: Mapping[str, float]) -> None:
        """Append one row."""
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(_csv_line(row) + "\n")


def _csv_line(row: Mapping[str, float]) -> str:
    return ",".join(_cell(key, row[key]) for key in HISTORY)


def _cell(key: str, value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if key == "step" else f"{value:.9g}"
