"""Inputs that nobody thought of; stress/fuzz.py has thousands, through the command line."""

import io
import json
import string
import warnings

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bmo_cli.config.snapshot import expanded_size, read_snapshot
from bmo_cli.data.images.file import read_image
from bmo_cli.errors import InputError

QUICK = settings(deadline=None, max_examples=60, derandomize=True)


def encoded(kind, **options):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


FILES = {
    ".png": encoded("PNG"),
    ".jpg": encoded("JPEG"),
    ".bmp": encoded("BMP"),
    ".tif": encoded("TIFF", compression="tiff_lzw"),
}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FILES)
@QUICK
@given(data=st.data())
def test_a_damaged_image_is_read_or_refused_in_one_line(tmp_path_factory, suffix, data):
    content = bytearray(FILES[suffix])
    flips = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255))
    for place, bits in data.draw(st.lists(flips, max_size=12)):
        content[place] ^= bits
    length = data.draw(st.integers(0, len(content)))
    file = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    file.write_bytes(content[: length or None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_image(file, 1.0).pixels.ndim == 3
        except InputError as error:
            assert "\n" not in str(error)


KEYS = st.text(string.ascii_lowercase, min_size=1, max_size=2)
LEAVES = st.one_of(
    st.none(),
    st.integers(),
    st.text(string.printable, max_size=8),
    KEYS.map(lambda key: f"${{{key}}}"),
    st.tuples(KEYS, KEYS).map(lambda pair: f"${{{pair[0]}.{pair[1]}}}${{.{pair[1]}}}"),
)
NODES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)


@pytest.mark.slow
@QUICK
@given(content=st.dictionaries(KEYS, NODES, max_size=5))
def test_a_snapshot_is_read_or_refused_in_one_line(tmp_path_factory, content):
    run = tmp_path_factory.mktemp("run")
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(content))
    try:
        found = read_snapshot(run)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(str(found)) <= 40 * expanded_size(content)


@pytest.mark.parametrize("many", ["${b%d}" * 9, ["${b%d}"] * 9, ["${c.b%d}"] * 9])
def test_interpolations_that_stand_for_gigabytes_are_refused(tmp_path, many):
    content = {"b0": "lol", "c": "${d}", "d": {"b0": "lol"}}
    for i in range(1, 15):
        content[f"b{i}"] = content["d"][f"b{i}"] = json.loads(json.dumps(many) % ((i - 1,) * 9))
    assert expanded_size(content) > 1e12
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(json.dumps(content))
    with pytest.raises(InputError, match="interpolations stand for too much"):
        read_snapshot(tmp_path)


def test_size_of_what_is_resolved():
    assert expanded_size({"a": "xx", "b": "${a}"}) == 1 + 3 + 5 + 3
    assert expanded_size({"a": "${b}", "b": "${a}"}) == float("inf")
    assert expanded_size({"a": {"x": "${.y}", "y": "1"}}) == 1 + 1 + 6 + 2 * 2
    assert expanded_size({"a": "${nowhere}"}) == 1 + 11
