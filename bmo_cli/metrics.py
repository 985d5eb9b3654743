"""Image quality. One protocol for now, written beside every number.

`float`: values clipped to [0, 1], no rounding to 8 bit, no border removed; PSNR and SSIM over all
channels, SSIM with a Gaussian window of 11 x 11, sigma 1.5 (Wang et al., IEEE TIP 2004), averaged
over channels, scikit-image's implementation.
"""

from __future__ import annotations

import math

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor

PROTOCOL = "clipped to [0, 1], float, no border removed; SSIM Gaussian 11x11, sigma 1.5"
COLUMNS = {"psnr_input": ".2f", "psnr": ".2f", "ssim_input": ".4f", "ssim": ".4f"}
"""Scores of an image task with the formats they are shown in."""


def psnr(estimate: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for data in [0, 1]; inf when equal. Shapes (C, H, W)."""
    error = (_plain(estimate).clamp(0, 1) - _plain(reference)).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(estimate: Tensor, reference: Tensor) -> float:
    """Structural similarity, shapes (C, H, W) with H, W >= 11; nan for smaller images."""
    if min(estimate.shape[1:]) < 11:
        return math.nan
    return float(
        structural_similarity(
            _plain(estimate).clamp(0, 1).numpy(),
            _plain(reference).numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def _plain(image: Tensor) -> Tensor:
    """float64 on the CPU; some devices have no float64."""
    return image.detach().cpu().double()


def mean(values: list[float]) -> float:
    """Average; nan for no numbers."""
    return float(np.mean(values)) if values else math.nan
