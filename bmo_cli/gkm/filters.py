"""Classical filters of a blurred image as operators, for baselines.

D(u) = F(y) does not depend on u: one iteration (train.iterations=1, gkm.alpha=null, hyper=none)
gives the output of the filter F, which reads the observation y and the blur of the data term
1/2 |k * u - y|^2 and nothing else. The filters are scikit-image's, channel by channel in float64.

Shape legend: B images, C channels, H x W pixels, h x w kernel.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import restoration

from bmo_cli.config.checks import Count, Index, Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator, least_squares_of
from bmo_cli.linear.blur import PeriodicBlur
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
        kernels = impulse_responses(f.a)
        images = f.y.detach().cpu().double().numpy()
        channels = [
            [self.filtered(channel, kernels[min(i, len(kernels) - 1)]) for channel in image]
            for i, image in enumerate(images)
        ]
        output = torch.from_numpy(np.array(channels)).to(f.y)
        one = torch.ones((), dtype=f.y.dtype, device=f.y.device)
        # 0 u: the derivative that certificates ask for exists, and is 0.
        return BoundOperator(lambda u, k: (output + 0 * u[0],), ScaledIdentity(one))

    def step_share(self, problem: Problem) -> float:
        return 0.0  # there is no step

    @abstractmethod
    def filtered(self, y: Array, kernel: Array) -> Array:
        """F(y) of one channel.

        Args:
            y: (H, W).
            kernel: (h, w), h and w odd, centred.
        """


def impulse_responses(blur: PeriodicBlur) -> list[Array]:
    """The kernel of every image: the smallest window around the centre that holds what it has.

    Returns:
        B arrays (h, w) in float64, h and w odd; values below 1e-5 of the largest are rounding.
    """
    h, w = blur.size
    transfer = blur.transfer.detach().cpu().to(torch.complex128)
    centre = (h // 2, w // 2)
    responses = torch.fft.irfft2(transfer, s=blur.size)[:, 0].roll(centre, (1, 2)).numpy()
    found = []
    for response in responses:
        rows, columns = np.nonzero(np.abs(response) > 1e-5 * np.abs(response).max())
        reach = [
            min(int(np.abs(index - middle).max()), (size - 1) // 2)
            for index, middle, size in zip((rows, columns), centre, (h, w), strict=True)
        ]
        window = [
            slice(middle - r, middle + r + 1) for middle, r in zip(centre, reach, strict=True)
        ]
        found.append(response[window[0], window[1]])
    return found


@checked
class Wiener(Filter):
    """argmin_u |k * u - y|^2 + c |L u|^2 with the Laplacian L (skimage.restoration.wiener).

    (Orieux, Giovannelli & Rodet, J. Opt. Soc. Am. A 2010.)

    Args:
        balance: c; for a prior of fixed variance the best one grows with that of the noise.
    """

    def __init__(self, *, balance: Positive = 0.1) -> None:
        super().__init__()
        self.balance = balance

    def filtered(self, y: Array, kernel: Array) -> Array:
        restored: Array = restoration.wiener(  # type: ignore[no-untyped-call]
            y, kernel, self.balance, clip=False
        )
        return restored


@checked
class UnsupervisedWiener(Filter):
    """The mean of sampled Wiener filters: both weights are drawn from their posterior.

    (skimage.restoration.unsupervised_wiener; Orieux, Giovannelli & Rodet, J. Opt. Soc. Am. A 2010.)

    Args:
        seed: of the sampler.
    """

    def __init__(self, *, seed: Index = 0) -> None:
        super().__init__()
        self.seed = seed

    def filtered(self, y: Array, kernel: Array) -> Array:
        restored: Array = restoration.unsupervised_wiener(  # type: ignore[no-untyped-call]
            y, kernel, clip=False, rng=self.seed
        )[0]
        return restored


@checked
class RichardsonLucy(Filter):
    """Multiplicative updates towards the maximum of a Poisson likelihood, stopped early.

    (skimage.restoration.richardson_lucy; Richardson, J. Opt. Soc. Am. 1972.) It convolves with a
    zero border, so it is given the observation continued periodically, as the model says.

    Args:
        iterations: updates; more sharpen and amplify the noise.
    """

    def __init__(self, *, iterations: Count = 20) -> None:
        super().__init__()
        self.iterations = iterations

    def filtered(self, y: Array, kernel: Array) -> Array:
        # Two kernels wide: the zero border beyond it does not reach the image in a few updates.
        h, w = (2 * side for side in kernel.shape)
        padded = np.pad(y.clip(1e-4, None), ((h, h), (w, w)), mode="wrap")
        restored: Array = restoration.richardson_lucy(  # type: ignore[no-untyped-call]
            padded, kernel, num_iter=self.iterations, clip=False
        )
        return restored[h:-h, w:-w]


@checked
class WienerTV(Wiener):
    """A Wiener filter with little smoothing, then total variation denoising.

    (skimage.restoration.denoise_tv_chambolle; Chambolle, J. Math. Imaging Vision 2004.)

    Args:
        balance: of the Wiener filter.
        weight: of the total variation.
    """

    def __init__(self, *, balance: Positive = 0.02, weight: Positive = 0.03) -> None:
        super().__init__(balance=balance)
        self.weight = weight

    def filtered(self, y: Array, kernel: Array) -> Array:
        first = super().filtered(y, kernel)
        restored: Array = restoration.denoise_tv_chambolle(  # type: ignore[no-untyped-call]
            first, weight=self.weight
        )
        return restored


@checked
class WienerNLM(Wiener):
    """A Wiener filter with little smoothing, then non-local means.

    (skimage.restoration.denoise_nl_means; Buades, Coll & Morel, CVPR 2005.)

    Args:
        balance: of the Wiener filter.
        strength: decay h of the patch weights.
        reach: patches are compared within this distance in pixels.
    """

    def __init__(
        self, *, balance: Positive = 0.02, strength: Positive = 0.03, reach: Count = 10
    ) -> None:
        super().__init__(balance=balance)
        self.strength, self.reach = strength, reach

    def filtered(self, y: Array, kernel: Array) -> Array:
        first = super().filtered(y, kernel)
        restored: Array = restoration.denoise_nl_means(
            first, patch_size=5, patch_distance=self.reach, h=self.strength, fast_mode=True
        )
        return restored
