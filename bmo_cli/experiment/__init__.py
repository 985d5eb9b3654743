"""Experiments: build one from a configuration, load and save weights, evaluate, certify."""
