"""Image quality by named protocols, so that every number states how it was computed.

A protocol says which channels are compared (all, or a luminance), whether the estimate is rounded
to 8 bit as in a saved picture, and how wide a border is left out. SSIM is that of Wang et al.,
"Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004: a
Gaussian window of 11 x 11 with sigma 1.5, averaged over channels and over the window positions that
lie inside the image. scikit-image computes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from bmo_cli.errors import InputError, suggest_nearest

Array = NDArray[np.float64]
COLUMNS = {"psnr_input": ".2f", "psnr": ".2f", "ssim_input": ".4f", "ssim": ".4f"}
"""Scores of an image task, with their formats."""

MATLAB = (np.array([65.481, 128.553, 24.966]) / 255, 16 / 255)
"""Luminance of MATLAB's rgb2ycbcr (ITU-R BT.601, studio range 16 to 235): weights, offset."""
FULL_RANGE = (np.array([0.299, 0.587, 0.114]), 0.0)
"""Luma of ITU-R BT.601 in full range, that of Pillow's mode L and of OpenCV's COLOR_BGR2GRAY."""


@dataclass(frozen=True)
class Protocol:
    """How an estimate is compared with the reference.

    Attributes:
        name: of the protocol.
        channels: all: every channel with equal weight. matlab, full_range: a luminance of colour
            images; gray images are compared as they are.
        quantise: how the estimate is converted to 8 bit; none: it stays floating point.
        border: pixels left out at each side.
    """

    name: str
    channels: Literal["all", "matlab", "full_range"] = "all"
    quantise: Literal["none", "round", "truncate"] = "none"
    border: int = 0

    @property
    def text(self) -> str:
        """The protocol in words, as it is recorded with every score."""
        shown = {
            "all": "all channels",
            "matlab": "luminance of MATLAB's rgb2ycbcr",
            "full_range": "full-range BT.601 luma",
        }[self.channels]
        depth = {"none": "float", "round": "rounded to 8 bit", "truncate": "truncated to 8 bit"}
        border = f"{self.border} pixels of border removed" if self.border else "no border removed"
        return (
            f"{self.name}: clipped to [0, 1], {depth[self.quantise]}, {shown}, {border}; "
            "SSIM Gaussian 11x11, sigma 1.5"
        )

    def score(self, estimate: Tensor, reference: Tensor) -> dict[str, float]:
        """`psnr` in dB, inf for equal images, and `ssim`, nan below 11 pixels a side.

        Args:
            estimate: (C, H, W), clipped to [0, 1] here.
            reference: (C, H, W) in [0, 1].

        Raises:
            InputError: no pixel is left once the border is removed.
        """
        a, b = self._compared(estimate, reference)
        return {"psnr": _psnr(a, b), "ssim": _ssim(a, b)}

    def psnr(self, estimate: Tensor, reference: Tensor) -> float:
        """The `psnr` of `score` alone, without the time that SSIM takes.

        Args:
            estimate, reference: as in `score`.

        Raises:
            InputError: as `score`.
        """
        return _psnr(*self._compared(estimate, reference))

    def _compared(self, estimate: Tensor, reference: Tensor) -> tuple[Array, Array]:
        """The values of both images that are compared."""
        estimated = self._quantise(_to_float64(estimate))
        return self._select_pixels(estimated), self._select_pixels(_to_float64(reference))

    def _quantise(self, image: Array) -> Array:
        """The estimate with the values that an 8-bit file would hold."""
        image = image.clip(0, 1)
        if self.quantise == "none":
            return image
        if self.quantise == "round":
            return np.round(image * 255) / 255
        return np.floor(image * 255 + 1e-4) / 255  # k / 255 in float32 may lie just below

    def _select_pixels(self, image: Array) -> Array:
        """The channels and pixels that the protocol compares."""
        if self.channels != "all" and len(image) == 3:
            weights, offset = MATLAB if self.channels == "matlab" else FULL_RANGE
            image = np.tensordot(weights, image, 1)[None] + offset
        if self.border:
            if min(image.shape[1:]) <= 2 * self.border:
                raise InputError(
                    f"protocol {self.name} removes {self.border} pixels at each side, and nothing "
                    f"is left of an image of {image.shape[1]} x {image.shape[2]}"
                )
            image = image[:, self.border : -self.border, self.border : -self.border]
        return image


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("float"),
        Protocol("uint8", quantise="round"),
        Protocol("uint8_truncated", quantise="truncate"),
        Protocol("border16", border=16),
        Protocol("luminance", channels="matlab"),
        Protocol("luma", channels="full_range"),
        Protocol("prenet", channels="matlab", quantise="truncate"),
    )
}


def protocol(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise InputError(
            f"no protocol '{name}'{suggest_nearest(name, PROTOCOLS)}; there are {known}"
        )
    return PROTOCOLS[name]


def scores(judge: Protocol, images: Mapping[str, Tensor], reference: Tensor) -> dict[str, float]:
    """Scores of several images against one reference, as `psnr<suffix>` and `ssim<suffix>`.

    Args:
        judge: the protocol.
        images: by suffix, of any shape with the entries of (C, H, W).
        reference: (C, H, W).
    """
    return {
        f"{name}{suffix}": value
        for suffix, image in images.items()
        for name, value in judge.score(image.reshape(reference.shape), reference).items()
    }


def _psnr(a: Array, b: Array) -> float:
    error = float(np.square(a - b).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def _ssim(a: Array, b: Array) -> float:
    if min(a.shape[1:]) < 11:
        return math.nan
    return float(
        structural_similarity(
            a,
            b,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def _to_float64(image: Tensor) -> Array:
    """A float64 array on the CPU; some devices have no float64."""
    array: Array = image.detach().cpu().double().numpy()
    return array


def mean(values: list[float]) -> float:
    """Average; nan for no numbers."""
    return float(np.mean(values)) if values else math.nan
