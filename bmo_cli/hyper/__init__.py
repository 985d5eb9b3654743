"""Hyper-optimisers: methods to differentiate training with respect to omega."""
