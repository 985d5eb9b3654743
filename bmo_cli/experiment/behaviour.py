"""Detect whether a scheme uses random numbers, memory or batch statistics.

In evaluation mode D must be a map, which gives the same value at every call. In training mode it
need not be one. Code that repeats iterations or divides batches has to know that.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

import torch
from torch import Tensor

from bmo_cli.data.splits import Split
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Experiment
from bmo_cli.gkm.scheme import GKM
from bmo_cli.nets.execution import Execution
from bmo_cli.nets.mode import Behaviour, generator_states, preserved_state, training_mode
from bmo_cli.solver.functions import LeastSquares
from bmo_cli.solver.problem import Problem, Sample
from bmo_cli.solver.state import State

_ROUNDING = 1e-6  # of D, relative to its largest entry
_ORDER = 1e-4  # the same between batches of different size, whose sums have another order


def require_map(scheme: GKM, problem: Problem, initial: State) -> State:
    """Compute D(u^0) in evaluation mode twice, and return it.

    Raises:
        InputError: an operator or a network does not fit the problem, changes shape, type or
            device, is not finite, or differs between both calls.
    """
    with torch.no_grad():
        strict = scheme.using(execution=Execution(finite=True))
        first, second, drawn = _evaluate_twice(strict, problem, initial)
        differs = _differ(first, second, _ROUNDING)
        if drawn and not differs:  # a layer that starts at zero would hide a difference
            with preserved_state(scheme, initial[0].device):
                _perturb_weights(scheme)
                differs = _differ(*_evaluate_twice(scheme, problem, initial)[:2], _ROUNDING)
    if differs:
        raise InputError(
            f"{scheme.title} is no map in evaluation mode: called again with the same "
            "image, it returns another one. It draws random numbers or counts its calls; let that "
            "depend on self.training (F.dropout(x, p, self.training))"
        )
    return first


def _evaluate_twice(scheme: GKM, problem: Problem, initial: State) -> tuple[State, State, bool]:
    """D(u^0), D(u^0) once more, and whether random numbers were drawn.

    A guided network draws its random numbers when it is bound.
    """
    device, guided = initial[0].device, scheme.net is not None and scheme.net.guided
    states = generator_states(device)
    mapping = scheme.bind(problem)
    if not guided:
        states = generator_states(device)
    u = mapping.lift(initial)
    _require_shapes(problem, initial[0])
    first = mapping.D(u, 0)
    second = (scheme.bind(problem) if guided else mapping).D(u, 0)
    return first, second, generator_states(device) != states


def require_map_on_split(experiment: Experiment, split: Split) -> None:
    """Call `require_map` with the first evaluation problem of a split."""
    for case in islice(experiment.task.cases(split), 1):
        require_map(experiment.scheme, case.problem, case.initial)


def observe_training_mode(scheme: GKM, sample: Sample) -> None:
    """Determine the behaviour of D in training mode, and set `scheme.behaviour`.

    Weights, buffers and random number generators are restored afterwards.

    Args:
        scheme: to be trained.
        sample: a batch.

    Raises:
        InputError: see `require_map`; or D has state that checkpoints do not save.
    """
    problem, initial = sample.problem, sample.initial
    before = require_map(scheme, problem, initial)
    with torch.no_grad(), preserved_state(scheme, initial[0].device), training_mode(scheme):
        kept = {name: buffer.clone() for name, buffer in scheme.named_buffers()}
        drawn = _evaluate_twice(scheme, problem, initial)[2]
        saved = scheme.state_dict().keys() & kept.keys()
        changed = {
            name
            for name, buffer in scheme.named_buffers()
            if name not in kept or not torch.equal(buffer, kept[name])
        }
        mixes = not drawn and _mixes_samples(scheme, sample)
    if not changed <= saved:
        raise InputError(
            f"in training {scheme.title} changes {', '.join(sorted(changed - saved))}, "
            "which checkpoints lack: register the buffer in __init__, and with persistent=True"
        )
    if _differ(before, require_map(scheme, problem, initial), _ROUNDING):
        raise InputError(
            f"{scheme.title} keeps something of training passes that is no parameter and no "
            "buffer, and checkpoints would lack it: use self.register_buffer"
        )
    scheme.behaviour = Behaviour(drawn, bool(changed), mixes)


def _require_shapes(problem: Problem, u: Tensor) -> None:
    """Refuse linear maps whose results would be broadcast against y or u."""
    maps = [] if problem.coupling is None else [(problem.coupling.a, problem.coupling.b)]
    if isinstance(problem.f, LeastSquares):
        maps.append((problem.f.a, problem.f.y))
    for a, y in maps:
        shapes = [tuple(t.shape) for t in (a(u), a.adjoint(y))]
        expected = [tuple(t.shape) for t in (y, u)]
        if shapes != expected:
            raise InputError(
                f"{type(a).__name__}: A u and A^T y have shapes {shapes[0]} and {shapes[1]}; "
                f"expected those of y and u, {expected[0]} and {expected[1]}"
            )


def _mixes_samples(scheme: GKM, sample: Sample) -> bool:
    """Whether the value of a problem depends on the other problems of its batch.

    It is tested at perturbed weights, because a layer that starts at zero would hide it.
    """
    size = len(sample.initial[0])
    if size == 1:
        return False
    _perturb_weights(scheme)
    with suppress(InputError):  # the problems of the task cannot be divided
        batches, values = [sample, sample.equal_part(0, size)], []
        try:
            for batch in batches:
                with preserved_state(scheme, sample.initial[0].device):  # from the same buffers
                    values.append(_evaluate_twice(scheme, batch.problem, batch.initial)[0])
        except (RuntimeError, ValueError):  # the network does not accept a single image
            return True
        return _differ(tuple(block[:1] for block in values[0]), values[1], _ORDER)
    return False


def _perturb_weights(scheme: GKM) -> None:
    """Add noise to every weight, relative to the size of its tensor's weights."""
    for p in scheme.parameters():
        size = p.square().mean().sqrt()
        p.add_(torch.where(size > 0, 0.3 * size, 0.1) * torch.randn_like(p))


def _differ(u: State, v: State, rounding: float) -> bool:
    """Whether two finite states differ by more than rounding."""
    pairs = zip(u, v, strict=True)
    return any(bool((a - b).abs().max() > rounding * a.abs().max()) for a, b in pairs)
