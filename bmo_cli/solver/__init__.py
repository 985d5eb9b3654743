"""States, metrics, problems and the fixed-point loop."""
