"""Decides to which URLs and addresses events may be sent. Pure.

A tenant chooses the URL, and the request comes from inside our network. So a URL must not lead to anything inside:
not to this machine, to a neighbour, or to the metadata service of a cloud. `check_url` rejects what can be seen in the
URL. What a name resolves to is known only when it is dialled, and may change from one request to the next. So
`may_dial` must be asked about the very address that is dialled.

PENSTOCK_WEBHOOK_ALLOW names hosts and networks inside that may be used all the same.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias

from yarl import URL

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS = {443, 8443}
LONGEST_URL = 2_048
_PLAIN = re.compile(r"[!-\[\]-~]+")  # ASCII without spaces, control characters and backslashes
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?)*")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")  # as the last label of a host, it makes all of it an IPv4 address
# Addresses that `is_global` lets pass, and that lead to other ones or are not for the internet.
_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "64:ff9b::/96",  # NAT64: has any IPv4 address in it
            "64:ff9b:1::/48",
            "2001::/32",  # Teredo: the same
            "2002::/16",  # 6to4: the same
            "3fff::/20",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.0.0.0/24",  # services of a network itself
            "168.63.129.16/32",  # the platform of Azure
        ),
    )
)
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")


@dataclass(frozen=True, slots=True)
class Allowed:
    """The hosts and networks that PENSTOCK_WEBHOOK_ALLOW names. They may also use http, and any port."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> "Allowed":
        """Read a list such as `hooks.internal, 10.1.0.0/16`. Raises ValueError."""
        hosts, networks = set(), []
        for entry in filter(None, (one.strip() for one in (text or "").split(","))):
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or not _HOST.fullmatch(entry) or _is_numeric(entry):
                    raise ValueError(
                        f"{entry!r} is neither a host nor a network. Use a list such as hooks.internal,10.1.0.0/16"
                    ) from None
                hosts.add(entry.lower())
        return cls(frozenset(hosts), tuple(networks))

    def has_host(self, host: str) -> bool:
        return host.lower() in self.hosts

    def has_address(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


def check_url(text: str, allowed: Allowed) -> URL:
    """Return a URL to which events may be sent, as far as the URL shows it. Raises ValueError."""
    if len(text) > LONGEST_URL or not _PLAIN.fullmatch(text):
        raise ValueError(f"Use a URL of at most {LONGEST_URL:,} ASCII characters, without spaces and backslashes")
    try:
        url = URL(text, encoded=True)  # sent as it was written
        port = url.port
    except ValueError:
        raise ValueError("This is not a URL. Use one such as https://example.com/hook") from None
    host = url.raw_host
    if url.scheme not in {"http", "https"} or not host:
        raise ValueError("Use a URL that starts with https:// and a host")
    if url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority:
        raise ValueError("Remove the user and the password from the URL")
    if url.raw_fragment or "#" in text:
        raise ValueError("Remove the fragment (#) from the URL")
    is_inside = _check_host(host, allowed)
    if url.scheme != "https" and not is_inside:
        raise ValueError("Use https://")
    if port not in PORTS and not is_inside:
        raise ValueError(f"Use the port {' or '.join(map(str, sorted(PORTS)))}")
    return url


def may_dial(address: str, host: str, allowed: Allowed) -> bool:
    """Return True if a connection to this address may be opened, for a URL with this host."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return allowed.has_host(host) or allowed.has_address(parsed) or is_public(parsed)


def is_public(address: Address) -> bool:
    """Return True if an address belongs to the internet, and to nothing inside. An IPv4 address in IPv6 does not."""
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address not in _GLOBAL_IPV6):
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address.version == network.version and address in network for network in _REFUSED)


def _check_host(host: str, allowed: Allowed) -> bool:
    """Return True if PENSTOCK_WEBHOOK_ALLOW names the host. Raises ValueError if it must not be used."""
    if allowed.has_host(host):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host) or _is_numeric(host):
            raise ValueError("Use a host name, or an address such as 203.0.113.7 in its usual form") from None
        return False
    if not allowed.has_address(address) and not is_public(address):
        raise ValueError("Events are not sent to this address, because it is not an address of the internet")
    return allowed.has_address(address)


def _is_numeric(host: str) -> bool:
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None
