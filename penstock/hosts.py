"""Checks the Host header of a request. Pure.

A web page can let its own name point to 127.0.0.1 (DNS rebinding). Then a browser lets the page read what a program on
this machine answers. But the Host header still has the name of the page.
"""

import ipaddress
from urllib.parse import urlsplit

ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - compared, not listened on

PRIVATE = (".internal", ".local")


def is_own_host(header: str, listens_on: str) -> bool:
    """Return True if a Host header names a program that listens on the host `listens_on`.

    Loopback names always do. If the program listens on all addresses, every address does, and every name without a dot,
    such as the name of a container, and every name under a top-level domain that nobody can register.
    """
    name = _name(header)
    if name is None:
        return False
    if name == listens_on.lower() or name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    if address is not None:
        return address.is_loopback or listens_on in ANY_ADDRESS
    return listens_on in ANY_ADDRESS and ("." not in name or name.endswith(PRIVATE))


def _name(header: str) -> str | None:
    """Return the host of `host:port`, without the brackets of an IPv6 address. Return None if it is invalid."""
    try:
        split = urlsplit(f"//{header}")
        split.port  # noqa: B018 - raises ValueError if it is no number
    except ValueError:
        return None
    return split.hostname if split.netloc == header and "@" not in header else None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
