"""bmo: joint training and hyper-training of learned solvers (GKM scheme, BMO hyper-optimiser)."""

__version__ = "0.1.0"
