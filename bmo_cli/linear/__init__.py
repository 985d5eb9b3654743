"""Linear maps with adjoints."""
