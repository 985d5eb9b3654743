"""Build the optimiser of hyper-training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from bmo_cli.config.checks import FLOAT32_MAX
from bmo_cli.errors import InputError
from bmo_cli.experiment.build import Node, instantiate
from bmo_cli.gkm.operator import NumericalOperator
from bmo_cli.nets.network import Network


def build_optimizer(
    node: Node, plugins: Sequence[str], omega: nn.Module, numerical_lr_factor: float
) -> Optimizer:
    """A torch optimiser over omega.

    Networks and learned matrices have the learning rate `lr`. Step sizes, penalties and thresholds
    (the scalars of a scheme, and what its parts declare as `numerical`) have
    `numerical_lr_factor` times that rate.
    """
    named = [(name, p) for name, p in omega.named_parameters() if p.requires_grad]
    parts = [m for m in omega.modules() if isinstance(m, Network | NumericalOperator)]
    in_networks = {id(p) for m in parts if isinstance(m, Network) for p in m.parameters()}
    declared = {id(getattr(part, name)) for part in parts for name in part.numerical}
    is_numerical = [
        id(p) in declared or (p.dim() == 0 and id(p) not in in_networks) for _, p in named
    ]
    numerical = [p for (_, p), chosen in zip(named, is_numerical, strict=True) if chosen]
    weights = [p for (_, p), chosen in zip(named, is_numerical, strict=True) if not chosen]
    if not named:
        raise InputError(
            "nothing to learn; use hyper=none, a network, or let the operator learn "
            "(gkm.operator.learn=true or gkm.operator.learn_weight=true, where it has them)"
        )
    lr = node["lr"]
    if numerical and lr * numerical_lr_factor > FLOAT32_MAX:
        raise InputError(
            f"optim.lr={lr:g} times train.numerical_lr_factor={numerical_lr_factor:g} is the "
            "learning rate of step sizes, and beyond float32, which ends at 3.4e38"
        )
    rates = ((weights, lr), (numerical, lr * numerical_lr_factor))
    groups = [{"params": params, "lr": rate} for params, rate in rates if params]
    optimizer: Optimizer = instantiate(node, "optim", plugins, Optimizer, params=groups)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError(f"optim: {node['_target_']} is no first-order torch optimiser")
    return optimizer
