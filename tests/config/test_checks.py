from typing import Literal

import pytest

from bmo_cli.config.checks import (
    Count,
    HalfOpenUnit,
    NonNegative,
    OpenUnit,
    check,
    check_arguments,
    checked,
)
from bmo_cli.errors import InputError


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (0.5, OpenUnit),
        (0, HalfOpenUnit),
        (1, Count),
        (None, Count | None),
        (3, NonNegative | tuple[NonNegative, NonNegative]),
        ([1, 2.5], NonNegative | tuple[NonNegative, NonNegative]),
        ("cosine", Literal["cosine", "linear"]),
        (["a"], list[str]),
        (True, bool),
        (object(), object),
    ],
)
def test_accepts(value, annotation):
    check(value, annotation, "x")


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (1.0, OpenUnit, "x must lie in (0, 1), got 1.0"),
        (0, OpenUnit, "x must lie in (0, 1), got 0"),
        (float("nan"), OpenUnit, "x must lie in (0, 1), got nan"),
        (float("inf"), NonNegative, "x must be finite and >= 0, got inf"),
        (1.5, Count, "x must be an integer, got 1.5"),
        (True, Count, "x must be an integer, got True"),
        (0, Count | None, "x must be an integer >= 1 (or null), got 0"),
        (True, Literal[1, 3], "x must be one of 1, 3, got True"),
        ("cosin", Literal["cosine", "linear"], "did you mean 'cosine'?"),
        ([1], tuple[float, float], "x must be a list of 2 values, got [1]"),
        (["a", 2], list[str], "x[1] must be a text, got 2"),
        ("ab", list[str], "x must be a list, got 'ab'"),
    ],
)
def test_refuses(value, annotation, message):
    with pytest.raises(InputError) as error:
        check(value, annotation, "x")
    assert message in str(error.value)


def test_unknown_and_missing_arguments_are_named():
    with pytest.raises(InputError, match=r"unknown key 'gkm.alhpa'; did you mean 'gkm.alpha'\?"):
        check_arguments({"alhpa": 1}, {"alpha": OpenUnit}, prefix="gkm.")
    with pytest.raises(InputError, match=r"'gkm\.alpha' is missing"):
        check_arguments({}, {"alpha": OpenUnit}, required=["alpha"], prefix="gkm.")


def test_construction_is_checked():
    @checked
    class Scheme:
        def __init__(self, *, alpha: OpenUnit = 0.9) -> None:
            self.alpha = alpha

    assert Scheme().alpha == 0.9
    with pytest.raises(InputError, match=r"alpha must lie in \(0, 1\), got 2"):
        Scheme(alpha=2)
    with pytest.raises(TypeError, match="alhpa"):
        Scheme(alhpa=0.5)
