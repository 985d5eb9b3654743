"""Tables of runs: plan the cells, run those that are missing, write Markdown, LaTeX and figures."""
