"""The interface of a linear map A between tensors of shape (B, ...)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from bmo_cli.config.optional import Extensible

NOT_DIVIDED = ", so its batches are not divided"


class LinearMap(Extensible, ABC):
    """A, its adjoint, and what solvers need of A^T A.

    A map of one's own may leave out `take` and `shifted_inverse`.
    """

    optional: ClassVar = {
        "take": NOT_DIVIDED,
        "shifted_inverse": ", (I + gamma A^T A)^{-1} in closed form: gkm=prox, dr and dpir need it "
        "(gkm=pg does not), and so do gkm=alm, ladmm and pdhg with hyper=bmo (hyper=unrolled does "
        "not)",
    }

    norm_squared: float | Tensor
    """|A|^2, the largest eigenvalue of A^T A over the whole batch: a number or a scalar tensor."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """A u."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""

    def take(self, problems: Tensor) -> LinearMap:
        """A for some problems of a batch, with the norm of the whole batch.

        Args:
            problems: indices, (n,).

        Raises:
            InputError: the map does not say how it is divided.
        """
        raise NotImplementedError

    def normal(self, u: Tensor) -> Tensor:
        """A^T A u."""
        return self.adjoint(self(u))

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        """The map (I + gamma A^T A)^{-1} for a scalar tensor gamma > -1 / |A|^2.

        Raises:
            InputError: the map has none in closed form.
        """
        raise NotImplementedError
