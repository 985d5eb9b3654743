"""Where Hydra looks for sweepers: it takes none from elsewhere."""

from bmo_cli.jobs import search


class Search(search.Search):
    """`hydra/sweeper=search`."""
