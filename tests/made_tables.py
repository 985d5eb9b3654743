"""Tables that tests make in their own process, as `bmo table` does after it has read its words."""

from dataclasses import dataclass

import yaml
from hydra import initialize_config_dir

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.errors import BmoError, Interrupted
from bmo_cli.jobs.pool import JobPool
from bmo_cli.tables import execute
from bmo_cli.tables.make import make_table

MINI = """
# two methods on a toy
title: Mini | a test
common: [task=toy, train.steps=3, train.iterations=4, train.validate_every=2]
rows:
  bmo: [hyper=bmo, hyper.mu=0.9]
  unrolled: [hyper=unrolled]
columns:
  (a) many: [task.problem=a]
scores:
  test/distance: .4f
  evaluations: .0f
seeds: [0, 1]
"""
TABLE_KEYS = (
    *("rows", "columns", "seeds", "presets", "tune", "published", "scores", "common", "adjust"),
    "shared_images",
)


class InThisProcess(JobPool):
    """One job at a time, here, where a test can change what it calls."""

    def add(self, key, function, *arguments, device):
        try:
            value = function(*arguments)
        except Interrupted:
            raise
        except BmoError as error:
            self._on_end(key, Ended(error=error))
        else:
            self._on_end(key, Ended(value))


@dataclass
class Ended:
    value: str = ""
    error: Exception | None = None

    def outcome(self):
        if self.error is not None:
            raise self.error
        return self.value


def table_maker(tmp_path, monkeypatch):
    """`make(**changes of the table or of the command)` in tmp_path; returns the output folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        execute,
        "JobPool",
        lambda size, *rest: (InThisProcess if size == 1 else JobPool)(size, *rest),
    )
    folder = config_dir().resolve()

    def run(text=MINI, *, out="out", **changes):
        table = yaml.safe_load(text)
        table |= {key: changes.pop(key) for key in list(changes) if key in TABLE_KEYS}
        command = {"only": None, "preset": None, "root": None, "jobs": 1, "dry_run": False}
        command |= {"seeds": None, "stale": "keep", "plugins": [], "out": str(tmp_path / out)}
        config = {"table": table, **command, **changes}
        checked = check_config(config, "table")
        with initialize_config_dir(str(folder), version_base="1.3"):
            make_table(checked, "mini")
        return tmp_path / out

    return run
