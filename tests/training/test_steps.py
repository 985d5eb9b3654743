"""What a hyper-optimiser is told before every step of a training."""

import pytest
from conftest import composed

from bmo_cli.hyper.aggregation import BMO
from bmo_cli.results.run import Run, RunSpec
from bmo_cli.training.run import train


@pytest.mark.slow
def test_a_step_begins_with_the_fraction_that_is_done(tiny, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(BMO, "begin_step", lambda self, done: told.append(done))
    for name, steps in (("four", 4), ("two", 2)):
        (tmp_path / name).mkdir()
        config = composed(*tiny, f"train.steps={steps}", "eval.test=false")
        train(Run(RunSpec(config, {}, tmp_path / name)))
    assert told == [0, 0.25, 0.5, 0.75, 0, 0.5]
