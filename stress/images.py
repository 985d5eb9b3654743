"""Read thousands of made image files: .venv/bin/python stress/images.py [--files N] [--seed S].

Every format that is read, in every depth, colour, layout, kind of alpha, number of frames and
orientation, with and without profile and resolution, and a share of damaged files. Most come from
writers of their own (made_tiff.py, png_cases.py, other_cases.py), so that no library is its own
judge. Each file has to be read right, every pixel within the rounding of its depth (or the loss of
its JPEG), with its profile and resolution; or refused in one line, where it holds no photograph.
What is read right is written in every format that can hold it, and has to be the same again.

Prints counts by kind. Exit code 1 if a file was read wrong, refused although it is ordinary, or
ended in anything but one line. A file that hangs ends the program after a minute, with a traceback.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import other_cases
import png_cases
import tiff_cases
from image_case import Case
from numpy.typing import NDArray

from bmo_cli.data.images.description import colour_space
from bmo_cli.data.images.file import read_image, read_values, write_image
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.errors import InputError

_KINDS = [*tiff_cases.CASES, *png_cases.CASES, *other_cases.CASES]
_DAMAGED = 0.2
_SECONDS = 60
RIGHT, REFUSED, UNJUDGED = "read right", "refused", "damaged, read"
GOOD = (RIGHT, REFUSED, UNJUDGED)


def make(rng: np.random.Generator) -> Case:
    """A case of any kind, one in five of them damaged."""
    shares = np.array([share for share, _ in _KINDS], float)
    case = _KINDS[int(rng.choice(len(_KINDS), p=shares / shares.sum()))][1](rng)
    return _damaged(rng, case) if rng.random() < _DAMAGED else case


def _damaged(rng: np.random.Generator, case: Case) -> Case:
    """Cut off, with bits flipped, noise in it, or with absurd numbers in its header."""
    data, how = bytearray(case.content), int(rng.integers(4))
    kind, size = f"damaged {case.suffix[1:].upper()}", len(data)
    if how == 0:  # what is left is as it was: what can be read must be right
        cut = bytes(data[: int(rng.integers(size))])
        return replace(case, kind=kind, content=cut, may_refuse=True)
    if how == 1:
        start = int(rng.integers(size))
        data[start : start + int(rng.integers(1, 64))] = rng.bytes(int(rng.integers(64)))
    elif how == 2:
        start = int(rng.integers(max(1, min(size, 256) - 4)))
        data[start : start + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4))[start % 3]
    else:
        for _ in range(int(rng.integers(1, 20))):
            data[int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    return replace(case, kind=kind, content=bytes(data), may_refuse=True, damaged=True)


def judge(case: Case, file: Path) -> str:
    """What came of a case: one of `GOOD`, or what is wrong."""
    file.write_bytes(case.content)
    try:
        flaw = _numbers_flaw(case, file)
        if flaw:
            return flaw
    except Exception as error:
        return f"numbers: {error}"
    try:
        photograph = read_image(file, 1.0)
    except InputError as error:
        lines = str(error).count("\n") + 1
        if lines > 1 or len(str(error)) > 500:
            return f"refused in {lines} lines"
        ordinary = case.pixels is not None and not case.may_refuse
        return f"refused although it is ordinary: {error}" if ordinary else REFUSED
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if case.damaged and not case.guarded:
        return UNJUDGED
    if case.pixels is None:
        return "read, although it is no photograph"
    return _flaw(case, photograph) or _changed_by_writing(photograph, file) or RIGHT


def _numbers_flaw(case: Case, file: Path) -> str:
    """What the reader of numbers makes of the file that it should not."""
    if case.values is None or case.may_refuse:
        return ""
    actual = read_values(file)
    same = actual.shape == case.values.shape and np.array_equal(actual, case.values)
    return "" if same else f"numbers: {actual.shape}, not as they were made"


def _changed_by_writing(photograph: Photograph, file: Path) -> str:
    """What is not the same after the photograph was written in each format and read again."""
    for suffix in (".png", ".tif", ".bmp", ".jpg"):
        copy = file.with_name(f"written{suffix}")
        try:
            write_image(copy, photograph, overwrite=True)
        except InputError as error:
            if suffix in (".png", ".tif") or "cannot hold" not in str(error):
                return f"writing {suffix}: {error}"
            continue
        except Exception as error:
            return f"writing {suffix}: {type(error).__name__}: {error}"
        change = _change(photograph, read_image(copy), suffix)
        if change:
            return f"writing {suffix}: {change}"
    return ""


def _change(before: Photograph, after: Photograph, suffix: str) -> str:
    said = before.description
    assert said is not None and after.description is not None
    if before.pixels.shape != after.pixels.shape or (before.alpha is None) != (after.alpha is None):
        return f"{before.pixels.shape} became {after.pixels.shape}"
    if suffix == ".tif" and said.premultiplied:
        same = np.abs(_on_black(before) - _on_black(after)).max() <= 1
    else:
        same = np.array_equal(before.pixels, after.pixels)
    if suffix != ".jpg" and not (same and _equal(before.alpha, after.alpha)):
        return "pixels changed"
    own = "GRAY" if before.pixels.shape[2] == 1 else "RGB"
    fits = suffix != ".bmp" and said.profile and colour_space(said.profile) == own
    if fits and said.profile != after.description.profile:
        return "the profile is lost"
    return ""


def _equal(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _on_black(photograph: Photograph) -> NDArray[np.float64]:
    """Colour times alpha, which is all that premultiplied colour holds of it."""
    assert photograph.alpha is not None
    weight = photograph.alpha[..., None].astype(np.float64) / photograph.levels
    shown: NDArray[np.float64] = photograph.pixels * weight
    return shown


def _flaw(case: Case, photograph: Photograph) -> str:
    """What of a photograph is not as it was made."""
    assert case.pixels is not None
    pairs = [("pixels", photograph.pixels, case.pixels), ("alpha", photograph.alpha, case.alpha)]
    for name, actual, right in pairs:
        if (actual is None) != (right is None):
            return f"{name}: {'none' if actual is None else 'some'} read"
        if actual is None or right is None:
            continue
        if name == "pixels" and actual.shape[2] == 1 and (right == right[..., :1]).all():
            right = right[..., :1]  # a palette of grays is gray
        if actual.shape != right.shape:
            return f"{name}: {actual.shape} instead of {right.shape}"
        off = float(np.abs(actual / photograph.levels - right).max())
        if off > case.tolerance:
            return f"{name}: wrong by {off:.4f} of white, {case.tolerance:.4f} allowed"
    said = photograph.description
    if said is None or case.damaged:
        return ""
    if case.profile != said.profile and case.profile is not None:
        return "another profile"
    resolution = said.resolution and (
        said.resolution.x,
        said.resolution.y,
        said.resolution.unit,
    )
    if case.resolution is not None and case.resolution != resolution:
        return f"resolution {resolution} instead of {case.resolution}"
    return ""


def main() -> int:
    """Make and judge files, print what is wrong and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that are read wrong")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # of what a format cannot hold
    counts: dict[str, Counter[str]] = {}
    start, bad = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.files):
            case = make(np.random.default_rng([given.seed, number]))
            faulthandler.dump_traceback_later(_SECONDS, exit=True)
            verdict = judge(case, Path(scratch) / f"made{case.suffix}")
            counts.setdefault(case.kind, Counter())[verdict if verdict in GOOD else "wrong"] += 1
            if verdict in GOOD:
                continue
            bad += 1
            print(f"WRONG {number}, {case.kind}: {verdict}", flush=True)
            if given.keep:
                (given.keep / f"{given.seed}-{number}{case.suffix}").write_bytes(case.content)
    faulthandler.cancel_dump_traceback_later()
    _print_counts(counts)
    took = time.monotonic() - start
    print(f"{given.files} files of seed {given.seed}, {took:.0f} s: {bad} read wrong")
    return 1 if bad else 0


def _print_counts(counts: dict[str, Counter[str]]) -> None:
    columns = (*GOOD, "wrong")
    print(f"{'':24}" + "".join(f"{column:>15}" for column in columns))
    for kind in sorted(counts):
        print(f"{kind:24}" + "".join(f"{counts[kind][column]:>15}" for column in columns))
    totals = sum(counts.values(), Counter())
    print(f"{'all':24}" + "".join(f"{totals[column]:>15}" for column in columns))


if __name__ == "__main__":
    sys.exit(main())
