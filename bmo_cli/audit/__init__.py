"""Proof by measurement: hyper-gradients and operators held to what they promise."""
