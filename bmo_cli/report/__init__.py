"""What runs say together: `bmo compare` and `bmo report`."""
