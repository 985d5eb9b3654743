"""What can be said about the convergence of a trained scheme: bounds, measurements, verdicts."""
