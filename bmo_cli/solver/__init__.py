"""States, metrics, problems and the one fixed-point loop."""
