"""Certify random schemes whose truth is known: none of the bad ones, nearly all of the good ones.

.venv/bin/python stress/soundness.py [--schemes 1000] [--seed 0] [--first N] prints a line for every
scheme that is judged wrongly and a table of verdicts; exit code 0 where no bad scheme is certified
and at least 90 % of the good ones are. `schemes.py` says what is good and what is bad. The search
is as hard as `bmo certify` has it by default, in float32.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections import Counter, defaultdict

import schemes
import torch

from bmo_cli.config.schema import Certify as Settings
from bmo_cli.errors import BmoError
from bmo_cli.verification.certificate import certify
from bmo_cli.verification.examination import Subject

ITERATIONS = 20
LEAST = 0.9


def judged(found: schemes.Scheme) -> str:
    """The verdict of its certificate; `refused to run` where an error says what is wrong."""
    subject = Subject(found.scheme, found.convex, ITERATIONS, None, found.problems, None, None)
    try:
        return certify(subject, Settings(cases=len(found.problems))).verdict
    except BmoError:
        return "refused to run"


def main() -> int:
    """Judge them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    verdicts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    families: defaultdict[str, Counter[str]] = defaultdict(Counter)
    started = time.monotonic()
    for number in range(given.first, given.first + given.schemes):
        found = schemes.scheme(given.seed, number)
        before = time.monotonic()
        verdict = judged(found)
        verdicts[found.fault or "good"][verdict] += 1
        for kind, name in zip(("operator", "metric", "network"), found.families, strict=True):
            families[kind][name] += 1
        wrong = (verdict == "certified") == bool(found.fault)
        if wrong or given.verbose:
            seconds = time.monotonic() - before
            mark = ("WRONG" if found.fault else "missed") if wrong else "right"
            what = f"{found.fault or 'good'}: {verdict}"
            parts = " ".join(found.families)
            print(f"{mark}  {number}  {what}  {parts}  {seconds:.1f} s", flush=True)
    return _summary(verdicts, families, time.monotonic() - started)


def _summary(
    verdicts: dict[str, Counter[str]], families: dict[str, Counter[str]], seconds: float
) -> int:
    for kind, counts in families.items():
        print(f"{kind}: " + ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    for kind, counts in verdicts.items():
        print(f"{kind}: " + ", ".join(f"{verdict} {n}" for verdict, n in counts.most_common()))
    bad = [counts for kind, counts in verdicts.items() if kind != "good"]
    certified, count = sum(c["certified"] for c in bad), sum(c.total() for c in bad)
    good = verdicts.get("good", Counter())
    share = good["certified"] / max(good.total(), 1)
    print(
        f"{certified} of {count} bad schemes certified; {good['certified']} of {good.total()} good "
        f"ones certified ({100 * share:.1f} %); {seconds:.0f} s"
    )
    return 0 if certified == 0 and share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
