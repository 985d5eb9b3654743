"""The scheme T = (1 - alpha) I + alpha D and its numerical operators."""
