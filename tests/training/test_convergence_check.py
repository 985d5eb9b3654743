"""The remark about a K that ends far from the fixed point."""

import pytest
from conftest import composed

from bmo_cli.experiment.build import build
from bmo_cli.experiment.evaluation import Settings, evaluate
from bmo_cli.training.convergence_check import check_convergence

WORDS = (
    *("task=deconv", "net=lip", "device=cpu", "data.eval_crop=48", "task.kernel_count=2"),
    "task.kernel_size=9",
)


def experiment(*words):
    built = build(composed(*WORDS, *words))
    built.task.prepare(("val",))
    return built


def test_a_k_that_is_too_small_is_noticed_with_the_scores_of_an_evaluation():
    built = experiment("gkm.operator.gamma=0.5")
    remark = check_convergence(built, 2)
    for count in (2, 20):
        scores = evaluate(built.scheme, built.task, "val", Settings(count))
        rows = list(scores.values())[:2]
        assert f"{sum(row['psnr'] for row in rows) / 2:.2f} dB" in remark
    assert "K = 2" in remark and "after 20 iterations" in remark
    assert check_convergence(built, 400) is None


@pytest.mark.parametrize("words", [("net=dncnn",), ("hyper=none",), ("hyper=separate",)])
def test_nothing_is_said_where_nothing_is_known(words):
    assert check_convergence(experiment("gkm.operator.gamma=0.5", *words), 2) is None
