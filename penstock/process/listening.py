"""Where a program may listen, and the error if it cannot."""

import errno
import os
import socket

from penstock.errors import Misconfigured
from penstock.hosts import is_loopback
from penstock.settings import Settings


def cannot_listen(host: str, port: int, error: OSError, options: str) -> Misconfigured:
    """Return the error to raise. `options` are those that choose another place, such as `--port or --host`."""
    code = error.errno or 0
    reason = os.strerror(code) if code > 0 else error.strerror  # asyncio's own text repeats the address
    return Misconfigured(f"Cannot listen on {host}:{port} ({reason}). Choose another {options}.")


def check_free(host: str, port: int, options: str) -> None:
    """Raise Misconfigured if another program listens there: what it answers could be taken for our own answers."""
    error = _try_to_bind(host, port)
    if error is not None and error.errno == errno.EADDRINUSE:
        raise cannot_listen(host, port, error, options)


def first_free_port(host: str, ports: range) -> int:
    """Return the first port that no other program uses, or the first of all if there is none."""
    return next((port for port in ports if _is_free(host, port)), ports[0])


def _is_free(host: str, port: int) -> bool:
    error = _try_to_bind(host, port)
    return error is None or error.errno != errno.EADDRINUSE


def _try_to_bind(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # asyncio's servers set it, too
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def check_not_open(settings: Settings, *hosts: str) -> None:
    """Raise Misconfigured if other machines could call without a key, and nobody has decided that."""
    exposed = [host for host in hosts if not is_loopback(host)]
    if exposed and settings.is_open_by_accident:
        raise Misconfigured(
            f"Everybody who reaches {exposed[0]} could run operations, because requests need no key. "
            "Set PENSTOCK_AUTH=keys and PENSTOCK_OPERATOR_KEY, so that they need one. "
            "If something else protects this address, set PENSTOCK_AUTH=none."
        )
