"""The interface of a linear map A between tensors of shape (B, ...)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from bmo_cli.config.optional import Extensible

NOT_DIVIDED = ", so its batches are not divided"


def in_double(x: Tensor) -> Tensor:
    """x in float64 with its graph; x itself on a device without float64 (MPS)."""
    return x if x.device.type == "mps" else x.double()


class LinearMap(Extensible, ABC):
    """A, its adjoint, and the functions of A^T A that solvers need.

    A user-defined map may omit `select` and `shifted_inverse`.
    """

    optional: ClassVar = {
        "select": NOT_DIVIDED,
        "shifted_inverse": ", (I + gamma A^T A)^{-1} in closed form: gkm=prox, dr and dpir need it "
        "(gkm=pg does not), and so do gkm=alm, ladmm and pdhg with hyper=bmo (hyper=unrolled does "
        "not)",
    }

    norm_squared: float | Tensor
    """|A|^2, the largest eigenvalue of A^T A over the whole batch: a number or a scalar tensor."""

    def computed_norm_squared(self) -> float | None:
        """|A|^2 in float64 from the data that define A, computed independently of `norm_squared`.

        Returns:
            None: the map only states its norm, which certificates do not count as proved.
        """
        return None

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """A u."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""

    def select(self, problems: Tensor) -> LinearMap:
        """A for some problems of a batch, with the norm of the whole batch.

        Args:
            problems: indices, (n,).

        Raises:
            InputError: the map does not say how its batch is divided.
        """
        raise NotImplementedError

    def normal(self, u: Tensor) -> Tensor:
        """A^T A u."""
        return self.adjoint(self(u))

    def shifted_inverse(self, gamma: Tensor) -> Callable[[Tensor], Tensor]:
        """The map (I + gamma A^T A)^{-1} for a scalar tensor gamma > -1 / |A|^2.

        Raises:
            InputError: the map has no such inverse in closed form.
        """
        raise NotImplementedError
