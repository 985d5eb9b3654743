"""Folders of photographs as they are found: dead links, folders, and names of any bytes."""

import json
import os

import numpy as np
import pytest
from conftest import SMALL_NET, TINY, result

from bmo_cli.data.images.file import write_image
from bmo_cli.data.images.image_set import files_digest, image_files, printable_names
from bmo_cli.data.images.photograph import Photograph
from bmo_cli.data.splits import Folder, Paired
from bmo_cli.errors import InputError
from bmo_cli.results.run_folder import RunFolder

NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        pixels = rng.integers(0, 256, (40, 36, 1), dtype=np.uint8)
        write_image(folder / "new.png", Photograph(pixels))
        (folder / "new.png").rename(folder / name)
    return folder


@pytest.mark.parametrize("place", ["", "*.png", "im*"])
def test_dead_links_are_an_error_that_names_them(tmp_path, place):
    fill(tmp_path, "im1.png", "im2.png")
    for name in ("im3.png", "im4.PNG"):
        (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(InputError) as error:
        image_files(str(tmp_path / place), "data.test")
    count = {"": "2 of 4", "*.png": "1 of 3", "im*": "2 of 4"}[place]
    assert f"{count} images are links to nothing: im3.png" in str(error.value)


@pytest.mark.parametrize("name", ["gone.png", "gone"])
def test_a_place_that_is_a_dead_link(tmp_path, name):
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(InputError, match=r"data\.val=.*gone.* is a link to nothing"):
        image_files(str(tmp_path / name), "data.val")


def test_a_link_to_an_image_is_one(tmp_path):
    fill(tmp_path / "a", "x.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "y.png").symlink_to("../a/x.png")
    assert [file.name for file in image_files(str(tmp_path / "b"), "k")] == ["y.png"]


def test_dead_links_among_pairs(tmp_path):
    for kind in ("clean", "rain"):
        fill(tmp_path / kind, "1.png")
        (tmp_path / kind / "2.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"1 of 2 images are links to nothing: 2\.png"):
        Paired(test=str(tmp_path)).load("test")


def test_what_is_no_image_is_named(tmp_path, caplog):
    fill(tmp_path, "x.png", ".hidden.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    assert [file.name for file in image_files(str(tmp_path), "k")] == ["x.png"]
    (line,) = caplog.messages
    assert line.endswith("ignored 5 other files: folder.png, gone.txt, notes.txt, pipe.png, sub")


def test_a_folder_of_links_alone_holds_no_images(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        image_files(str(tmp_path), "k")


def test_names_are_shown_as_text_and_stay_different(tmp_path):
    names = [b"a.png", b"caf\xe9.png", b"caf\xe8.png", b"caf\\udce9.png", b"b\nc.png", b"b\\nc.png"]
    files = sorted(tmp_path / os.fsdecode(name) for name in names)
    shown = printable_names(files)
    assert len(set(shown)) == len(names)
    assert all(name.isprintable() and name.encode() for name in shown)
    assert "caf\\udce9.png" in shown
    assert "caf\\udce9~2.png" in shown


def test_digest_of_names_that_are_not_utf8(tmp_path):
    a = fill(tmp_path / "a", NOT_UTF8)
    b = fill(tmp_path / "b", "cafe.png")
    assert files_digest({"x": [a / NOT_UTF8]}) != files_digest({"x": [b / "cafe.png"]})
    assert Folder(test=str(a)).load("test").names == ["caf\\udce9.png"]


@pytest.mark.parametrize(
    "case",
    ["a/b.png k", "../../x.png", "漢字" * 60 + ".png", "é" * 200, "a\0b.png", "\udce9.png", "a\nb"],
)
def test_pictures_have_names_that_a_file_system_takes(tmp_path, case):
    file = RunFolder(tmp_path).picture(3, case, "side_by_side")
    assert file.parent == tmp_path / "images"
    assert len(file.name.encode()) <= 255
    file.parent.mkdir()
    file.write_bytes(b"")
    assert RunFolder(tmp_path).picture(3, "plain.png", "clean").name == "03_plain_clean.png"


@pytest.mark.slow
def test_a_run_on_names_of_any_bytes_ends_well(bmo, tmp_path, photos):
    names = [NOT_UTF8, "漢字" * 40 + ".png", "q'\"<b>&$x_1$.png", "b\nc.png", "%s {x}.png"]
    fill(photos / "test", *names)
    kernels = tmp_path / "k.npz"
    np.savez(kernels, **{"a/b": np.ones((3, 3))})
    places = [f"data.{split}={photos / split}" for split in ("train", "val", "test")]
    words = [*TINY, *SMALL_NET, *places, f"task.kernels={kernels}", "task.eval_kernels=each"]
    done = bmo("train", *words, "eval.images=20", "hydra.run.dir=r")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "no picture" not in done.stdout
    content = result(tmp_path / "r")
    assert content["status"] == "ok"
    assert len(content["images"]) == len(names) + 2
    assert "caf\\udce9.png a/b" in content["images"]
    assert len(list((tmp_path / "r" / "images").iterdir())) == 4 * len(content["images"])
    json.dumps(content, ensure_ascii=False).encode()
    done = bmo("report", "r", "output=report.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/webp" in page
    assert bmo("runs", "r", "--csv").returncode == 0
