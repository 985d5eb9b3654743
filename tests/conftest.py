"""Shared fixtures. Real data are optional: BMO_DATA names their folder (default ../shared/data)."""

import functools
import json
import os
import shutil
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bmo_cli.config.locate import config_dir
from bmo_cli.config.schema import check_config
from bmo_cli.data.images.file import Photograph, write_image

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)  # of a worker: threads that share cores with another one wait for it


SLOW_FIXTURES = {"lip_run", "browser", "built", "sweep", "trained_once", "real_data"}
"""What takes seconds to make, so that no test that needs it is a fast one."""


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def real_data():
    """Folder with set12 and kernels; tests that need it are skipped when it is absent."""
    folder = Path(os.environ.get("BMO_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "set12").is_dir():
        pytest.skip(f"real data not found in {folder} (set BMO_DATA)")
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def plain_config(*overrides, command="train"):
    """The configuration of a command, resolved, as plain data."""
    with initialize_config_dir(str(config_dir().resolve()), version_base="1.3"):
        config = compose(command, [*overrides, *(["out=out"] if command == "table" else [])])
    return OmegaConf.to_container(config, resolve=True)


def composed(*overrides, command="train"):
    """The configuration of a command as objects."""
    return check_config(plain_config(*overrides, command=command), command)


def make_photos(folder):
    """Folders train, val and test with two small gray images each."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (40, 36, 1), dtype=np.uint8)
            write_image(folder / split / f"{split}{i}.png", Photograph(pixels))
    return folder


def run_bmo(*words, cwd, timeout=120, **environment):
    """Run the command line; returns the finished process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return forked.run([str(word) for word in words], cwd, timeout, environment)


def result(folder):
    """Content of a run's result.json."""
    return json.loads((folder / "result.json").read_text())


TINY = (
    *("debug=tiny", "data=folder", "device=cpu", "data.crop=24", "hyper=bmo"),
    *("task.kernel_count=2", "task.kernel_size=7"),
)
SEARCH = ("certificate.cases=2", "certificate.turns=20", "certificate.curve=100")
"""The search of a certificate as it is by default. That of debug=tiny certifies nothing."""
SMALL_NET = ("net=dncnn", "net.width=4", "net.depth=2")


def tiny_words(photos):
    """Overrides of a training run that takes seconds."""
    return [
        *TINY,
        *SMALL_NET,
        *(f"data.{split}={photos / split}" for split in ("train", "val", "test")),
    ]


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


@pytest.fixture
def tiny(photos):
    return tiny_words(photos)


@pytest.fixture
def bmo(tmp_path):
    """`run_bmo` in `tmp_path`."""
    return functools.partial(run_bmo, cwd=tmp_path)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = run_bmo(
        "train", *tiny_words(make_photos(folder / "photos")), "hydra.run.dir=run", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture
def trained(trained_once, tmp_path):
    """Folder `run` of a finished tiny run, a copy that a test may damage."""
    shutil.copytree(trained_once, tmp_path / "run")
    return tmp_path / "run"
