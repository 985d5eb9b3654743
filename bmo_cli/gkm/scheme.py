"""GKM, generalised Krasnoselskii-Mann: operators and networks as one averaged fixed-point map.

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
    """prox_g followed by a network on the first block: what a learned regulariser puts there."""

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
            execution: of the network's layers.

        Raises:
            InputError: the operator does not apply to this kind of problem, or a network not to its
                iterate.
        """
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
    """The scheme; its parameters, and those of its parts, are omega.

    A scheme is in evaluation mode but in training steps, see `nets.mode`.

    Args:
        operator: D_num.
        net: D_net, see `Stage`; None: numerical operator alone.
        layers: images that the unknown of the task is stacked from along the channels; each has a
            network of its own: `net` is a `Layers` then, or becomes one of two copies.
        alpha: averaging, in (0, 1). None: T = D, the undamped textbook form, for a D that is
            averaged by construction or about which nothing is promised.
        stages: 1: weights tied across iterations. n > 1: iteration k uses the k-th of n sets of
            weights, which start equal, and iterations beyond the n-th use the last.

    Attributes:
        behaviour: what D does in training mode beside computing a map, as far as it was observed.

    Raises:
        InputError: a combination that the theory excludes.
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
            net = Layers(background=net)
        if layers == 1 and isinstance(net, Layers):
            raise InputError(
                "net=layers is for an unknown of two layers (task=derain), and this task's has one"
            )
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
        self.eval()  # training steps alone compute in training mode

    @property
    def operator(self) -> NumericalOperator:
        """D_num of the last stage: the one that iterates on."""
        return cast(Stage, self.stages[-1]).operator

    @property
    def net(self) -> Network | None:
        """D_net of the last stage; None: there is no network."""
        return cast(Stage, self.stages[-1]).net

    @property
    def title(self) -> str:
        """The classes that D is made of."""
        operator = type(self.operator).__name__
        return operator if self.net is None else f"{operator} with {type(self.net).__name__}"

    @property
    def stationary(self) -> bool:
        """Whether every iteration applies the same map."""
        return len(self.stages) == 1 and self.operator.stationary

    @property
    def expansive_because(self) -> str | None:
        """Why D need not be nonexpansive in its metric; None: it is, by construction."""
        operator, net = self.operator, self.net
        if len(self.stages) > 1:
            return f"gkm.stages={len(self.stages)} iterates several maps"
        if not operator.nonexpansive:
            return f"{type(operator).__name__} promises nothing"
        if net is None or (net.nonexpansive and operator.keeps_nonexpansive):
            return None
        if not net.nonexpansive:
            return f"{type(net).__name__} is unconstrained"
        return (
            f"{type(operator).__name__} with {type(net).__name__} in the place of prox_g need not "
            "be nonexpansive, though each of them is"
        )

    @property
    def nonexpansive(self) -> bool:
        """Whether D is nonexpansive by construction."""
        return self.expansive_because is None

    def bind(self, problem: Problem) -> FixedPointMap:
        """T at one problem and the present omega, with everything that is constant computed.

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
        """Refuse a D(u) that arithmetic with u would broadcast."""
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
        """This scheme with other settings of its computation; the scheme itself does not change.

        The view that is returned has the same parameters, buffers and modules. Whoever binds it,
        such as a hyper-optimiser in `objective`, gets maps with these settings.

        Args:
            execution: of the networks' layers; None: as before. Iterates, numerical steps and
                weights stay as they are.
            cost: counts the evaluations of D and their vector-Jacobian products; None: as before.
                A new scheme counts nothing.
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
