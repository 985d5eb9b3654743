"""Files of a run. Nothing here imports torch."""
