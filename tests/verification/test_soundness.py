"""Certificates of random schemes whose truth is known; stress/soundness.py judges a thousand."""

import pytest
import schemes
import soundness

FAULTS = len(schemes.FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 2 * FAULTS, 2))
def test_a_scheme_with_a_fault_is_not_certified(number):
    found = schemes.scheme(7, number)
    assert found.fault
    assert soundness.judged(found) != "certified"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, 2 * FAULTS, 2))
def test_a_scheme_without_one_is_certified(number):
    found = schemes.scheme(7, number)
    assert not found.fault
    assert soundness.judged(found) == "certified"
