"""The error of a program that cannot listen."""

import os

from penstock.errors import Misconfigured


def cannot_listen(host: str, port: int, error: OSError, options: str) -> Misconfigured:
    """Return the error to raise. `options` are those that choose another place, such as `--port or --host`."""
    code = error.errno or 0
    reason = os.strerror(code) if code > 0 else error.strerror  # asyncio's own text repeats the address
    return Misconfigured(f"Cannot listen on {host}:{port} ({reason}). Choose another {options}.")
