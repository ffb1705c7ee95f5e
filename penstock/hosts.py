"""Decides whether a web page may have sent a request, from its headers. Pure.

A form or a script of a page sends an Origin, and an image or a link sends Sec-Fetch-Site. A web page can also let its
own name point to 127.0.0.1 (DNS rebinding). Then a browser lets the page read what a program on this machine answers.
But the Host header still has the name of the page.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from penstock.errors import FromWebPage, Misdirected

ANY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - compared, not listened on

PRIVATE = (".internal", ".local")
OF_NO_PAGE = {"none", "same-origin"}  # values of Sec-Fetch-Site; any other value comes from a page of another site


def check_caller(headers: Mapping[str, str], hosts: Sequence[str], listens_on: str) -> None:
    """Check that no web page sent a request. `hosts` has all its Host headers.

    Raises Misdirected or FromWebPage.
    """
    check_host(hosts, listens_on)
    if is_from_page(headers):
        raise FromWebPage("Web pages are not answered. Send this request without the headers of a browser.")


def check_host(hosts: Sequence[str], listens_on: str) -> None:
    """Raise Misdirected if the Host headers of a request do not name a program that listens on `listens_on`."""
    if len(hosts) != 1 or not is_own_host(hosts[0], listens_on):
        raise Misdirected(
            "The Host header does not name this program. Use localhost or an IP address in the URL, "
            "or the host name that this program listens on."
        )


def check_same_origin(headers: Mapping[str, str]) -> None:
    """Raise FromWebPage unless a page of the same server sent a request, as the forms of the console do.

    Browsers send Sec-Fetch-Site only to servers with HTTPS and to this machine, and Origin with every POST. A proxy may
    change the Host header, so Sec-Fetch-Site counts alone.
    """
    site = headers.get("Sec-Fetch-Site")
    if site == "same-origin" or (site is None and _names_host(headers.get("Origin", ""), headers.get("Host", ""))):
        return
    raise FromWebPage("This request does not come from a page of this server. Open the console and try it there.")


def _names_host(origin: str, host: str) -> bool:
    return bool(host) and origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches a program that listens on `host`."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def is_from_page(headers: Mapping[str, str]) -> bool:
    """Return True if the headers are those of a request that a web page sends."""
    return "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in OF_NO_PAGE


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
