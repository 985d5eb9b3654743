"""Extremes of valid input end in a result or in one line, on every way into the program."""

import numpy as np
import pytest
from conftest import result
from PIL import Image

from bmo_cli.config.checks import Count, Finite, Positive, check
from bmo_cli.data.images.file import Photograph, read_image, write_image
from bmo_cli.errors import DivergenceError, InputError, wrap_resource_error

ONE_ROW = {"one pixel": (1, 1), "one row": (1, 17), "one column": (17, 1)}
LARGEST = 2**63 - 1


def photographs(folder, sizes, channels, splits=("train", "val", "test")):
    """Words that name folders of random photographs of these sizes."""
    rng = np.random.default_rng(0)
    for split in splits:
        (folder / split).mkdir(parents=True)
        for i, size in enumerate(sizes):
            pixels = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
            write_image(folder / split / f"{i}.png", Photograph(pixels))
    return [f"data.{split}={folder / split}" for split in splits]


def ends_well(done, code=0):
    assert done.returncode == code, done.stderr
    assert "internal error" not in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (code != 0), done.stderr


def finite(folder, *names):
    metrics = result(folder)["metrics"]
    assert all(np.isfinite(metrics[name]) for name in names), metrics


DECONV = (
    "task.kernels=gaussian",
    "task.kernel_size=1",
    "net=dncnn",
    "net.width=4",
    "net.depth=2",
    "hyper=bmo",
)
TASKS = {
    "deconv": ["task=deconv", *DECONV],
    "derain": ["task=derain", "net.widths=[4,4,4]"],
    "layers": ["task=derain", "net=layers"],
}


CASES = [
    *(("one pixel", task, channels) for task in TASKS for channels in (1, 3)),
    *(("one row", "deconv", 3), ("one column", "derain", 1), ("one column", "layers", 3)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "task", "channels"), CASES)
def test_photographs_of_one_row(bmo, tmp_path, size, task, channels):
    where = photographs(tmp_path / "p", [ONE_ROW[size]], channels)
    words = [*TASKS[task], "debug=tiny", "data=folder", "device=cpu", *where, "data.crop=1"]
    colour = f"data.channels={channels}"
    done = bmo("train", *words, colour, "hydra.run.dir=run")
    ends_well(done)
    finite(tmp_path / "run", "test/psnr", "val/psnr")
    ends_well(bmo("eval", "run=run", "hydra.run.dir=found"))
    assert result(tmp_path / "found")["metrics"]["test/psnr"] == pytest.approx(
        result(tmp_path / "run")["metrics"]["test/psnr"], abs=1e-4
    )
    done = bmo("certify", "run=run", "certificate.turns=1", "hydra.run.dir=sheet")
    ends_well(done)


@pytest.mark.parametrize("size", ONE_ROW)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_files_of_one_row_are_written_as_they_are(tmp_path, size, suffix):
    for channels in (1, 3):
        pixels = np.random.default_rng(0).random((channels, *ONE_ROW[size]))
        turned = np.round(pixels * 255).astype(np.uint8).transpose(1, 2, 0)  # as restore has it
        write_image(tmp_path / f"a{suffix}", Photograph(turned), overwrite=True)
        found = read_image(tmp_path / f"a{suffix}").pixels
        assert found.shape == turned.shape
        if suffix != ".jpg":
            np.testing.assert_array_equal(found, turned)


@pytest.mark.slow
@pytest.mark.parametrize("size", ONE_ROW)
def test_restored_photographs_of_one_row(bmo, trained, tmp_path, size):
    np.save(tmp_path / "k.npy", np.ones((1, 1)))
    np.save(tmp_path / "large.npy", np.ones((20, 20)) / 400)
    for mode in ("L", "RGB"):
        value = 128 if mode == "L" else (9, 99, 199)
        Image.new(mode, ONE_ROW[size][::-1], value).save(tmp_path / "i.png")
        words = ["restore", "run=run", "input=i.png", "output=o.png", "overwrite=true"]
        for more in ((), ("boundary=pad",), ("tile=1", "tile_margin=0")):
            ends_well(bmo(*words, "kernel=k.npy", *more))
            with Image.open(tmp_path / "o.png") as found:
                assert (found.size, found.mode) == (ONE_ROW[size][::-1], mode)
        done = bmo(*words, "kernel=large.npy")
        ends_well(done, 2)
        assert "larger than the photograph" in done.stderr


VALID = [
    f"seed={LARGEST}",
    f"task.eval_seed={LARGEST}",
    f"task.kernel_seed={LARGEST}",
    f"net.seed={LARGEST}",
    f"certify=true certificate.seed={LARGEST} certificate.turns=1",
    "train.batch=1000",
    "train.batch=1 train.iterations=1 train.steps=1 eval.iterations=1",
    "eval.images=1000000 data.eval_crop=1000000",
    "eval.images=0 certify=true certificate.cases=1000000 certificate.turns=1",
    "task.noise=0 eval.tolerance=0",
    "eval.tolerance=1e38",
    "gkm.alpha=0.9999999999999999",
    "gkm.alpha=1e-300",
    "optim.lr=1e-300 train.clip=1e-300",
    "train.warmup=1000000 train.validate_every=1000000 train.log_every=1000000",
    "train.max_minutes=1e30 data.cache_mib=1e-300 data.workers=256",
    "task.kernels=disk task.kernel_width=1e30",
    "task=toy data=embedded",
]
REFUSED = {
    f"seed={LARGEST + 1}": "seed must be an integer from 0 to 2^63 - 1",
    "seed=-1": "seed must be an integer from 0",
    f"seed={'9' * 5000}": "cannot read the override 'seed=999",
    f"task.noise={'9' * 5000}": "of 5011 characters: its value is too long",
    f"train.batch={10**22}": "train.batch must be an integer >= 1 and at most 2147483647",
    "train.batch=2000000000": "the unknowns of a batch take",
    "train.steps=0": "train.steps must be an integer >= 1",
    "train.iterations=0": "train.iterations must be an integer >= 1",
    "task.kernel_size=99": "data.crop=24 is smaller than the kernel (99 x 99)",
    "data.crop=1000": "smaller than the training crop",
    "data.eval_crop=1": "data.eval_crop=1 is smaller than the kernel",
    "task.noise=inf": "task.noise must",
    "task.noise=nan": "task.noise must",
    "task.noise=1e300": "in float32, which ends at 3.4e38",
    "optim.lr=1e300": "optim.lr must be finite and > 0 in float32, which ends at 3.4e38",
    "optim.lr=1e30 train.numerical_lr_factor=1e30": "times train.numerical_lr_factor=1e+30",
    "gkm.stages=1000000": "gkm.stages must be an integer from 1 to 10000",
    "gkm.alpha=1": "gkm.alpha must lie in (0, 1)",
    "gkm.alpha=0": "gkm.alpha must lie in (0, 1)",
    "train.max_minutes=nan": "train.max_minutes must be finite and > 0",
    "certify=true certificate.tolerance=1": "certificate.tolerance must lie in (0, 1)",
    "certify=true certificate.cases=0": "certificate.cases must be an integer >= 1",
    f"data.test={'x' * 5000}": "File name too long",
    f"data.test={'x/' * 3000}": "File name too long",
    f"task.kernels={'k' * 5000}.npy": "File name too long",
    f"net.weights={'k' * 5000}.pth": "File name too long",
    f"hydra.run.dir={'y' * 300}": "cannot create the output folder",
    "task=patch_coding net=none task.rows=4 task.columns=1 data.crop=8": "nothing to learn",
    "task=sparse_coding data=embedded task.snr=-1e30": "task.snr must lie in [-300, 300]",
}


def words_of(line, tiny):
    """The words of a line, and those of `tiny` that do not contradict them."""
    words = line.split()
    keys = {word.split("=")[0] for word in words}
    groups = tuple(f"{key}." for key in ("data", "net", "task") if f"{key}" in keys)
    if "task" in keys:
        groups += ("net.", "net=")
    return [*(w for w in tiny if w.split("=")[0] not in keys and not w.startswith(groups)), *words]


@pytest.mark.slow
@pytest.mark.parametrize("line", VALID)
def test_valid_numbers_end_in_a_result(bmo, tiny, tmp_path, line):
    words = words_of(line, tiny)
    done = bmo("train", *words, "hydra.run.dir=run")
    ends_well(done)
    assert result(tmp_path / "run")["status"] == "ok"
    metrics = result(tmp_path / "run")["metrics"]
    assert all(value is None or np.isfinite(value) for value in metrics.values()), metrics


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: line[:40])
def test_others_end_in_one_line(bmo, tiny, tmp_path, line):
    own = [] if line.startswith("hydra") else ["hydra.run.dir=run"]
    done = bmo("train", *words_of(line, tiny), *own)
    ends_well(done, 2)
    assert REFUSED[line] in done.stderr
    assert not (tmp_path / "run").exists()


def test_noise_beyond_all_sense_is_a_divergence(bmo, tiny):
    done = bmo("train", *tiny, "task.noise=1e30", "hydra.run.dir=run")
    ends_well(done, 3)
    assert "non-finite" in done.stderr


@pytest.mark.slow
def test_seeds_of_sweeps_and_tables(bmo, tiny, tmp_path):
    done = bmo("train", "-m", *tiny, f"seed=0,{LARGEST + 1}", "hydra.sweep.dir=s")
    ends_well(done, 2)
    assert "job 1 of the sweep" in done.stderr
    done = bmo("table", "toy", "preset=smoke", f"seeds=[{LARGEST + 1}]", "dry_run=true")
    ends_well(done, 2)
    done = bmo("table", "toy", "preset=smoke", f"seeds=[{LARGEST}]", "dry_run=true")
    ends_well(done)


@pytest.mark.slow
def test_an_empty_folder_is_named(bmo, tiny, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    for split in ("train", "val", "test"):
        rest = [word for word in tiny if not word.startswith(f"data.{split}=")]
        done = bmo("train", *rest, f"data.{split}=empty")
        ends_well(done, 2)
        assert f"data.{split}=empty holds no images" in done.stderr
    done = bmo("eval", "run=run", "data.test=empty")
    ends_well(done, 2)
    done = bmo("runs", "empty")
    assert done.stdout == "no runs\n"


def test_numbers_of_any_size_are_compared_with_their_range():
    for kind, value in ((Positive, 10**400), (Finite, -(10**400)), (Positive, 3.5e38)):
        with pytest.raises(InputError, match=r"in float32, which ends at 3\.4e38"):
            check(value, kind, "x")
    with pytest.raises(InputError, match="must be an integer >= 1 and at most 2147483647"):
        check(10**400, Count, "x")
    with pytest.raises(InputError, match="must be finite and > 0, got inf"):
        check(float("inf"), Positive, "x")
    check(3.4e38, Positive, "x")
    check(2**31 - 1, Count, "x")


def test_a_number_that_grows_beyond_float32_is_a_divergence():
    found = wrap_resource_error(
        RuntimeError("value cannot be converted to type float without overflow")
    )
    assert isinstance(found, DivergenceError) and "3.4e38" in str(found)
