import io
import re
import threading
import weakref

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
import torch
from PIL import Image, ImageOps

from bmo_cli.data.images.file import Photograph, read_image, write_image
from bmo_cli.data.images.image_set import ImageSet, shared_images
from bmo_cli.data.kernel_files import choose_kernel, normalise_kernel, read_kernels
from bmo_cli.data.kernels import KernelGenerator, disk_kernel, gaussian_kernel
from bmo_cli.data.patches import Patches, central
from bmo_cli.data.splits import Embedded, Folder
from bmo_cli.errors import InputError


def image(rng, channels, dtype, alpha=False, size=(9, 7)):
    high = np.iinfo(dtype).max + 1
    draw = rng.integers(0, high, (*size, channels + alpha)).astype(dtype)
    return Photograph(draw[..., :channels], draw[..., -1] if alpha else None)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_written_images_read_back_exactly(tmp_path, rng, suffix, dtype, channels, alpha):
    original = image(rng, channels, dtype, alpha)
    write_image(tmp_path / f"x{suffix}", original)
    found = read_image(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(found.pixels, original.pixels)
    assert found.depth == 8 * np.dtype(dtype).itemsize
    assert (found.alpha is None) == (not alpha)
    if alpha:
        np.testing.assert_array_equal(found.alpha, original.alpha)


@pytest.mark.parametrize("suffix", [".bmp", ".jpg", ".jpeg"])
def test_eight_bit_formats(tmp_path, suffix):
    smooth = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    write_image(tmp_path / f"x{suffix}", Photograph(smooth))
    found = read_image(tmp_path / f"x{suffix}").pixels
    assert np.abs(found.astype(int) - smooth).max() <= (0 if suffix == ".bmp" else 8)
    with pytest.raises(InputError, match="cannot hold 16 bit"):
        write_image(tmp_path / f"y{suffix}", Photograph(smooth.astype(np.uint16)))


def test_palette_bilevel_exif_and_gray_conversion(tmp_path, rng):
    colour = rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)
    Image.fromarray(colour).quantize(16).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").pixels.shape == (8, 6, 3)
    Image.fromarray(colour[..., 0] > 99).save(tmp_path / "bilevel.png")
    assert set(np.unique(read_image(tmp_path / "bilevel.png").pixels)) <= {0, 255}
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").pixels.shape == (6, 8, 3)
    gray = Photograph(colour).channels_first(1)
    expected = (colour @ [0.299, 0.587, 0.114]).round()
    np.testing.assert_array_equal(gray[0], expected)
    assert Photograph(colour[..., :1]).channels_first(3).shape == (3, 8, 6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.png", b"", "is empty (0 bytes)"),
        ("text.png", b"not an image", "cannot be decoded"),
        ("cut.png", None, "cannot be decoded"),
    ],
)
def test_unusable_files_are_named(tmp_path, rng, name, content, message):
    if content is None:
        write_image(tmp_path / "whole.png", image(rng, 3, np.uint8, size=(64, 64)))
        content = (tmp_path / "whole.png").read_bytes()[:900]
        (tmp_path / "whole.png").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        Folder(train=str(tmp_path)).load("train")
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_images_that_claim_to_be_huge_are_refused(tmp_path):
    stream = io.BytesIO()
    Image.new("1", (40_000, 10_000)).save(stream, "PNG")
    (tmp_path / "huge.png").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match=r"huge\.png"):
        read_image(tmp_path / "huge.png")


def test_cmyk_and_float_are_refused(tmp_path):
    Image.new("CMYK", (8, 8)).save(tmp_path / "x.jpg")
    Image.new("F", (8, 8)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match="CMYK"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(InputError, match="float32 samples"):
        read_image(tmp_path / "x.tif")


def test_nothing_is_overwritten(tmp_path, rng):
    write_image(tmp_path / "x.png", image(rng, 1, np.uint8))
    before = (tmp_path / "x.png").read_bytes()
    with pytest.raises(InputError, match="overwrite=true"):
        write_image(tmp_path / "x.png", image(rng, 1, np.uint8))
    assert (tmp_path / "x.png").read_bytes() == before
    write_image(tmp_path / "x.png", image(rng, 1, np.uint8), overwrite=True)
    assert (tmp_path / "x.png").read_bytes() != before
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_folders(tmp_path, photos):
    with pytest.raises(InputError, match=r"data\.val is not set"):
        Folder(train="x").load("val")
    with pytest.raises(InputError, match="does not exist"):
        Folder(train=str(tmp_path / "nowhere")).load("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        Folder(train=str(tmp_path / "empty")).load("train")
    assert len(Folder(train=str(photos / "train")).load("train")) == 2
    assert len(Folder(train=str(photos / "train" / "*0.png")).load("train")) == 1


def test_cache_limit_changes_memory_and_nothing_else(photos):
    kept = Folder(train=str(photos / "train")).load("train")
    read_again = Folder(train=str(photos / "train"), cache_mib=1e-6).load("train")
    assert kept.in_memory
    assert not read_again.in_memory
    np.testing.assert_array_equal(kept[1], read_again[1])
    assert kept.fingerprint() == read_again.fingerprint()


def test_few_images_are_in_memory_before_the_limit_is_noticed():
    lock, alive, most = threading.Lock(), 0, 0

    def change(by):
        nonlocal alive, most
        with lock:
            alive += by
            most = max(most, alive)

    def decode():
        pixels = np.zeros((64, 64, 1), np.uint8)
        change(1)
        weakref.finalize(pixels, change, -1)
        return Photograph(pixels)

    images = ImageSet([(f"{i}.png", decode) for i in range(200)], channels=1, cache_mib=3 / 256)
    assert most <= 3 + 8 + 1  # kept, decoded ahead, looked at
    assert alive == 3
    assert len(images) == 200


def test_digest_knows_which_split_an_image_is_in(tmp_path, rng):
    def folder(name, *letters):
        (tmp_path / name).mkdir()
        for letter in letters:
            write_image(tmp_path / name / f"{letter}.png", photographs[letter])
        return str(tmp_path / name)

    photographs = {letter: image(rng, 1, np.uint8) for letter in "abc"}
    a, ab, bc, c = (folder(letters, *letters) for letters in ("a", "ab", "bc", "c"))
    splits = [{"train": ab, "val": c}, {"train": a, "val": bc}, {"train": ab, "test": c}]
    assert len({Folder(**places).digest() for places in splits}) == 3
    assert Folder(train=ab, val=c).digest() == Folder(val=c, train=folder("d", *"ab")).digest()


def test_fingerprint_sees_content_and_names(rng):
    def images(*arrays):
        sources = [(f"{i}.png", lambda a=a: Photograph(a)) for i, a in enumerate(arrays)]
        return ImageSet(sources, channels=1)

    a, b = (rng.integers(0, 256, (8, 8, 1), dtype=np.uint8) for _ in range(2))
    assert images(a, b).fingerprint()["hash"] == images(a, b).fingerprint()["hash"]
    assert images(a, b).fingerprint()["hash"] != images(b, a).fingerprint()["hash"]
    found = shared_images({"train": images(a), "val": images(b, a)})
    assert found == ["0.png (train) = 1.png (val)"]


@pytest.mark.parametrize("channels", [1, 3])
def test_embedded_photographs_are_disjoint(channels):
    data = Embedded(channels=channels)
    splits = {split: data.load(split) for split in ("train", "val", "test")}
    assert shared_images(splits) == []
    names = [name for images in splits.values() for name in images.names]
    assert len(names) == len(set(names)) >= 12
    assert all(images[0].shape[0] == channels for images in splits.values())


@pytest.mark.parametrize(("flips", "orientations"), [("none", 1), ("mirror", 2), ("all", 8)])
def test_crops_take_the_orientations_that_flips_allows(tmp_path, flips, orientations):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = Folder(train=str(tmp_path), val=str(tmp_path)).load("train")
    crops = Patches(images, crop=16, batch=100, seed=0, flips=flips)[0]
    assert len({crop.numpy().tobytes() for crop in crops}) == orientations
    allowed = {
        "none": [pixels],
        "mirror": [pixels, pixels[:, ::-1]],
        "all": [np.rot90(p, k) for p in (pixels, pixels[:, ::-1]) for k in range(4)],
    }[flips]
    known = {(p / np.float32(255)).astype(np.float32).tobytes() for p in allowed}
    assert {crop.numpy().tobytes() for crop in crops} == known


def test_kernels_are_normalised_and_seeded():
    a, b, c = (
        KernelGenerator(kernel_count=count, kernel_size=15, kernel_seed=seed).generate("motion")
        for count, seed in ((3, 1), (2, 1), (2, 2))
    )
    np.testing.assert_array_equal(a["motion1"], b["motion1"])
    assert not np.array_equal(b["motion1"], c["motion1"])
    for kernel in (*a.values(), gaussian_kernel(9, 1.5), disk_kernel(9, 3)):
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        assert kernel.min() >= 0
        assert 0.02 < (kernel > 0).mean() <= 1
    weights = gaussian_kernel(21, 1.5)
    assert (weights.sum(0) * (np.arange(21) - 10) ** 2).sum() == pytest.approx(2.25, rel=1e-3)


def test_kernel_files(tmp_path, rng):
    k1, k2 = rng.random((5, 7)), rng.random((3, 3))
    cell = np.empty((1, 2), dtype=object)
    cell[0, 0], cell[0, 1] = k1, k2
    np.savez(tmp_path / "k.npz", a=k1, b=k2)
    np.save(tmp_path / "k.npy", k1)
    scipy.io.savemat(tmp_path / "old.mat", {"kernels": cell})
    with h5py.File(tmp_path / "new.mat", "w") as file:  # as MATLAB 7.3 writes a cell
        file["#refs#/a"], file["#refs#/b"] = k1.T, k2.T
        references = [[file["#refs#/a"].ref], [file["#refs#/b"].ref]]
        file.create_dataset("kernels", data=references, dtype=h5py.ref_dtype)
    Image.fromarray((k1 * 255).astype(np.uint8)).save(tmp_path / "k.png")
    for name in ("k.npz", "old.mat", "new.mat"):
        found = list(read_kernels(tmp_path / name).values())
        np.testing.assert_allclose(found[0], k1 / k1.sum())
        np.testing.assert_allclose(found[1], k2 / k2.sum())
    np.testing.assert_allclose(read_kernels(tmp_path / "k.npy")["k"], k1 / k1.sum())
    np.testing.assert_allclose(read_kernels(tmp_path / "k.png")["k"], k1 / k1.sum(), atol=1e-3)
    assert list(choose_kernel(read_kernels(tmp_path / "k.npz"), "b", "task.kernel")) == ["b"]
    with pytest.raises(InputError, match=r"task\.kernel=2 does not exist: there are 2, a, b"):
        choose_kernel(read_kernels(tmp_path / "k.npz"), 2, "task.kernel")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), "must be 2-D, got shape (3,)"),
        (np.ones((0, 3)), "is empty"),
        (np.zeros((3, 3)), "is zero everywhere"),
        (np.array([[1.0, -0.5]]), "must be non-negative, its smallest value is -0.5"),
        (np.array([[1.0, np.nan]]), "holds NaN or infinite values"),
        (np.array([[1j]]), "must hold real numbers"),
    ],
)
def test_what_is_no_kernel(array, message):
    with pytest.raises(InputError, match=re.escape(message)):
        normalise_kernel(array, "kernel x")


def test_pickled_and_damaged_kernel_files(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "x.npz").write_bytes(b"PK no")
    (tmp_path / "x.mat").write_bytes(b"MATLAB" * 50)
    for name in ("x.npy", "x.npz", "x.mat"):
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            read_kernels(tmp_path / name)


def test_real_kernels(real_data):
    levin = read_kernels(real_data / "kernels" / "levin09.npz")
    assert [k.shape for k in levin.values()] == [(n, n) for n in (19, 17, 15, 27, 13, 21, 23, 23)]
    mat = real_data / "kernels" / "levin09.mat"
    if mat.is_file():
        for a, b in zip(read_kernels(mat).values(), levin.values(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_tiff_is_that_of_pillow(tmp_path, rng, orientation):
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "deep.tif", pixels.astype(np.uint16), extratags=[tag])
    tifffile.imwrite(tmp_path / "plain.tif", pixels, extratags=[tag])
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "plain.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tif").pixels, np.asarray(expected))
    np.testing.assert_array_equal(read_image(tmp_path / "plain.tif").pixels, np.asarray(expected))


def test_unusual_tiffs(tmp_path, rng):
    pixels = rng.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    planes = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(tmp_path / "planar.tif", planes, planarconfig="separate", photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "planar.tif").pixels, pixels)
    tifffile.imwrite(tmp_path / "white.tif", pixels[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(
        read_image(tmp_path / "white.tif").pixels[..., 0], 65535 - pixels[..., 0]
    )
    tifffile.imwrite(
        tmp_path / "pages.tif", np.stack([pixels[..., 0]] * 3), photometric="minisblack"
    )
    with pytest.raises(InputError, match="holds 3 pages"):
        read_image(tmp_path / "pages.tif")


def test_central_squares():
    image = torch.arange(2 * 7 * 10).reshape(2, 7, 10)
    assert central(image, None) is image
    assert torch.equal(central(image, 4), image[:, 1:5, 3:7])
    assert torch.equal(central(image, 8), image[:, :, 1:9])  # as much as there is
