"""The command line: `python -m penstock`."""

import os
import sys

# `python -m` puts the working directory first. Its modules must not replace Python's or ours.
if not sys.flags.safe_path and sys.path[0] == os.getcwd():  # noqa: PTH109 - pathlib is one of these modules
    del sys.path[0]

from penstock.cli.commands import main

if __name__ == "__main__":
    main()
