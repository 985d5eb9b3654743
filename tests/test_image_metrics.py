"""Protocols against implementations written with NumPy and SciPy alone, and published numbers."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d

from bmo_cli.data.images.file import read_image
from bmo_cli.data.patches import as_tensor
from bmo_cli.errors import InputError
from bmo_cli.metrics import PROTOCOLS, protocol


def ssim_of(a, b):
    """Wang et al. 2004, of two channels (H, W) in [0, 1]: mean over whole windows."""
    n = np.arange(-5, 6)
    window = np.exp(-(n**2) / (2 * 1.5**2))
    window /= window.sum()

    def average(x):
        return convolve1d(convolve1d(x, window, 0), window, 1)[5:-5, 5:-5]

    ma, mb = average(a), average(b)
    va, vb, vab = average(a * a) - ma**2, average(b * b) - mb**2, average(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    ratio = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return ratio.mean()


def expected(name, a, b):
    """PSNR and SSIM of images (H, W, 3), by the protocol's description."""
    a = np.clip(a, 0, 1)
    if name == "uint8":
        a = np.rint(255 * a).astype(np.uint8) / 255
    if name in ("uint8_truncated", "prenet"):
        a = (255 * a).astype(np.uint8) / 255
    if name in ("luminance", "prenet"):
        a, b = (
            (65.481 * x[..., 0] + 128.553 * x[..., 1] + 24.966 * x[..., 2] + 16)[..., None] / 255
            for x in (a, b)
        )
    if name == "luma":
        a, b = ((x @ [0.299, 0.587, 0.114])[..., None] for x in (a, b))
    if name == "border16":
        a, b = a[16:-16, 16:-16], b[16:-16, 16:-16]
    psnr = 10 * math.log10(1 / np.mean((a - b) ** 2))
    return psnr, np.mean([ssim_of(a[..., i], b[..., i]) for i in range(a.shape[2])])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols(rng, name):
    clean = np.round(rng.random((60, 50, 3)) * 255) / 255
    noisy = clean + 0.1 * rng.normal(size=clean.shape)
    a, b = (torch.tensor(x.transpose(2, 0, 1)) for x in (noisy, clean))
    found = protocol(name).score(a, b)
    psnr, ssim = expected(name, noisy, clean)
    assert found["psnr"] == pytest.approx(psnr, abs=1e-6)
    assert found["ssim"] == pytest.approx(ssim, abs=1e-6)
    assert protocol(name).psnr(a, b) == found["psnr"]
    assert protocol(name).score(b, b) == {"psnr": math.inf, "ssim": pytest.approx(1)}
    assert protocol(name).text.startswith(f"{name}: ")


def test_gray_images_are_compared_as_they_are(rng):
    a, b = (torch.tensor(rng.random((1, 20, 20))) for _ in range(2))
    assert protocol("luminance").score(a, b) == protocol("float").score(a, b)


def test_eight_bit_values_survive_truncation():
    levels = torch.arange(256.0).reshape(1, 16, 16) / 255
    assert protocol("uint8_truncated").score(levels, levels)["psnr"] > 140  # float32 at best


def test_refused():
    with pytest.raises(InputError, match="did you mean 'prenet'"):
        protocol("prenett")
    with pytest.raises(InputError, match="removes 16 pixels at each side"):
        protocol("border16").score(torch.zeros(1, 32, 40), torch.zeros(1, 32, 40))
    assert math.isnan(protocol("float").score(torch.zeros(1, 8, 40), torch.ones(1, 8, 40))["ssim"])


@pytest.mark.parametrize(
    ("folder", "names", "count", "psnr", "ssim"),
    [
        ("rain100h/test", "*", 20, 13.536, 0.3872),
        ("rain100l", "*90", 1, 33.76, 0.945),  # this and the next: figure of the paper's preprint
        ("rain100l", "*99", 1, 26.59, 0.930),
    ],
)
def test_rainy_input_of_real_sets(real_data, folder, names, count, psnr, ssim):
    files = sorted((real_data / folder / "rain").glob(f"{names}.png"))
    if len(files) != count:
        pytest.skip(f"{folder} has {len(files)} images, not {count}")
    scores = []
    for file in files:
        rainy, clean = (
            as_tensor(read_image(real_data / folder / kind / file.name).channels_first(3))
            for kind in ("rain", "clean")
        )
        scores.append(protocol("prenet").score(rainy, clean))
    assert np.mean([s["psnr"] for s in scores]) == pytest.approx(psnr, abs=0.015)
    assert np.mean([s["ssim"] for s in scores]) == pytest.approx(ssim, abs=0.001)
