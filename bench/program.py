"""Run a program of Penstock or of the floor and count its AWS calls: `python -m bench.program MODULE ...`."""

import importlib
import sys

from bench.counting import count_calls

if __name__ == "__main__":
    module = sys.argv.pop(1)
    count_calls()
    importlib.import_module(module).main()
