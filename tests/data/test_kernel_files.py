"""Kernel files as they are found: metadata beside kernels, TIFFs, small negative parts."""

import logging

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import tifffile
from made_tiff import Layout, Page, tiff
from PIL import Image

from bmo_cli.data.kernel_files import choose_kernel, normalise_kernel, read_kernels
from bmo_cli.data.kernels import KernelSet
from bmo_cli.data.splits import Embedded
from bmo_cli.errors import InputError
from bmo_cli.tasks.deconvolution import Deconvolution

BOX = np.ones((5, 5)) / 25


def mat73(file, **entries):
    """As MATLAB 7.3 writes: transposed, text as numbers, structs as groups."""
    with h5py.File(file, "w") as archive:
        for name, value in entries.items():
            if isinstance(value, str):
                codes = np.frombuffer(value.encode("utf-16-le"), np.uint16)[:, None]
                archive[name] = codes
                archive[name].attrs["MATLAB_class"] = np.bytes_("char")
            elif isinstance(value, dict):
                archive.create_group(name)["x"] = BOX
            else:
                archive[name] = np.asarray(value, float).T
                archive[name].attrs["MATLAB_class"] = np.bytes_("double")


METADATA = {
    "sigma": 2.55,
    "note": "motion",
    "scale": np.array([[0.1]]),
    "spacing": np.array([[0.1, 0.2]]),
    "stack": np.ones((2, 3, 3)),
}


@pytest.mark.parametrize("suffix", [".npz", ".mat", "73.mat"])
@pytest.mark.parametrize("key", METADATA)
def test_metadata_beside_a_kernel_is_left_out(tmp_path, suffix, key, caplog):
    file = tmp_path / f"k{suffix}"
    entries = {"kernel": BOX * 3, key: METADATA[key]}
    write = {".npz": np.savez, ".mat": lambda f, **e: scipy.io.savemat(f, e), "73.mat": mat73}
    write[suffix](file, **entries)
    kernels = read_kernels(file)
    assert list(kernels) == ["kernel"]
    np.testing.assert_allclose(kernels["kernel"], BOX)
    (line,) = caplog.messages
    assert f"left out, as no kernels: {key} (" in line
    caplog.clear()
    assert list(choose_kernel(read_kernels(file, "kernel"), "kernel", "kernel_name")) == ["kernel"]
    assert list(choose_kernel(read_kernels(file, 0), 0, "kernel_name")) == ["kernel"]
    assert [m for m in caplog.messages if "left out" in m] == [line]  # of the index alone


def test_structs_sparse_matrices_and_pickles_are_named(tmp_path, caplog):
    scipy.io.savemat(
        tmp_path / "k.mat", {"k": BOX, "s": {"a": BOX}, "p": scipy.sparse.csc_matrix(BOX)}
    )
    mat73(tmp_path / "k73.mat", k=BOX, s={})
    np.savez(tmp_path / "k.npz", k=BOX, p=np.array([{}], dtype=object), c=BOX * 1j, b=BOX > 0)
    assert [list(read_kernels(tmp_path / name)) for name in ("k.mat", "k73.mat", "k.npz")] == [
        ["k"]
    ] * 3
    said = caplog.text
    for part in ("s (a struct)", "p (csc_", "p (a pickled object)", "c (complex128)", "b (bool)"):
        assert part in said


def test_the_array_that_is_named_is_the_only_one_looked_at(tmp_path):
    np.savez(tmp_path / "k.npz", psf=BOX, background=-BOX, delta=np.ones((1, 1)))
    with pytest.raises(InputError, match=r"kernel 'background' .* must be non-negative"):
        dict(read_kernels(tmp_path / "k.npz"))
    for name in ("psf", "delta"):
        chosen = choose_kernel(read_kernels(tmp_path / "k.npz", name), name, "kernel_name")
        assert chosen[name].sum() == pytest.approx(1)
    with pytest.raises(InputError, match=r"kernel_name=psx does not exist.*did you mean 'psf'"):
        choose_kernel(read_kernels(tmp_path / "k.npz", "psx"), "psx", "kernel_name")


def test_rows_and_columns_are_kernels_where_nothing_else_is(tmp_path, caplog):
    np.savez(tmp_path / "k.npz", across=np.ones((1, 7)), down=np.ones((7, 1)), one=np.ones((1, 1)))
    assert list(read_kernels(tmp_path / "k.npz")) == ["across", "down"]
    assert "one (1 x 1)" in caplog.text
    np.save(tmp_path / "one.npy", np.ones((1, 1)))
    assert read_kernels(tmp_path / "one.npy")["one"] == 1


def test_text_of_matlab_7_3_is_no_row_of_numbers(tmp_path, caplog):
    mat73(tmp_path / "k.mat", k=np.ones((1, 7)), note="motion")
    assert list(read_kernels(tmp_path / "k.mat")) == ["k"]
    assert "note (text)" in caplog.text


def test_a_kernel_is_normalised_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    np.savez(tmp_path / "k.npz", a=BOX * 3, b=BOX)
    kernels = read_kernels(tmp_path / "k.npz")
    assert kernels["a"] is kernels["a"]
    dict(kernels)
    assert len([line for line in caplog.messages if "has sum 3; normalised" in line]) == 1


def test_a_file_without_a_kernel_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "k.npz", sigma=2.0, note="x")
    with pytest.raises(InputError, match=r"holds no kernel: sigma \(a number\), note \(text\)"):
        read_kernels(tmp_path / "k.npz")


def test_a_task_takes_one_kernel_by_name_and_counts_it_among_all(tmp_path):
    np.savez(tmp_path / "k.npz", sigma=2.0, a=BOX, bad=-BOX, c=np.ones((3, 3)))
    file = str(tmp_path / "k.npz")
    task = Deconvolution(data=Embedded(), kernels=file, kernel="c")
    assert task.fingerprints()["kernels"] == ["c"]
    assert task.data.kernel_set.numbers == {"c": 2}
    with pytest.raises(InputError, match="kernel 'bad'"):
        Deconvolution(data=Embedded(), kernels=file)


@pytest.mark.parametrize("kind", ["f4", "f8", "u1", "u2", "u4", "i2"])
def test_kernels_as_tiff_are_read_at_their_values(tmp_path, rng, kind):
    values = (rng.random((7, 9)) * 100).astype(kind)
    tifffile.imwrite(tmp_path / "k.tif", values, photometric="minisblack")
    np.testing.assert_allclose(
        read_kernels(tmp_path / "k.tif")["k"], values / values.sum(dtype=float), rtol=1e-6
    )


def test_kernels_as_pictures_of_other_kinds(tmp_path, rng):
    values = rng.integers(0, 4096, (7, 9, 1))
    inverted = tiff(Page(4095 - values, Layout(bits=12), [(262, "H", 0)]))
    (tmp_path / "inverted.tif").write_bytes(inverted)
    tagged = tiff(Page(values, Layout(bits=16), [(262, "H", 1), (281, "H", 50)]))
    (tmp_path / "tagged.tif").write_bytes(tagged)
    for name in ("inverted", "tagged"):
        actual = read_kernels(tmp_path / f"{name}.tif")[name]
        np.testing.assert_allclose(actual, values[..., 0] / values.sum())
    Image.fromarray(np.uint8(values[..., 0] // 16)).convert("RGBA").save(tmp_path / "rgb.png")
    gray = values[..., 0] // 16
    np.testing.assert_allclose(read_kernels(tmp_path / "rgb.png")["rgb"], gray / gray.sum())
    Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match="is a colour image; expected gray"):
        read_kernels(tmp_path / "colour.png")


def test_stacks_of_kernels_as_tiff_are_refused(tmp_path, rng):
    tifffile.imwrite(tmp_path / "k.tif", rng.random((3, 7, 9)), photometric="minisblack")
    with pytest.raises(InputError, match="holds 3 pages or frames"):
        read_kernels(tmp_path / "k.tif")


def estimated(share):
    """A kernel whose negative part is this share of its sum."""
    kernel = np.ones((1, 5))
    kernel[0, 0] = -share * 4 / (1 + share)
    return kernel


def test_a_small_negative_part_is_clipped_on_request(caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(InputError, match=r"its negative part 0\.03 of its sum; clip=true sets it"):
        normalise_kernel(estimated(0.03), "kernel x", clip_key="clip")
    kernel = normalise_kernel(estimated(0.03), "kernel x", clip=True)
    np.testing.assert_allclose(kernel, [[0, 0.25, 0.25, 0.25, 0.25]])
    assert "its negative part, 0.03 of its sum, is set to zero" in caplog.text
    assert normalise_kernel(estimated(0.0499), "kernel x", clip=True).min() == 0


@pytest.mark.parametrize(
    ("kernel", "size"),
    [(estimated(0.051), "0.051 of its sum"), (-np.ones((2, 2)), "larger than the positive one")],
)
def test_a_large_negative_part_is_refused(kernel, size):
    with pytest.raises(InputError, match=f"negative part {size}; clip is for at most 0.05"):
        normalise_kernel(kernel, "kernel x", clip=True, clip_key="clip")
    with pytest.raises(InputError) as error:
        normalise_kernel(kernel, "kernel x", clip_key="clip")
    assert "clip=true" not in str(error.value)


def test_the_keys_that_clip(tmp_path):
    np.save(tmp_path / "k.npy", estimated(0.03))
    file = str(tmp_path / "k.npy")
    with pytest.raises(InputError, match=r"task\.kernel_clip=true sets it to zero"):
        Deconvolution(data=Embedded(), kernels=file)
    task = Deconvolution(data=Embedded(), kernels=file, kernel_clip=True)
    assert float(task.data.kernels.min()) == 0
    with pytest.raises(InputError, match="; kernel_clip=true sets it to zero"):
        dict(read_kernels(tmp_path / "k.npy", clip_key="kernel_clip"))


def test_generated_kernels_are_not_touched():
    options = {"kernel_count": 2, "kernel_size": 9, "kernel_seed": 3}
    for kind in ("motion", "gaussian", "disk"):
        plain, clipped = (
            KernelSet(kernels=kind, kernel_clip=clip, **options).chosen for clip in (False, True)
        )
        for name in plain:
            np.testing.assert_array_equal(plain[name], clipped[name])
