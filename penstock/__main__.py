"""The command line: `python -m penstock`."""

from penstock.cli.commands import main

if __name__ == "__main__":
    main()
