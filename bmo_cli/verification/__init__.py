"""Does a scheme keep what it promises: the convergence certificate, and the audit of gradients."""
