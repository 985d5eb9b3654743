"""The iterations of a validation, which chooses the checkpoint, apart from those of the test."""

import pytest
from conftest import composed

from bmo_cli.results.run import Run, RunSpec
from bmo_cli.training.run import train


@pytest.fixture
def scores(tiny, tmp_path):
    """Runs a training, and returns its validation and its test score."""

    def run(name, *words):
        (tmp_path / name).mkdir()
        metrics = train(Run(RunSpec(composed(*tiny, *words), {}, tmp_path / name))).metrics
        return metrics["val/psnr"], metrics["test/psnr"]

    return run


@pytest.mark.slow
def test_validation_has_iterations_of_its_own_where_it_is_told_any(scores):
    val_2, test_2 = scores("2", "train.steps=1", "eval.iterations=2")
    val_9, test_9 = scores("9", "train.steps=1", "eval.iterations=9")
    assert val_2 != val_9 and test_2 != test_9
    words = ["train.steps=1", "eval.iterations=9", "train.validate_iterations=2"]
    assert scores("both", *words) == (val_2, test_9)
