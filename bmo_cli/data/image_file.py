"""Reading and writing photographs: 8 and 16 bit, gray and colour, as arrays in [0, 1].

Pillow decodes everything but colour PNG and TIFF of 16 bit, which it would cut down to 8 bit
silently; imagecodecs and tifffile decode those.
"""

from __future__ import annotations

import io
import logging
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from imagecodecs import png_decode, png_encode
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bmo_cli.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = "PNG, JPEG, BMP or TIFF"
_TIFF = (b"II*\0", b"MM\0*")
MAX_MEGAPIXELS = 200.0
"""Images that claim more are refused before they are decoded, unless the user allows more."""
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said in one line, here
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is lower, and only a warning


@dataclass(frozen=True)
class Photograph:
    """A decoded image.

    Attributes:
        pixels: (H, W, C) of uint8 or uint16, C = 1 gray or 3 colour, upright.
        alpha: (H, W) of the same type, or None.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None

    @property
    def depth(self) -> int:
        """8 or 16 bit."""
        return self.pixels.dtype.itemsize * 8

    @property
    def levels(self) -> int:
        """Largest value: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def channels_first(self, channels: int | None = None) -> NDArray[Any]:
        """(C, H, W) of the stored type; gray or colour as asked for, by default as it is.

        Colour becomes gray by the luma of ITU-R BT.601 (0.299, 0.587, 0.114); gray becomes three
        equal channels.
        """
        have = self.pixels.shape[2]
        if channels in (None, have):
            chosen = self.pixels
        elif channels == 1:
            luma = self.pixels @ np.array([0.299, 0.587, 0.114])
            chosen = luma.round().astype(self.pixels.dtype)[..., None]
        else:
            chosen = self.pixels.repeat(3, axis=2)
        return np.ascontiguousarray(chosen.transpose(2, 0, 1))


def read_image(
    file: Path, max_megapixels: float = MAX_MEGAPIXELS, key: str | None = None
) -> Photograph:
    """Decode an image file; EXIF rotation is honoured, palettes are resolved.

    Args:
        file: PNG, JPEG, BMP or TIFF.
        max_megapixels: a file that claims more million pixels is refused before it is decoded.
        key: of the configuration that sets this limit, for the message.

    Raises:
        InputError: the file is missing, empty, no image, damaged, too large or of an unsupported
            kind.
    """
    if not file.is_file():
        raise InputError(f"no image file {file}")
    content = file.read_bytes()
    if not content:
        raise InputError(f"{file} is empty (0 bytes); expected an image ({FORMATS})")
    try:
        return _decode(content, file, _Limit(max_megapixels, key))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{file} cannot be decoded as {FORMATS}: it is no such image") from error
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"{file} cannot be decoded as {FORMATS}: {detail}") from error


@dataclass(frozen=True)
class _Limit:
    megapixels: float
    key: str | None

    def require(self, width: int, height: int, file: Path) -> None:
        if width * height > self.megapixels * 1e6:
            more = f"; {self.key}={math.ceil(width * height / 1e6)} allows it" if self.key else ""
            raise InputError(
                f"{file} claims {width} x {height} pixels, more than the {self.megapixels:g} "
                f"megapixels that are read{more}"
            )


def _decode(content: bytes, file: Path, limit: _Limit) -> Photograph:
    if content[:4] in _TIFF:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            if len(tiff.pages) > 1:
                raise InputError(f"{file} holds {len(tiff.pages)} pages; expected one image")
            if tiff.pages[0].bitspersample > 8:
                return _split(_decode_tiff(tiff.pages[0], file, limit), file)
    with _silent_libraries() if content[:4] in _TIFF else nullcontext():
        return _decode_common(content, file, limit)


_silence = threading.Lock()


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Context in which libtiff's own lines, from C to the standard error, go nowhere."""
    with _silence:
        try:
            kept = os.dup(2)
        except OSError:  # closed: nothing can be said there
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _decode_common(content: bytes, file: Path, limit: _Limit) -> Photograph:
    """What Pillow decodes without loss."""
    image: Image.Image = Image.open(io.BytesIO(content))
    limit.require(image.width, image.height, file)
    if image.format == "PNG" and content[24] == 16:
        return _split(png_decode(content), file)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise InputError(f"{file} is a {image.mode} image; expected gray or RGB")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "P", "PA"):
        has_alpha = "transparency" in image.info or image.mode == "PA"
        image = image.convert("L" if image.mode == "1" else "RGBA" if has_alpha else "RGB")
    return _split(np.asarray(image), file)


def _decode_tiff(page: Any, file: Path, limit: _Limit) -> NDArray[Any]:
    """A TIFF page of more than 8 bit as (H, W) or (H, W, C), upright."""
    limit.require(page.imagewidth, page.imagelength, file)
    array: NDArray[Any] = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        array = np.iinfo(array.dtype).max - array
    orientation = page.tags.get("Orientation")
    quarter_turns, mirrored = _UPRIGHT.get(orientation.value if orientation else 1, (0, False))
    array = np.rot90(array, quarter_turns)
    return np.fliplr(array) if mirrored else array


_UPRIGHT = {
    **{1: (0, False), 3: (2, False), 6: (-1, False), 8: (1, False)},
    **{2: (0, True), 4: (2, True), 5: (-1, True), 7: (1, True)},
}
"""Quarter turns to the left, then mirroring, that undo each value of the tag Orientation."""


def _split(array: NDArray[Any], file: Path) -> Photograph:
    """Separate colour from alpha and refuse what is neither 8 nor 16 bit."""
    if array.dtype == np.dtype(">u2"):
        array = array.astype(np.uint16)
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{file} holds {array.dtype} samples; expected 8 or 16 bit integers")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise InputError(f"{file} has shape {array.shape}; expected one gray or colour image")
    if array.shape[2] in (2, 4):
        return Photograph(np.ascontiguousarray(array[..., :-1]), array[..., -1])
    return Photograph(array)


def write_image(file: Path, image: Photograph, *, overwrite: bool = False) -> None:
    """Write losslessly where the format allows it; the file appears whole or not at all.

    Raises:
        InputError: unknown ending, a depth or an alpha channel that the format cannot hold, an
            existing file, or a folder that cannot be written.
    """
    check_writable(file, image, overwrite=overwrite)
    array = image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])
    array = np.ascontiguousarray(array[..., 0] if array.shape[2] == 1 else array)
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=file.suffix)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(_encode(array, file.suffix.lower()))
            Path(temporary).chmod(0o666 & ~_umask())
            _publish(Path(temporary), file, overwrite)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error


def check_writable(file: Path, image: Photograph, *, overwrite: bool) -> None:
    """Refuse what `write_image` would refuse, before any work is done for it."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"output {file} must end in one of {', '.join(SUFFIXES)}")
    if suffix in (".jpg", ".jpeg", ".bmp") and (image.depth == 16 or image.alpha is not None):
        what = "16 bit" if image.depth == 16 else "an alpha channel"
        raise InputError(f"{suffix[1:].upper()} cannot hold {what}; use .png or .tif for {file}")
    if file.exists() and not overwrite:
        raise InputError(f"{file} exists already; use overwrite=true to replace it")
    if not file.parent.is_dir():
        raise InputError(f"the folder of the output does not exist: {file.parent}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _publish(temporary: Path, file: Path, overwrite: bool) -> None:
    if overwrite:
        temporary.replace(file)
        return
    try:
        os.link(temporary, file)  # fails when the file has appeared meanwhile; replace would not
    except FileExistsError:
        raise InputError(f"{file} exists already; use overwrite=true to replace it") from None
    except OSError:  # a file system without links
        temporary.replace(file)


def _encode(array: NDArray[Any], suffix: str) -> bytes:
    stream = io.BytesIO()
    if suffix == ".png":
        return bytes(png_encode(array))
    if suffix in (".tif", ".tiff"):
        channels = 1 if array.ndim == 2 else array.shape[2]
        tifffile.imwrite(
            stream,
            array,
            photometric="minisblack" if channels < 3 else "rgb",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
        )
    elif suffix == ".bmp":
        Image.fromarray(array).save(stream, "BMP")
    else:
        Image.fromarray(array).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()
