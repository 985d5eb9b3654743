"""Two separate stages: fit the network as a denoiser, then run the scheme with it frozen."""

from __future__ import annotations

from torch import Tensor

from bmo_cli.config.checks import Positive, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.scheme import GKM
from bmo_cli.hyper.base import HyperOptimizer, Outcome
from bmo_cli.nets.network import Network
from bmo_cli.solver.fixed_point import Status
from bmo_cli.solver.problem import Sample, SquaredError


@checked
class Separate(HyperOptimizer):
    """Plug-and-play: training minimises 1/2 |R(x + sigma n) - x|^2 and unrolls no scheme.

    Numerical hyper-parameters keep their initial values.

    Args:
        sigma: noise of the denoiser in grey levels of 255; None: sqrt(gamma) times the noise of
            the observation. With the posterior |A u - y|^2 / (2 noise^2) + r(u), the step of
            length gamma on f is followed by prox of gamma noise^2 r: a denoiser of that variance.
    """

    minimises_phi = False

    def __init__(self, *, sigma: Positive | None = None) -> None:
        self.sigma = sigma

    def objective(self, scheme: GKM, sample: Sample, iterations: int) -> Outcome:
        network = self._network(scheme)
        if not isinstance(sample.loss, SquaredError) or sample.loss.a is not None:
            raise InputError(
                "hyper=separate fits a denoiser by squared errors to a clean target, which this "
                "task does not give; try another task, or task.loss=squared where it has the choice"
            )
        clean = sample.loss.target
        noisy = clean + self._level(scheme, sample) * sample.normal(clean)
        value = sample.loss.value((scheme.bind_network(network)(noisy),))
        return Outcome(value.mean() / sample.loss.size, float("nan"), Status.ITERATIONS)

    def differentiated_iterations(self, iterations: int) -> int:
        return 1

    def check(self, scheme: GKM) -> tuple[str, ...]:
        self._network(scheme)
        return ()

    @staticmethod
    def _network(scheme: GKM) -> Network:
        if scheme.net is None or not any(True for _ in scheme.net.parameters()):
            raise InputError("hyper=separate fits a network, but net=none has nothing to fit")
        if scheme.net.guided:
            raise InputError(
                "hyper=separate fits a denoiser on noise alone, and a guided network (net=guided; "
                f"here {type(scheme.net).__name__}) looks at the observation, too; use net=lip"
            )
        if scheme.operator.maps is not None:
            raise InputError(
                "hyper=separate fits denoisers of images, and gkm=rain_dictionary has maps for the "
                "rain; use another hyper, or gkm=pg"
            )
        if len(scheme.stages) > 1:
            raise InputError(
                f"hyper=separate fits one denoiser, but gkm.stages={len(scheme.stages)}; use "
                "gkm.stages=1"
            )
        return scheme.net

    def _level(self, scheme: GKM, sample: Sample) -> Tensor | float:
        if self.sigma is not None:
            return self.sigma / 255
        if sample.problem.noise is None:
            raise InputError(
                "hyper.sigma=null needs a task with known noise; give hyper.sigma in grey levels"
            )
        if not scheme.operator.keeps_nonexpansive:
            raise InputError(
                f"hyper.sigma=null takes the step from the metric I/gamma, which "
                f"{type(scheme.operator).__name__} does not have; give hyper.sigma in grey levels"
            )
        metric = scheme.bind(sample.problem).metric
        noise = sample.problem.noise[:, None, None, None]
        return noise / metric.smallest_eigenvalues.detach().sqrt()
