"""Loggers: tools that receive the history of a run beside its history.csv."""
