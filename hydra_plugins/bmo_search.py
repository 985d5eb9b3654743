"""Where Hydra looks for sweepers: it takes none from elsewhere."""

from bmo_cli.experiment import search


class Search(search.Search):
    """`hydra/sweeper=search`."""
