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
    "eval.null_space": "at how many test cases D is linearised, after the score",
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

TEST_ALONE: Mapping[str, str] = {
    "task.test_noise": "noise of the test split; the other splits have task.noise",
    "task.eval_kernels": "how many kernels a test image meets; a validation image meets one",
    "data.test": "where the test images lie; the other splits have places of their own",
    "data.test_set": "which set is tested on; data.flips, which may follow it, is compared itself",
    "data.subset": "which images of the test set are used",
    "eval.test": "whether the test split is scored, after training",
    "eval.score_at": "further numbers of iterations at which the test split is scored",
    "eval.null_space": "at how many test cases D is linearised",
    "eval.images": "how many test images are written as pictures",
}
"""Keys that change nothing before the test, with the reason. Runs that differ in them alone have
the same weights, so that a table trains them once.

Keys that validation reads as well are not among them, because it chooses the checkpoint:
data.eval_crop, task.protocol, task.eval_seed, eval.iterations, eval.tolerance, eval.anderson.
"""

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
