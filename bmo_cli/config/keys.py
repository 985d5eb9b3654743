"""What a key of the configuration can change, for who compares runs or knows one again.

A key that is not named here can move a score: runs that differ in it are different experiments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

NO_NUMBER: Mapping[str, str] = {
    "resume": "where a run goes on",
    "plugins": "where programs lie; what they define is named by a _target_",
    "logger": "hears of the run and says nothing",
    "jobs": "how many jobs of a sweep run at a time",
}
"""Keys and sections that change nothing of what a run leaves, with the reason."""

NO_SCORE: Mapping[str, str] = {
    **NO_NUMBER,
    "eval.images": "how many pictures are written",
    "eval.score_at": "further numbers of iterations to score at",
    "eval.test": "whether there is a test score, not which",
    "train.log_every": "which rows history.csv has",
    "profile": "whether time is measured",
    "certify": "whether there is a certificate",
    "certificate": "how hard a certificate searches, after training",
    "device": "where it is computed; scores differ by rounding alone",
    "train.devices": "how many devices share a batch; scores differ by rounding alone",
    "compile": "how the networks are computed; scores differ by rounding alone",
    "hyper.memory": "which iterates are computed again; scores differ by rounding alone",
    "hyper.memory_mib": "memory for the iterates that are not",
    "data.workers": "threads that prepare the same batches ahead",
    "data.cache_mib": "memory for decoded images",
    "data.max_megapixels": "which files are refused; it changes none that is read",
}
"""Keys and sections that cannot move a score, with the reason."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "data.root": ("train", "val", "test"),
    "data.train": ("train",),
    "data.val": ("val",),
    "data.test": ("test",),
    "data.degraded": ("train", "val", "test"),
    "data.clean": ("train", "val", "test"),
    "task.kernels": ("kernel",),
    "task.dictionary": ("dictionary",),
}
"""Keys that say where data lie, with the data: beginnings of keys of result.json's `data`.

What lies there can move a score, and where it lies cannot: such a key counts by content.
"""


def is_among(key: str, table: Collection[str]) -> bool:
    """Whether a dotted key, or a section that holds it, is named in a table."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in table for count in range(1, len(parts) + 1))
