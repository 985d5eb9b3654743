"""The score of a restored photograph that curves are drawn of."""

import pytest

from bmo_cli.data.splits import Embedded
from bmo_cli.tasks.deconvolution import Deconvolution
from bmo_cli.tasks.derain import Derain
from bmo_cli.tasks.toy import Toy


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [Deconvolution, Derain])
def test_the_metric_alone_is_that_among_all_scores(kind, channels):
    data = Embedded(channels=3, crop=32, eval_crop=40)
    task = kind(data=data, channels=channels, protocol="luminance")
    case = next(task.cases("val"))
    assert 5 < task.score_metric(case.initial, case) < 60
    assert task.score_metric(case.initial, case) == task.score(case.initial, case)["psnr"]


def test_a_task_with_another_measure_is_scored_by_it():
    class Similarity(Deconvolution):
        metric = "ssim"

    class Rounded(Deconvolution):
        def score(self, estimate, case):
            return {"psnr": round(super().score(estimate, case)["psnr"])}

    data = Embedded(crop=32, eval_crop=40)
    for kind in (Similarity, Rounded):
        task = kind(data=data)
        case = next(task.cases("val"))
        assert task.score_metric(case.initial, case) == task.score(case.initial, case)[kind.metric]
    assert Similarity(data=data).score_metric(case.initial, case) < 1
    assert task.score_metric(case.initial, case) == int(task.score_metric(case.initial, case))


def test_other_tasks_take_it_from_their_scores():
    task = Toy(problem="a")
    case = next(task.cases("test"))
    assert task.score_metric(case.initial, case) == task.score(case.initial, case)["distance"]
