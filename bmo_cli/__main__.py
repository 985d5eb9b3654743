"""`python -m bmo_cli` is the console script `bmo`."""

from bmo_cli.cli import main

if __name__ == "__main__":
    main()
