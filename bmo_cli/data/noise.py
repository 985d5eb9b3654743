"""The level of the noise in a photograph.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from torch import Tensor

_QUARTILE = 0.6744897501960817  # of |z|, z standard normal: its median


def estimate_noise(y: Tensor) -> Tensor:
    """The standard deviation of white Gaussian noise, from the median of diagonal differences.

    sigma = median |d| / 0.6745 with d = (y(i, j) - y(i+1, j) - y(i, j+1) + y(i+1, j+1)) / 2, the
    finest diagonal coefficients of the Haar wavelet, whose variance is that of the noise where the
    image is smooth. Blurred images are. (Donoho & Johnstone, "Ideal spatial adaptation by wavelet
    shrinkage", Biometrika 1994; `skimage.restoration.estimate_sigma` uses another wavelet.)

    Args:
        y: (B, C, H, W); channels share a level.

    Returns:
        (B,); 0 where a side has one pixel.
    """
    if min(y.shape[-2:]) < 2:
        return y.new_zeros(len(y))
    rows = y[..., 1:, :] - y[..., :-1, :]
    diagonal = (rows[..., 1:] - rows[..., :-1]) / 2
    return diagonal.abs().flatten(1).median(1).values / _QUARTILE
