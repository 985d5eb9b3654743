"""`bmo restore`: one photograph in, one file out, and as good as an evaluation says."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import tifffile
import torch
from conftest import TINY, result
from image_case import SRGB_LIKE
from made_tiff import Layout, Page, tiff
from PIL import Image

from bmo_cli.commands.restore import Restorer, _reads_noise, _with_noise, restore
from bmo_cli.data.images.file import Photograph, read_image, write_image
from bmo_cli.errors import InputError
from bmo_cli.experiment.evaluation import Settings
from bmo_cli.gkm.proximal import Resolvent
from bmo_cli.gkm.scheme import GKM
from bmo_cli.nets.dncnn import DnCNN
from bmo_cli.nets.guided import GuidedPotential
from bmo_cli.tasks.deconvolution import Deconvolution


def blurred_outside(clean, kernel, rng, noise=2.55 / 255):
    """Periodic blur and noise by SciPy and NumPy alone."""
    stack = [scipy.ndimage.convolve(c, kernel, mode="wrap") for c in clean.transpose(2, 0, 1)]
    blurred = np.stack(stack, 2)
    return blurred + noise * rng.normal(size=blurred.shape)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_restore_keeps_size_depth_and_alpha(bmo, trained, tmp_path, rng, channels, suffix):
    pixels = rng.integers(0, 65536, (31, 45, channels)).astype(np.uint16)
    alpha = rng.integers(0, 65536, (31, 45)).astype(np.uint16)
    write_image(tmp_path / f"in{suffix}", Photograph(pixels, alpha))
    np.save(tmp_path / "k.npy", np.ones((5, 5)))
    words = ["restore", "run=run", f"input=in{suffix}", "kernel=k.npy", f"output=out{suffix}"]
    before = set(tmp_path.iterdir())
    done = bmo(*words)
    assert done.returncode == 0, done.stderr
    assert set(tmp_path.iterdir()) - before == {tmp_path / f"out{suffix}"}
    found = read_image(tmp_path / f"out{suffix}")
    assert found.pixels.shape == pixels.shape
    assert found.depth == 16
    np.testing.assert_array_equal(found.alpha, alpha)
    content = (tmp_path / f"out{suffix}").read_bytes()
    done = bmo(*words)
    assert done.returncode == 2
    assert "overwrite=true" in done.stderr
    assert (tmp_path / f"out{suffix}").read_bytes() == content
    assert bmo(*words, "overwrite=true", "boundary=pad").returncode == 0
    assert (tmp_path / f"out{suffix}").read_bytes() != content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["input=no.png"], "no image file no.png"),
        (["kernel=no.npy"], "no kernel file no.npy"),
        (["kernel=big.npy"], "larger than the photograph"),
        (["kernel=negative.npy"], "must be non-negative"),
        (["output=out.gif"], "must end in one of"),
        (["output=nowhere/out.png"], "the folder of the output does not exist"),
        (["kernel=two.npz"], "choose one: kernel_name=a, b"),
        (["white=4095"], "white=4095 is more than the largest value that in.png can hold, 255"),
        (["kernel=estimated.npy"], "0.03 of its sum; kernel_clip=true sets it to zero"),
        (["kernel=negative.npy", "kernel_clip=true"], "kernel_clip is for at most 0.05 of it"),
        (["input=frames.gif"], "frames.gif is a GIF file; expected PNG, JPEG, BMP or TIFF"),
        (["kernel=null", "kernel_clip=true"], "is for the kernel of a file; give kernel=FILE"),
        (["kernel=null", "kernel_name=a"], "give kernel=FILE, or leave kernel_name out"),
        (["input=cmyk.jpg"], "cmyk.jpg is a CMYK image; expected gray or RGB"),
        (["max_megapixels=1e-4"], "0.0001 megapixels that are read; max_megapixels=1 allows it"),
    ],
)
def test_restore_refuses(bmo, trained, photos, tmp_path, words, message):
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    np.save(tmp_path / "big.npy", np.ones((99, 3)))
    np.save(tmp_path / "negative.npy", -np.ones((3, 3)))
    np.savez(tmp_path / "two.npz", a=np.ones((3, 3)), b=np.ones((3, 3)))
    np.save(tmp_path / "estimated.npy", [[-0.3, 10.3]])
    Image.new("CMYK", (16, 12)).save(tmp_path / "cmyk.jpg")
    Image.new("L", (16, 12)).save(tmp_path / "frames.gif")
    shutil.copy(photos / "test" / "test0.png", tmp_path / "in.png")
    base = {"run": "run", "input": "in.png", "kernel": "k.npy", "output": "out.png"}
    base |= dict(word.split("=") for word in words)
    before = set(tmp_path.iterdir())
    done = bmo("restore", *(f"{key}={value}" for key, value in base.items()))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_restore_writes_what_the_input_says(bmo, trained, tmp_path, rng):
    """White level, premultiplied alpha, profile and resolution; a kernel beside other things."""
    alpha = rng.integers(2000, 4096, (31, 45, 1))
    colour = rng.integers(0, 4096, (31, 45, 3)) * alpha // 4095
    tags = [(262, "H", 2), (281, "H", [4095] * 4), (338, "H", 1), (34675, "B", SRGB_LIKE)]
    tags += [(282, "R", [118, 1]), (283, "R", [59, 1]), (296, "H", 3)]
    page = Page(np.concatenate([colour, alpha], 2), Layout(bits=16), tags)
    (tmp_path / "in.tif").write_bytes(tiff(page))
    np.savez(tmp_path / "k.npz", psf=np.array([[-0.1, 10.1]]), sigma=2.0)
    kernel = ["kernel=k.npz", "kernel_name=psf", "kernel_clip=true"]
    done = bmo("restore", "run=run", "input=in.tif", *kernel, "output=out.tif")
    assert done.returncode == 0, done.stderr
    assert "16 bit, white is 4095)" in done.stdout
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page, written = file.pages[0], file.asarray()
        assert page.extrasamples == (1,)
        assert page.tags[281].value == (4095,) * 4
        assert page.iccprofile == SRGB_LIKE
        assert (page.tags[282].value, page.tags[283].value) == ((118, 1), (59, 1))
        assert page.tags[296].value == 3
    np.testing.assert_array_equal(written[..., 3:], alpha)
    assert (written[..., :3] <= alpha).all()
    assert 10 < np.abs(written[..., :3] - colour).mean() < 1000  # restored, at the same scale


@pytest.mark.slow
def test_restore_asks_for_the_white_level(bmo, trained, tmp_path, rng):
    pixels = np.clip(rng.integers(0, 4000, (31, 45)), 0, 3900).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    np.save(tmp_path / "k.npy", np.ones((1, 1)))
    words = ["restore", "run=run", "input=in.tif", "kernel=k.npy", "output=out.tif"]
    done = bmo(*words)
    assert "in.tif: 3900 of 65535; if white is 4095 there, say white=4095" in done.stdout
    done = bmo(*words, "white=3000", "overwrite=true")
    assert f"values above white=3000 were clipped in in.tif: {(pixels > 3000).sum()}" in done.stdout
    assert "of 65535" not in done.stdout
    assert tifffile.imread(tmp_path / "out.tif").max() <= 3000


@pytest.mark.slow
def test_restore_of_a_run_without_photographs_says_so(bmo, tmp_path):
    done = bmo("train", "task=toy", "debug=tiny", "device=cpu", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    Image.new("L", (16, 12)).save(tmp_path / "in.png")
    done = bmo("restore", "run=run", "input=in.png", "output=out.png")
    assert done.returncode == 2
    assert "photographs, which Toy does not restore" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("task", ["patch_coding.PatchCoding", "sparse_coding.SparseCoding"])
def test_restore_is_for_tasks_that_pose_photographs(task):
    target = {"_target_": f"bmo_cli.tasks.{task}"}
    config = SimpleNamespace(device="cpu", plugins=[], task=target)
    with pytest.raises(InputError, match=r"photographs, which .*Coding does not restore"):
        restore(config)


def test_restore_of_a_palette_image_stored_on_its_side(bmo, trained, tmp_path, rng):
    exif = Image.Exif()
    exif[0x0112] = 6
    colour = Image.fromarray(rng.integers(0, 256, (31, 45, 3), dtype=np.uint8))
    colour.quantize(16).save(tmp_path / "in.png", exif=exif)
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    done = bmo("restore", "run=run", "input=in.png", "kernel=k.npy", "output=out.png")
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "out.png").pixels.shape == (45, 31, 3)


def test_a_stated_noise_replaces_that_of_training_where_there_is_one():
    assert _with_noise({"noise": [0, 15]}, 5.0) == {"noise": 5.0}
    assert _with_noise({"noise": 2.55}, None) == {"noise": 2.55}
    with pytest.raises(InputError, match="noise= is for runs of task=deconv"):
        _with_noise({"rain": "light"}, 5.0)


@pytest.mark.slow
def test_restore_does_as_well_as_eval_on_what_was_blurred_elsewhere(bmo, real_data, tmp_path):
    kernel_file = real_data / "kernels" / "levin09.npz"
    images = [real_data / "set12" / f"0{i}.png" for i in (1, 2, 3, 4)]
    words = [f"task.kernels={kernel_file}", "task.kernel=k1", "gkm.operator.gamma=30"]
    places = [f"data.{split}={images[0]}" for split in ("train", "val")]
    test = f"data.test='{real_data / 'set12'}/0[1-4].png'"
    sizes = ["net=dncnn", "net.width=8", "net.depth=3", "train.steps=20", "task.kernel_size=7"]
    done = bmo("train", *TINY, *words, *places, test, *sizes, "hydra.run.dir=r", timeout=300)
    assert done.returncode == 0, done.stderr
    expected = result(tmp_path / "r")["metrics"]["test/psnr"]
    rng, found = np.random.default_rng(1), []
    kernel = np.load(kernel_file)["k1"]
    for image in images:
        clean = read_image(image).pixels / 255.0
        y = blurred_outside(clean, kernel, rng).clip(0, 1)
        write_image(tmp_path / image.name, Photograph((y * 65535).round().astype(np.uint16)))
        out = tmp_path / f"restored_{image.name}"
        done = bmo(
            "restore",
            "run=r",
            f"input={image.name}",
            f"kernel={kernel_file}",
            "kernel_name=k1",
            f"output={out.name}",
        )
        assert done.returncode == 0, done.stderr
        estimate = read_image(out).pixels / 65535.0
        found.append(-10 * np.log10(((estimate - clean) ** 2).mean()))
    assert np.mean(found) == pytest.approx(expected, abs=0.05)


TWICE = """
import torch
from torch.nn import functional as F

from bmo_cli import metrics
from bmo_cli.config.checks import Channels, Index, checked
from bmo_cli.data.loaded import Photographs
from bmo_cli.data.patches import as_tensor, central
from bmo_cli.data.splits import PhotographData
from bmo_cli.linear.map import LinearMap
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Problem, Sample, SquaredError
from bmo_cli.tasks.task import Case, Posed, Task

ROWS, COLUMNS = 2, 3


class Mean(LinearMap):
    norm_squared = 1 / (ROWS * COLUMNS)

    def __call__(self, u):
        return F.avg_pool2d(u, (ROWS, COLUMNS))

    def adjoint(self, y):
        return F.interpolate(y, scale_factor=(ROWS, COLUMNS)) / (ROWS * COLUMNS)


def pose(y):
    return Problem(f=LeastSquares(Mean(), y)), (F.interpolate(y, scale_factor=(ROWS, COLUMNS)),)


@checked
class Larger(Task):
    metric, columns = "psnr", metrics.COLUMNS

    def __init__(self, *, data: PhotographData, seed: Index = 0, channels: Channels = 1):
        super().__init__()
        self.data, self.seed, self.channels = data, seed, channels
        self.judge = metrics.protocol("float")
        self.protocol, self.photographs = self.judge.text, Photographs(data)

    def prepare(self, splits):
        self.photographs.prepare(splits, (2, 2), "the factor", self.data.crop)

    def samples(self, steps, batch):
        for step, x in zip(steps, self.photographs.crops(steps, batch, self.seed, 24)):
            yield Sample(*pose(Mean()(x)), SquaredError(x), step)

    def cases(self, split):
        for i, name in enumerate(self.photographs[split].names):
            x = central(as_tensor(self.photographs[split][i]), 36)
            yield Case(name, *pose(Mean()(x[None])), x)

    @classmethod
    def pose(cls, y, settings, kernel, margin):
        return Posed(*pose(y), lambda u: u[0])

    def score(self, estimate, case):
        return metrics.scores(self.judge, {"": estimate[0]}, case.reference)
"""


@pytest.mark.slow
def test_a_task_that_enlarges_restores_at_its_own_size(bmo, tiny, tmp_path, rng):
    """Twice as many rows, three times as many columns: whole, continued and in tiles."""
    (tmp_path / "task").mkdir()
    (tmp_path / "larger.py").write_text(TWICE)
    (tmp_path / "task" / "larger.yaml").write_text(
        "_target_: larger.Larger\nchannels: ${net.channels}\n"
    )
    own = ["--config-dir", ".", "plugins=[larger.py]"]
    # No width of the default network: this one keeps its argument nearly as it is.
    words = [word for word in tiny if not word.startswith("task.")]
    done = bmo("train", *own, *words, "task=larger", "gkm=pg", "hydra.run.dir=run", "eval.images=0")
    assert done.returncode == 0, done.stderr
    rows, columns = np.mgrid[:70, :50]
    low = np.uint8(128 + 60 * np.sin(rows / 7) + 60 * np.cos(columns / 9))
    alpha = rng.integers(0, 256, low.shape, dtype=np.uint8)
    write_image(tmp_path / "in.png", Photograph(low[..., None], alpha))
    outputs = {}
    for name, more in {"whole": (), "pad": ("boundary=pad",), "tiles": ("tile=32",)}.items():
        words = ["run=run", "plugins=[larger.py]", "input=in.png", f"output={name}.png", *more]
        done = bmo("restore", *words, "tile_margin=16")
        assert done.returncode == 0, done.stderr
        assert f"wrote {name}.png (150 x 140, 8 bit)" in done.stdout
        outputs[name] = read_image(tmp_path / f"{name}.png")
        assert outputs[name].pixels.shape == (140, 150, 1)
        expected = alpha.repeat(2, 0).repeat(3, 1)
        np.testing.assert_array_equal(outputs[name].alpha, expected)
    whole = outputs["whole"].pixels[..., 0].astype(float)
    assert np.abs(whole - low.repeat(2, 0).repeat(3, 1)).mean() < 5
    for name in ("pad", "tiles"):
        assert np.abs(outputs[name].pixels[..., 0] - whole)[16:-16, 16:-16].max() <= 2


@pytest.mark.slow
def test_a_stated_noise_that_nothing_reads_is_named(bmo, trained, tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (31, 45), dtype=np.uint8)).save(tmp_path / "in.png")
    np.save(tmp_path / "k.npy", np.ones((3, 3)))
    words = ["restore", "run=run", "input=in.png", "kernel=k.npy", "overwrite=true"]
    message = "noise=5 changes nothing: no part of this scheme reads the level of the noise"
    assert message in bmo(*words, "output=out.png", "noise=5").stdout
    assert "changes nothing" not in bmo(*words, "output=out.png").stdout


@pytest.mark.parametrize(
    ("operator", "net", "reads"),
    [
        (Resolvent(gamma=10.0), DnCNN(width=4, depth=3), False),
        (Resolvent(gamma=10.0, noise_power=2.0), DnCNN(width=4, depth=3), True),
        (Resolvent(gamma=10.0), GuidedPotential(widths=(4, 4, 4)), True),
    ],
)
def test_which_schemes_read_the_noise_is_tried(rng, operator, net, reads):
    restorer = Restorer(GKM(operator=operator, net=net), Deconvolution, {}, Settings(4))
    restorer = replace(restorer, settings=_with_noise({"noise": 2.55}, 5.0))
    y = torch.tensor(rng.random((1, 1, 80, 70)), dtype=torch.float32)
    assert _reads_noise(restorer, y, torch.ones(3, 3) / 9, 5.0) == reads
