"""The command that starts one of Penstock's programs as a process of its own."""

import sys


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of Penstock in another process.

    `-P` keeps the working directory out of the module search path: a `queue.py` or a `service/` in it belongs to the
    application and must not replace a module of Python's or ours. The application is still found in the working
    directory, because `load_application` searches it last.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
