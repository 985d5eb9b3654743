"""Tasks: where problems come from and how an estimate is judged."""
