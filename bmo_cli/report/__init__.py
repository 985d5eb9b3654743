"""Comparison of runs: `bmo compare` and `bmo report`."""
