"""Classical filters of a blurred image as operators, for baselines.

D(u) = F(y) does not depend on u. One iteration (train.iterations=1, gkm.alpha=null, hyper=none)
therefore gives the output of the filter F. It uses only the observation y and the blur of the data
term 1/2 |k * u - y|^2. Every filter works on each channel in float64, with the periodic blur of the
data term: it neither cuts kernels nor extrapolates borders.

Shape legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import restoration
from torch import Tensor

from bmo_cli.config.checks import Count, Index, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator, least_squares_of
from bmo_cli.linear.blur import PeriodicBlur
from bmo_cli.linear.fourier import multiply_spectrum
from bmo_cli.linear.gradient import laplacian_symbol
from bmo_cli.solver.metric import ScaledIdentity
from bmo_cli.solver.problem import Problem

Array = NDArray[Any]


class Filter(NumericalOperator):
    """D(u) = F(y), a constant map: nonexpansive with constant 0 in every metric."""

    condition = "none: D is constant"
    nonexpansive = True
    averaged = True
    keeps_nonexpansive = True

    def bind(self, problem: Problem) -> BoundOperator:
        f = least_squares_of(problem, self)
        if not isinstance(f.a, PeriodicBlur):
            raise InputError(
                f"{type(self).__name__} filters blurred images, and the data term of this task has "
                "no blur; use task=deconv"
            )
        transfer = f.a.transfer.detach().cpu().to(torch.complex128)
        y = f.y.detach().cpu().double()
        output = self.restore(y, PeriodicBlur(transfer, f.a.size)).to(f.y)
        unit = torch.ones((), dtype=f.y.dtype, device=f.y.device)
        # The term 0 u gives D a derivative, which is 0. Certificates need one.
        return BoundOperator(lambda u, k: (output + 0 * u[0],), ScaledIdentity(unit))

    def step_share(self, problem: Problem) -> float:
        return 0.0  # there is no step

    @abstractmethod
    def restore(self, y: Tensor, blur: PeriodicBlur) -> Tensor:
        """F(y), (B, C, H, W).

        Args:
            y: (B, C, H, W), float64, on the CPU.
            blur: blur of the batch, in double precision.
        """


@checked
class Wiener(Filter):
    """argmin_u |k * u - y|^2 + c |L u|^2 with the discrete Laplacian L, in closed form.

    Equal to skimage.restoration.wiener, which takes no transfer function. (Hunt, IEEE Trans.
    Computers 1973; Orieux, Giovannelli & Rodet, J. Opt. Soc. Am. A 2010.)

    Args:
        balance: c. For a prior of fixed variance, the best c grows with the variance of the noise.
    """

    def __init__(self, *, balance: Positive = 0.1) -> None:
        super().__init__()
        self.balance = balance

    def restore(self, y: Tensor, blur: PeriodicBlur) -> Tensor:
        roughness = laplacian_symbol(blur.size).square()
        return multiply_spectrum(y, blur.transfer.conj() / (blur.power + self.balance * roughness))


@checked
class UnsupervisedWiener(Filter):
    """The mean of sampled Wiener filters: both weights are drawn from their posterior.

    (skimage.restoration.unsupervised_wiener; Orieux, Giovannelli & Rodet, J. Opt. Soc. Am. A 2010.)

    Args:
        seed: seed of the sampler.
    """

    def __init__(self, *, seed: Index = 0) -> None:
        super().__init__()
        self.seed = seed

    def restore(self, y: Tensor, blur: PeriodicBlur) -> Tensor:
        """See `Filter.restore`.

        Raises:
            InputError: images have fewer than 3 x 3 pixels, so that the Laplacian does not fit.
        """
        if min(blur.size) < 3:
            height, width = blur.size
            raise InputError(
                f"UnsupervisedWiener needs images of at least 3 x 3 pixels, got {height} x {width}"
                "; use gkm=wiener"
            )
        # scikit-image centres kernels at (h // 2, w // 2); it does not cut one of the image's size.
        centre = [side // 2 for side in blur.size]
        kernels = torch.fft.irfft2(blur.transfer, s=blur.size).roll(centre, (2, 3))
        kernels = kernels.expand(len(y), -1, -1, -1)[:, 0]

        def sample(channel: Array, i: int) -> Array:
            restored: Array = restoration.unsupervised_wiener(  # type: ignore[no-untyped-call]
                channel, kernels[i].numpy(), clip=False, rng=self.seed
            )[0]
            return restored

        return each_channel(sample, y)


@checked
class RichardsonLucy(Filter):
    """Updates u <- u K^T(y / K u) from u = 1/2, K the periodic blur; for Poisson noise.

    Negative values of the observation count as 0. Every update keeps the flux: sum u = sum y.
    (Richardson, J. Opt. Soc. Am. 1972; Lucy, Astron. J. 1974.)

    Args:
        iterations: number of updates. More updates sharpen the image and amplify the noise.
    """

    def __init__(self, *, iterations: Count = 20) -> None:
        super().__init__()
        self.iterations = iterations

    def restore(self, y: Tensor, blur: PeriodicBlur) -> Tensor:
        y = y.clamp_min(0)
        u = torch.full_like(y, 0.5)
        kind = torch.finfo(y.dtype)
        for _ in range(self.iterations):
            blurred = blur(u)
            # Where K u is only rounding error, u is 0, and so is the update.
            rounding = 10 * kind.eps * blurred.amax((-2, -1), keepdim=True)
            ratio = y / blurred.clamp_min(rounding.clamp_min(kind.tiny))
            u = u * blur.adjoint(ratio).clamp_min(0)
        return u


@checked
class WienerTV(Wiener):
    """A Wiener filter with little smoothing, then total variation denoising.

    (skimage.restoration.denoise_tv_chambolle; Chambolle, J. Math. Imaging Vision 2004.)

    Args:
        balance: c of the Wiener filter.
        weight: weight of the total variation.
    """

    def __init__(self, *, balance: Positive = 0.02, weight: Positive = 0.03) -> None:
        super().__init__(balance=balance)
        self.weight = weight

    def restore(self, y: Tensor, blur: PeriodicBlur) -> Tensor:
        def denoise(channel: Array, _: int) -> Array:
            restored: Array = restoration.denoise_tv_chambolle(  # type: ignore[no-untyped-call]
                channel, weight=self.weight
            )
            return restored

        return each_channel(denoise, super().restore(y, blur))


@checked
class WienerNLM(Wiener):
    """A Wiener filter with little smoothing, then non-local means.

    (skimage.restoration.denoise_nl_means; Buades, Coll & Morel, CVPR 2005.)

    Args:
        balance: c of the Wiener filter.
        strength: decay h of the patch weights.
        reach: patches are compared within this distance in pixels.
    """

    def __init__(
        self, *, balance: Positive = 0.02, strength: Positive = 0.03, reach: Count = 10
    ) -> None:
        super().__init__(balance=balance)
        self.strength, self.reach = strength, reach

    def restore(self, y: Tensor, blur: PeriodicBlur) -> Tensor:
        def denoise(channel: Array, _: int) -> Array:
            restored: Array = restoration.denoise_nl_means(
                channel, patch_size=5, patch_distance=self.reach, h=self.strength, fast_mode=True
            )
            return restored

        return each_channel(denoise, super().restore(y, blur))


def each_channel(function: Callable[[Array, int], Array], images: Tensor) -> Tensor:
    """function((H, W), number of the image) for every channel of (B, C, H, W)."""
    channels = [[function(c, i) for c in image] for i, image in enumerate(images.numpy())]
    return torch.from_numpy(np.array(channels))
