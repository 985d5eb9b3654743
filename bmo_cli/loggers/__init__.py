"""Where a run can be followed beside its own history.csv."""
