"""A network of one's own: a learned average of neighbouring pixels, nonexpansive always."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmo_cli.config.checks import Channels, OpenUnit, checked
from bmo_cli.nets.network import Network, NormBound


@checked
class Smoothing(Network):
    """(1 - share) x + share k * x; k is 3 x 3, positive, and sums to 1, so that |k * x| <= |x|.

    Args:
        channels: of the images, 1 or 3.
        share: of the smoothed image, in (0, 1).
    """

    nonexpansive = True
    averaged = True
    guarantee = "averaged for all weights: the kernel is positive and sums to 1"

    def __init__(self, *, channels: Channels = 1, share: OpenUnit = 0.1) -> None:
        super().__init__()
        self.channels, self.share = channels, share
        self.theta = nn.Parameter(torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.theta.softmax(0).reshape(1, 1, 3, 3).expand(self.channels, 1, 3, 3)
        around = F.pad(x, (1, 1, 1, 1), mode="circular")
        return (1 - self.share) * x + self.share * F.conv2d(around, kernel, groups=self.channels)

    def bound(self) -> NormBound:
        return NormBound(1.0, (), "the kernel is positive and sums to 1, and borders are periodic")
