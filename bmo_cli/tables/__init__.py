"""Tables of runs: which cells they have, running what is missing, Markdown, LaTeX, figures."""
