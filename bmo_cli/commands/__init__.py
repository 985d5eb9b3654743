"""A module for each command of `bmo`, and the dispatch from a composed configuration to it."""
