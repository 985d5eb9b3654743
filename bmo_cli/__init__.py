"""bmo: joint training and hyper-training of learned solvers.

The scheme is the generalised Krasnoselskii-Mann (GKM) iteration, the default hyper-optimiser is
bilevel meta optimisation (BMO); see docs/method.md.
"""

__version__ = "0.1.0"
