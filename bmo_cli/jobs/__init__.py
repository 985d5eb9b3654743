"""Runs in processes of their own: the job pool, workers, jobs of a sweep, process groups."""
