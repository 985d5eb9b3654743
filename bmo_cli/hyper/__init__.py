"""Hyper-optimisers: how the gradient with respect to omega is obtained."""
