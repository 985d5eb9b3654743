"""Reading and writing photographs: 8 and 16 bit, gray and colour.

The module of its container describes a file first (`images.description`). One rule decides whether
it is refused. Then its pixels are decoded.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from bmo_cli.data.images import pillow, png, tiff
from bmo_cli.data.images.description import ImageSource, colour_space, refusal
from bmo_cli.data.images.photograph import Photograph, photograph
from bmo_cli.errors import InputError

log = logging.getLogger(__name__)
_T = TypeVar("_T")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = "PNG, JPEG, BMP or TIFF"
MAX_MEGAPIXELS = 200.0
"""Images that claim more are refused before they are decoded, unless the user allows more."""
_READERS: Mapping[bytes, Callable[[bytes], ImageSource]] = {
    png.MAGIC: png.read_png,
    pillow.JPEG_MAGIC: pillow.read_jpeg,
    pillow.BMP_MAGIC: pillow.read_bmp,
    **dict.fromkeys(tiff.MAGIC, tiff.read_tiff),
}
_WRITERS: Mapping[str, Callable[[Photograph], tuple[bytes, list[str]]]] = {
    ".png": png.write_png,
    **dict.fromkeys((".jpg", ".jpeg"), pillow.write_jpeg),
    ".bmp": pillow.write_bmp,
    **dict.fromkeys((".tif", ".tiff"), tiff.write_tiff),
}
_OTHERS: Mapping[str, bytes] = {
    "GIF": rb"GIF8",
    "WebP": rb"RIFF....WEBP",
    "AVIF": rb"....ftypavi",
    "HEIC": rb"....ftyp(hei|hev|mif1)",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "Photoshop": rb"8BPS",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?RADIANCE",
    "FITS": rb"SIMPLE  =",
    "PDF": rb"%PDF",
    "PNM": rb"P[1-7]\s",
    "icon": rb"\0\0\x01\0",
}
"""How formats begin that are not read, to name them."""


def read_image(
    file: Path,
    max_megapixels: float = MAX_MEGAPIXELS,
    key: str | None = None,
    *,
    white: int | None = None,
    white_key: str | None = "white",
) -> Photograph:
    """Read a photograph, upright and with its palette resolved.

    Args:
        file: PNG, JPEG, BMP or TIFF.
        max_megapixels: a file that claims more million pixels is refused before it is decoded.
        key: of the configuration that sets this limit, for the message.
        white: value that stands for white; None: as the file says.
        white_key: of the configuration that sets it, for the message; None: there is none.

    Raises:
        InputError: the file is missing, empty, no image, damaged, too large or of an unsupported
            kind, or `white` does not suit it.
    """
    source = _read_header(file, max_megapixels, key)
    description = source.description
    if white is not None and white > description.levels:
        raise InputError(
            f"{white_key}={white} is more than the largest value that {file} can hold, "
            f"{description.levels}"
        )
    level = white or description.white or description.levels
    image = photograph(_decode(file, source.samples), description, level)
    if image.clipped and white is None:
        option = f"; {white_key}={description.levels} reads it at full range" if white_key else ""
        raise InputError(
            f"{file} says that white is {level} (MaxSampleValue), but holds {image.clipped} larger "
            f"values{option}"
        )
    return image


def read_values(file: Path) -> NDArray[np.float64]:
    """The stored values of an image, (H, W) or (H, W, 3), upright, as for a blur kernel.

    Integers and floating-point numbers of any size are read. Where white is zero, values are
    subtracted from the largest one. An alpha channel is left out.

    Raises:
        InputError: as `read_image`.
    """
    source = _read_header(file, of_values=True)
    description = source.description
    samples = _decode(file, source.samples)
    values = (samples[..., :-1] if description.extra else samples).astype(np.float64)
    if description.colour == "white-is-zero gray":
        values = description.levels - values
    return values[..., 0] if values.shape[2] == 1 else values


def _read_header(
    file: Path,
    max_megapixels: float = MAX_MEGAPIXELS,
    key: str | None = None,
    *,
    of_values: bool = False,
) -> ImageSource:
    """A file whose header is read, and nothing in it refused."""
    content = _content(file)
    source = _decode(file, lambda: _reader(content, file)(content))
    reason = refusal(source.description, of_values=of_values)
    if reason:
        raise InputError(f"{file} {reason}")
    width, height = source.description.width, source.description.height
    if width * height > max_megapixels * 1e6:
        more = f"; {key}={math.ceil(width * height / 1e6)} allows it" if key else ""
        raise InputError(
            f"{file} claims {width} x {height} pixels, more than the {max_megapixels:g} "
            f"megapixels that are read{more}"
        )
    return source


def _content(file: Path) -> bytes:
    if not file.is_file():
        link = " (a link to nothing)" if file.is_symlink() else ""
        raise InputError(f"no image file {file}{link}; check the path")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    if not content:
        raise InputError(f"{file} is empty (0 bytes); expected an image ({FORMATS})")
    return content


def _reader(content: bytes, file: Path) -> Callable[[bytes], ImageSource]:
    for magic, reader in _READERS.items():
        if content.startswith(magic):
            return reader
    for name, beginning in _OTHERS.items():
        if re.match(beginning, content, re.DOTALL):
            raise InputError(f"{file} is a {name} file; expected {FORMATS}")
    raise InputError(f"{file} cannot be decoded as {FORMATS}: it is no such image")


def _decode(file: Path, work: Callable[[], _T]) -> _T:
    """What `work` returns, its errors as one line."""
    try:
        return work()
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{file} cannot be decoded as {FORMATS}: its header is damaged") from error
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{file} cannot be decoded as {FORMATS}: {detail}") from error


def write_image(file: Path, image: Photograph, *, overwrite: bool = False) -> None:
    """Write a file, losslessly where the format allows it. An incomplete file is never visible.

    ICC profile and resolution of the photograph's description are written. A warning names what the
    format cannot hold of it. A TIFF also has the white level and the kind of alpha.

    Raises:
        InputError: unknown ending, a depth or an alpha channel that the format cannot hold, an
            existing file, or a folder that cannot be written.
    """
    check_writable(file, image, overwrite=overwrite)
    suffix = file.suffix.lower()
    fitting, misfits = _fitting(image, suffix)
    content, left_out = _WRITERS[suffix](fitting)
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=file.suffix)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            Path(temporary).chmod(0o666 & ~_umask())
            _publish(Path(temporary), file, overwrite)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror or error}") from error
    unwritten = [f"the {name}" for name in image.description.unwritten] if image.description else []
    if misfits or left_out or unwritten:
        log.warning("%s does not hold %s", file, "; ".join(misfits + left_out + unwritten))


def _fitting(image: Photograph, suffix: str) -> tuple[Photograph, list[str]]:
    """The photograph without metadata that do not fit its colours or the format, and what they are.

    A profile must be of the image's own colour space. Colour chunks of a PNG are for a PNG.
    """
    description, misfits = image.description, list[str]()
    if description is None:
        return image, misfits
    own = "GRAY" if image.pixels.shape[2] == 1 else "RGB"
    space = colour_space(description.profile) if description.profile else own
    if space != own:
        reason = f"is for {space} images, this one is {own}" if space else "is damaged"
        misfits.append(f"the ICC profile, which {reason}")
        description = replace(description, profile=None)
    chunks = [name.decode() for name, _ in description.colour_chunks]
    if suffix != ".png" and chunks and "sRGB" not in chunks:
        misfits.append(f"the PNG's {', '.join(chunks)}")
    return replace(image, description=description), misfits


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
