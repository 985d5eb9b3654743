"""What a key of the configuration can change. Comparisons and tables of runs use this.

A key that is not listed here can change a score: runs that differ in it are different experiments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

NO_NUMBER: Mapping[str, str] = {
    "resume": "which run folder continues",
    "plugins": "where plug-ins lie; a _target_ names what they define",
    "logger": "receives the history and changes nothing",
    "jobs": "how many jobs of a sweep run at a time",
    "certificate.curve": "how far the curves of a certificate are drawn, which decide nothing",
}
"""Keys and sections that change no score and no verdict that a run writes, with the reason."""

NO_SCORE: Mapping[str, str] = {
    **NO_NUMBER,
    "eval.images": "how many pictures are written",
    "eval.score_at": "further numbers of iterations that are scored",
    "eval.test": "whether there is a test score, not which",
    "train.log_every": "which rows history.csv has",
    "profile": "whether time is measured",
    "certify": "whether there is a certificate",
    "certificate": "how hard a certificate searches, after training",
    "device": "where the run is computed; scores differ by rounding alone",
    "train.devices": "how many devices share a batch; scores differ by rounding alone",
    "compile": "how the networks are computed; scores differ by rounding alone",
    "hyper.memory": "which iterates are recomputed; scores differ by rounding alone",
    "hyper.memory_mib": "memory for the iterates that are not recomputed",
    "data.workers": "threads that prepare the same batches ahead",
    "data.cache_mib": "memory for decoded images",
    "data.max_megapixels": "which files are refused; files that are read do not change",
}
"""Keys and sections that cannot change a score, with the reason."""

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
"""Keys that say where data lie, with prefixes of the keys of `data` in result.json.

The content of the data can change a score, their place cannot: such keys are compared by content.
"""


def is_among(key: str, table: Collection[str]) -> bool:
    """Whether a dotted key, or a section that holds it, is in a table."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in table for count in range(1, len(parts) + 1))
