"""DRUNet: the U-Net denoiser of DPIR, with the noise level as an input.

Zhang et al., "Plug-and-play image restoration with deep denoiser prior", IEEE TPAMI 2021
(github.com/cszn/DPIR, models/network_unet.py, UNetRes).
Shape legend: B images, C channels, H x W pixels, n features of a scale.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Repeats, Seed, checked
from bmo_cli.nets.network import Network
from bmo_cli.nets.weights import copy_weights, read_weights


@checked
class DRUNet(Network):
    """U-Net of an image and a constant map of its noise level. Nothing is promised about its norm.

    2 x 2 convolutions of stride 2 (down) and their transposes (up) connect four scales. Residual
    blocks are x + conv(ReLU(conv(x))) with 3 x 3 convolutions. Skip connections add the features of
    a scale on the way down to those on the way up. There is no bias, and padding is zero. The
    output is the image itself, not its noise. With initial weights it is near zero, so train the
    network or load weights before other parts rely on it. The default size has 32.6 million weights
    for gray images.

    Args:
        channels: of the images, 1 or 3.
        sigma: noise level in grey levels of 255, stored as its logarithm.
        learn_sigma: whether training changes it.
        widths: features of each scale, from fine to coarse.
        blocks: residual blocks on each side of a scale.
        weights: file of trained weights (DPIR's drunet_gray.pth, drunet_color.pth or one's own), or
            None for initial ones. If the file has no `log_sigma`, as DPIR's, sigma is kept.
        seed: of the initial weights.
    """

    def __init__(
        self,
        *,
        channels: Channels = 1,
        sigma: Positive = 10.0,
        learn_sigma: bool = True,
        widths: tuple[Count, Count, Count, Count] = (64, 128, 256, 512),
        blocks: Repeats = 4,
        weights: str | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)), requires_grad=learn_sigma)
        # The names of the published files.
        self.m_head = _conv(channels + 1, widths[0])
        for i, (fine, coarse) in enumerate(itertools.pairwise(widths), 1):
            down = nn.Conv2d(fine, coarse, 2, stride=2, bias=False)
            up = nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False)
            self.add_module(f"m_down{i}", nn.Sequential(*_residuals(fine, blocks), down))
            self.add_module(f"m_up{i}", nn.Sequential(up, *_residuals(fine, blocks)))
        self.m_body = nn.Sequential(*_residuals(widths[-1], blocks))
        self.m_tail = _conv(widths[0], channels)
        if weights is None:
            self._initialise(seed)
        else:
            copy_weights(self, read_weights(weights), weights, own=("log_sigma",))

    def forward(self, x: Tensor) -> Tensor:
        """Denoise x, shape (B, C, H, W) of any H and W."""
        height, width = x.shape[2:]
        level = (self.log_sigma.exp() / 255).to(x.dtype).expand(len(x), 1, height, width)
        z = torch.cat([x, level], 1)
        # Three halvings need multiples of 8.
        z = self.m_head(F.pad(z, (0, -width % 8, 0, -height % 8), mode="replicate"))
        skips = [z]
        for i in (1, 2, 3):
            z = self.get_submodule(f"m_down{i}")(z)
            skips.append(z)
        z = self.m_body(z)
        for i in (3, 2, 1):
            z = self.get_submodule(f"m_up{i}")(z + skips[i])
        out: Tensor = self.m_tail(z + skips[0])
        return out[:, :, :height, :width]

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Normal with standard deviation 0.2 / sqrt(fan-in).

        This is the variance of DPIR's orthogonal weights of gain 0.2, without a QR factorisation. A
        residual block is then near the identity, so that a chain of 28 does not amplify.
        """
        generator = torch.Generator().manual_seed(seed)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                fan_in = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
            elif isinstance(conv, nn.ConvTranspose2d):
                fan_in = (
                    conv.in_channels
                )  # at stride 2 a pixel depends on one tap of a 2 x 2 filter
            else:
                continue
            conv.weight.normal_(0, 0.2 / math.sqrt(fan_in), generator=generator)


class _Residual(nn.Module):
    """x + conv(ReLU(conv(x))), shape (B, n, H, W)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.res = nn.Sequential(_conv(n, n), nn.ReLU(inplace=True), _conv(n, n))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.res(x)
        return out


def _residuals(n: int, count: int) -> list[_Residual]:
    return [_Residual(n) for _ in range(count)]


def _conv(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
