"""The generalised Krasnoselskii-Mann (GKM) scheme: operators and networks as one averaged map.

The theory is in docs/method.md, "The GKM iteration".

D = D_net o D_num (or D_net inside D_num, where prox_g is),     T = (1 - alpha) I + alpha D
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal, cast

from torch import Tensor, nn

from bmo_cli.config.checks import OpenUnit, Repeats, checked
from bmo_cli.errors import InputError
from bmo_cli.gkm.operator import BoundOperator, NumericalOperator
from bmo_cli.nets.execution import AS_WRITTEN, Execution
from bmo_cli.nets.layers import Layers
from bmo_cli.nets.mode import Behaviour
from bmo_cli.nets.network import Identity, Network
from bmo_cli.solver.cost import Cost
from bmo_cli.solver.fixed_point import FixedPointMap
from bmo_cli.solver.functions import Proximable, Zero
from bmo_cli.solver.problem import Problem
from bmo_cli.solver.state import State


class _Learned(Proximable):
    """prox_g followed by a network, in the place of prox_g. D_num passes what the network maps."""

    def __init__(self, g: Proximable, network: Callable[[Tensor], Tensor]) -> None:
        self.g, self.network = g, network

    def prox(self, u: State, gamma: Tensor) -> State:
        first, *others = self.g.prox(u, gamma)
        return (self.network(first), *others)


class Stage(nn.Module):
    """D with one set of weights.

    Args:
        operator: D_num.
        net: D_net on the first block, after prox_g inside the operator or after the operator (see
            `NumericalOperator.uses_g`); None: the numerical operator alone.
    """

    def __init__(self, operator: NumericalOperator, net: Network | None) -> None:
        super().__init__()
        self.operator, self.net = operator, net

    def bind(self, problem: Problem, execution: Execution = AS_WRITTEN) -> BoundOperator:
        """D at one problem and the present weights.

        Args:
            problem: to be solved.
            execution: how the layers of the network are computed.

        Raises:
            InputError: the operator does not apply to this kind of problem, or the network does not
                apply to the operator's iterate.
        """
        if self.operator.own_g and not isinstance(problem.g, Zero):
            raise InputError(
                f"{type(self.operator).__name__} has a g of its own in the place of "
                f"{type(problem.g).__name__}; use task.rain_weight=0, or gkm=pg"
            )
        if not self.operator.uses_g and not isinstance(problem.g, Zero):
            raise InputError(
                f"{type(self.operator).__name__} does not see the g of this problem, "
                f"{type(problem.g).__name__}; use gkm=pg or gkm=dr"
            )
        if self.net is None:
            return self.operator.bind(problem)
        network = execution.bind(self.net, self._guide(problem) if self.net.guided else None)
        if self.operator.uses_g:
            return self.operator.bind(replace(problem, g=_Learned(problem.g, network)))
        bound = self.operator.bind(problem)
        if bound.readout is not None:
            raise InputError(
                f"a network after {type(self.operator).__name__} would be applied to its iterate, "
                "which is not the estimate of u; use net=none, or an operator that applies prox_g "
                "(gkm=pg, gkm=dr), in whose place the network then is"
            )

        def apply_both(u: State, k: int) -> State:
            first, *others = bound.apply(u, k)
            return (network(first), *others)

        return BoundOperator(apply_both, bound.metric, bound.lift, bound.readout)

    def _guide(self, problem: Problem) -> Tensor:
        with suppress(NotImplementedError):
            if problem.guide is not None:
                return problem.guide()
        raise InputError(
            f"a guided network (net=guided; here {type(self.net).__name__}) adapts to a first "
            "estimate of the image, which this task does not give; use net=lip"
        )


@checked
class GKM(nn.Module):
    """The scheme T. Its parameters, and those of its parts, are omega.

    A scheme is in evaluation mode except in training steps, see `nets.mode`.

    Args:
        operator: D_num.
        net: D_net, see `Stage`; None: numerical operator alone.
        layers: number of images that are stacked along the channels of the unknown. Each of two
            has a network of its own: `net` is a `Layers`, or is copied into one. Where the operator
            writes the second layer as sparse maps, `net` is for the first alone.
        alpha: averaging, in (0, 1). None: T = D, the undamped textbook form, for a D that is
            averaged by construction or promises nothing.
        stages: 1: weights tied across iterations. n > 1: iteration k uses the k-th of n sets of
            weights, which start equal, and iterations beyond the n-th use the last.

    Attributes:
        behaviour: what D computes in training mode besides a map, as far as it was observed.

    Raises:
        InputError: the theory excludes this combination.
    """

    def __init__(
        self,
        *,
        operator: NumericalOperator,
        net: Network | None = None,
        layers: Literal[1, 2] = 1,
        alpha: OpenUnit | None = 0.9,
        stages: Repeats = 1,
    ) -> None:
        super().__init__()
        if layers > 1 and net is not None and not isinstance(net, Layers):
            maps = operator.maps
            net = Layers(background=net, rain=None if maps is None else Identity(channels=maps))
        if layers == 1 and isinstance(net, Layers):
            raise InputError(
                "net=layers is for an unknown of two layers (task=derain), and this task's has one"
            )
        if isinstance(net, Layers):
            _refuse_other_maps(operator, net)
        if type(net) is Identity or (isinstance(net, Layers) and net.is_identity):
            net = None
        if net is not None:
            _refuse_lazy_layers(net)
        if net is not None and net.nonexpansive:
            _refuse_batch_norm(net)
        first = Stage(operator, net)
        self.stages = nn.ModuleList([first, *(copy.deepcopy(first) for _ in range(stages - 1))])
        self.behaviour = Behaviour()
        self._execution = AS_WRITTEN
        self._cost: Cost | None = None
        self.alpha = 1.0 if alpha is None else alpha
        averaged = operator.averaged and (net is None or net.averaged)
        undamped = averaged or (net is None and operator.converges_undamped)
        if alpha is None and self.nonexpansive and not undamped:
            raise InputError(
                "gkm.alpha=null needs a D that is averaged by construction; "
                f"{type(operator).__name__} with {type(net).__name__} is nonexpansive only, and "
                "undamped iterations may circle: use gkm.alpha in (0, 1)"
            )
        self.eval()  # only training steps use training mode

    @property
    def operator(self) -> NumericalOperator:
        """D_num of the last stage, which all later iterations use."""
        return cast(Stage, self.stages[-1]).operator

    @property
    def net(self) -> Network | None:
        """D_net of the last stage; None: there is no network."""
        return cast(Stage, self.stages[-1]).net

    @property
    def title(self) -> str:
        """The names of the classes of D."""
        operator = type(self.operator).__name__
        return operator if self.net is None else f"{operator} with {type(self.net).__name__}"

    @property
    def stationary(self) -> bool:
        """Whether every iteration applies the same map."""
        return len(self.stages) == 1 and self.operator.stationary

    @property
    def expansive_because(self) -> str | None:
        """Why D may be expansive in its metric; None: it is nonexpansive by construction."""
        operator, net = self.operator, self.net
        if len(self.stages) > 1:
            return f"gkm.stages={len(self.stages)} iterates several maps"
        if not operator.nonexpansive:
            return f"{type(operator).__name__} promises nothing"
        if net is None or (net.nonexpansive and operator.keeps_nonexpansive):
            return None
        if not net.nonexpansive:
            constrained = net.guarantee != Network.guarantee
            what = "need not be nonexpansive" if constrained else "is unconstrained"
            return f"{type(net).__name__} {what}"
        where = "in the place of prox_g" if operator.uses_g else "after it"
        return (
            f"{type(operator).__name__} with {type(net).__name__} {where} need not "
            "be nonexpansive, though each of them is"
        )

    @property
    def nonexpansive(self) -> bool:
        """Whether D is nonexpansive by construction."""
        return self.expansive_because is None

    def bind(self, problem: Problem) -> FixedPointMap:
        """T at one problem and the present omega, with everything constant computed once.

        The metric, the lift and the readout are those of the last stage.
        """
        bound = [cast(Stage, stage).bind(problem, self._execution) for stage in self.stages]
        cost = self._cost

        def apply(u: State, k: int) -> State:
            Du = bound[min(k, len(bound) - 1)].apply(u, k)
            self._require_alike(u, Du)
            return Du if cost is None else cost.count(Du)

        last = bound[-1]
        return FixedPointMap(apply, last.metric, self.alpha, last.lift, last.readout)

    def _require_alike(self, u: State, Du: State) -> None:
        """Refuse a D(u) of other shapes than u, which arithmetic would broadcast."""
        shapes, returned = ([tuple(block.shape) for block in state] for state in (u, Du))
        if shapes != returned:
            raise InputError(
                f"{type(self.operator).__name__} returned blocks of shapes {returned} for an "
                f"iterate of shapes {shapes}; expected the same"
            )

    def bind_network(self, net: Network) -> Callable[[Tensor], Tensor]:
        """The map of a network, computed as `using` asks for it."""
        return self._execution.bind(net)

    def using(self, *, execution: Execution | None = None, cost: Cost | None = None) -> GKM:
        """A view of this scheme with other settings of its computation.

        The view has the same parameters, buffers and modules, and the scheme itself does not
        change. The maps that a hyper-optimiser binds from the view have these settings.

        Args:
            execution: how the layers of networks are computed; None: as in this scheme. Iterates,
                numerical steps and weights do not change.
            cost: counter of the evaluations of D and of their vector-Jacobian products; None: that
                of this scheme. A new scheme has no counter.
        """
        view = copy.copy(self)
        view._execution = self._execution if execution is None else execution
        view._cost = self._cost if cost is None else cost
        return view

    def project_(self) -> None:
        """Proj_Omega: bring parameters back into their set after an optimiser's step."""
        for stage in self.stages:
            net = cast(Stage, stage).net
            if net is not None:
                net.project_()


def _refuse_lazy_layers(net: Network) -> None:
    for name, tensor in net.named_parameters():
        if isinstance(tensor, nn.UninitializedParameter):
            raise InputError(
                f"{type(net).__name__} has a layer without a size ({name}), which no optimiser and "
                "no checkpoint can take: use nn.Conv2d for nn.LazyConv2d, say"
            )


def _refuse_batch_norm(net: Network) -> None:
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"{type(net).__name__} declares itself nonexpansive but has batch norm ({name}), "
                "whose scale depends on the data: drop it, or declare nonexpansive = False"
            )


def _refuse_other_maps(operator: NumericalOperator, net: Layers) -> None:
    background, rain = (part.channels for part in net.networks)
    if operator.maps is None and rain != background:
        raise InputError(
            f"the networks of net=layers have {background} and {rain} channels; "
            f"{type(operator).__name__} needs the same for both layers"
        )
    if operator.maps is not None and rain != operator.maps:
        raise InputError(
            f"{type(operator).__name__} writes the layer of rain as {operator.maps} maps "
            f"(gkm.operator.kernels), and the network for it has {rain} channels; use "
            "net=dictionary_layers, or a network for the background alone (net=unet)"
        )
