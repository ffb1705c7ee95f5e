"""Where a program may listen, and the error if it cannot."""

import os

from penstock.errors import Misconfigured
from penstock.hosts import is_loopback
from penstock.settings import Settings


def cannot_listen(host: str, port: int, error: OSError, options: str) -> Misconfigured:
    """Return the error to raise. `options` are those that choose another place, such as `--port or --host`."""
    code = error.errno or 0
    reason = os.strerror(code) if code > 0 else error.strerror  # asyncio's own text repeats the address
    return Misconfigured(f"Cannot listen on {host}:{port} ({reason}). Choose another {options}.")


def check_not_open(settings: Settings, *hosts: str) -> None:
    """Raise Misconfigured if other machines could call without a key, and nobody has decided that."""
    exposed = [host for host in hosts if not is_loopback(host)]
    if exposed and settings.is_open_by_accident:
        raise Misconfigured(
            f"Everybody who reaches {exposed[0]} could run operations, because requests need no key. "
            "Set PENSTOCK_AUTH=keys and PENSTOCK_OPERATOR_KEY, so that they need one. "
            "If something else protects this address, set PENSTOCK_AUTH=none."
        )
