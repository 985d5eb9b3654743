"""A small residual U-Net for images whose degradation reaches far, such as rain streaks.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, Count, Positive, Repeats, Seed, checked
from bmo_cli.nets.network import Network


@checked
class UNet(Network):
    """x + U(x), U a `MultiScale` network. Nothing is promised about its norm.

    Args:
        channels: of the images, 1 or 3.
        widths: features of each scale, from fine to coarse.
        blocks: residual blocks on each side of a scale.
        last_gain: factor on the last convolution's initial weights. It is small, so that iterations
            start near the identity.
        seed: of the initial weights.
    """

    def __init__(
        self,
        *,
        channels: Channels = 3,
        widths: tuple[Count, Count, Count] = (32, 64, 128),
        blocks: Repeats = 1,
        last_gain: Positive = 0.1,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.body = MultiScale(channels, channels, widths, blocks, last_gain, seed)

    def forward(self, x: Tensor) -> Tensor:
        """The map at x, shape (B, C, H, W) of any H and W."""
        change: Tensor = self.body(x)
        return x + change


@checked
class MapUNet(UNet):
    """A `UNet` for the sparse maps of a dictionary.

    Args:
        channels: number of maps.
        widths, blocks, last_gain, seed: see `UNet`.
    """

    def __init__(
        self,
        *,
        channels: Count = 32,
        widths: tuple[Count, Count, Count] = (32, 48, 64),
        blocks: Repeats = 1,
        last_gain: Positive = 0.1,
        seed: Seed = 0,
    ) -> None:
        Network.__init__(self)
        self.channels = channels
        self.body = MultiScale(channels, channels, widths, blocks, last_gain, seed)


class MultiScale(nn.Module):
    """U, residual blocks on several scales, for images of any size.

    The first scale works at half the resolution (pixel unshuffling). 2 x 2 convolutions of stride 2
    and their transposes connect the scales. Skip connections add the features of a scale on the way
    down to those on the way up. A block is z + conv(ReLU(conv(z))) with 3 x 3 convolutions.
    (Ronneberger, Fischer & Brox, MICCAI 2015, with the additive skips of DRUNet: Zhang et al., IEEE
    TPAMI 2021.)

    Args:
        inputs: channels of the argument.
        outputs: channels of the value.
        widths, blocks, last_gain, seed: see `UNet`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        blocks: int,
        last_gain: float,
        seed: int,
    ) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.head = _conv(4 * inputs, widths[0])
        self.down = nn.ModuleList(_blocks(n, blocks) for n in widths)
        self.up = nn.ModuleList(_blocks(n, blocks) for n in widths[:-1])
        self.coarser = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.finer = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.tail = _conv(widths[0], 4 * outputs)
        self._initialise(seed, last_gain)

    def forward(self, x: Tensor) -> Tensor:
        """(B, `inputs`, H, W) -> (B, `outputs`, H, W)."""
        height, width = x.shape[2:]
        step = 2 ** len(self.down)
        z = F.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        z = self.head(F.pixel_unshuffle(z, 2).contiguous(memory_format=torch.channels_last))
        skips = []
        for blocks, coarser in zip(self.down, [*self.coarser, None], strict=True):
            z = blocks(z)
            if coarser is not None:
                skips.append(z)
                z = coarser(z)
        for blocks, finer in zip(reversed(self.up), reversed(self.finer), strict=True):
            z = blocks(finer(z) + skips.pop())
        change = F.pixel_shuffle(self.tail(z), 2)
        return change[..., :height, :width]

    @torch.no_grad()
    def _initialise(self, seed: int, last_gain: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                # A pixel uses one tap of the 2 x 2 filters of a transpose, all taps of the others.
                taps = 1 if isinstance(conv, nn.ConvTranspose2d) else conv.kernel_size[0] ** 2
                fan_in = conv.in_channels * taps
                conv.weight.normal_(0, fan_in**-0.5, generator=generator)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
        for block in self.modules():
            if isinstance(block, _Residual):
                block.second.weight *= 0.1  # a chain of blocks starts near the identity
        self.tail.weight *= last_gain


class _Residual(nn.Module):
    """z + conv(ReLU(conv(z))), shape (B, n, H, W)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second = _conv(n, n), _conv(n, n)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = z + self.second(F.relu(self.first(z), inplace=True))
        return out


def _blocks(n: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(n) for _ in range(count)))


def _conv(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1)
