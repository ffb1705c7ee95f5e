"""An existing API that operations are forwarded to: its URL, and what the path of an operation is there. Pure.

Nothing but the host of that URL is ever asked, and nothing beside or above the path in it: what a path of an operation
could be read as beyond that is refused, also if it takes a server that decodes it once too often.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from yarl import URL

REST = "{path}"

_MOST_DECODINGS = 3
_NOT_IN_A_PATH = re.compile(r"[\x00-\x20\x7f-\x9f\\#\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASHES = re.compile(r"[/\\]")
_KEPT_IN_PATH = "/%:@!$&'()*+,;=[]~"
_KEPT_IN_QUERY = _KEPT_IN_PATH + "?"

_EXAMPLES = "write it as https://api.example.com or http://localhost:3000/v1"


class InvalidPath(Exception):
    """A path that cannot be asked for, or that could be read as another; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """`takes_rest`: its own path takes the place of what stands before the rest of an operation's."""

    scheme: str
    host: str  # and the port, where the URL has one
    prefix: str
    takes_rest: bool = False

    def target(self, path: str, rest_begins: int) -> URL:
        """Where to ask for an operation's path, whose rest begins at that place. Raises InvalidPath."""
        check_path(path)
        asked, _, query = path.partition("?")
        there = self.prefix + (asked[rest_begins:] if self.takes_rest else asked)
        if there.startswith("//"):
            raise InvalidPath("Write one slash where the path begins: after two stands a host.")
        return URL.build(
            scheme=self.scheme,
            authority=self.host,
            path=quote(there, safe=_KEPT_IN_PATH),
            query_string=quote(query, safe=_KEPT_IN_QUERY),
            encoded=True,
        )


def read_upstream(url: str) -> Upstream:
    """Raises ValueError, whose words say what to write, without the URL: it may hold a password."""
    scheme, _, rest = url.partition("://")
    if scheme not in {"http", "https"} or not rest:
        raise ValueError(f"{_EXAMPLES}: it begins with neither https:// nor http://")
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            "leave the user and the password out; PENSTOCK_UPSTREAM_AUTHORIZATION, or add_headers=, is the place"
        )
    if "?" in rest or "#" in rest:
        raise ValueError("leave out the query, from ? or # on: every operation brings its own")
    takes_rest = rest.endswith("/" + REST)
    plain = url.removesuffix(REST) if takes_rest else url
    if "{" in plain or "}" in plain:
        raise ValueError(f"let {REST} be the last of its path, or leave it out")
    try:
        check_path("/" + plain.partition("://")[2])
        parsed = URL(plain)
        host = parsed.host
    except (InvalidPath, ValueError) as error:
        raise ValueError(f"{_EXAMPLES}: it is no URL") from error
    if not host:
        raise ValueError(f"{_EXAMPLES}: it has no host")
    prefix = parsed.raw_path if takes_rest else parsed.raw_path.rstrip("/")
    return Upstream(parsed.scheme, parsed.raw_authority, prefix, takes_rest)


def without_secrets(url: str) -> str:
    """A URL as it may be shown, however wrong it is: without what may be a password, or a key in its query."""
    shown, mark, _ = url.partition("?")
    scheme, separator, rest = shown.partition("://")
    before, rest = (scheme + separator, rest) if separator else ("", shown)
    return before + ("***@" if "@" in rest else "") + rest.rpartition("@")[2] + ("?***" if mark else "")


def check_path(path: str) -> None:
    """Raises InvalidPath for a path, with its query, that is not one in a URL or may be read as another."""
    if not path.startswith("/"):
        raise InvalidPath("Begin the path with a slash.")
    if found := _NOT_IN_A_PATH.search(path):
        raise InvalidPath(f"Write the character {found[0]!a} percent-encoded, or leave it out.")
    if _STRAY_PERCENT.search(path):
        raise InvalidPath("Write a percent sign as %25; two hexadecimal digits follow any other.")
    if path.startswith("//"):
        raise InvalidPath("Write one slash where the path begins: after two stands a host.")
    for reading in _readings(path.partition("?")[0]):
        if _CONTROL.search(reading):
            raise InvalidPath("Leave control characters out of the path, percent-encoded ones too.")
        if any(piece.partition(";")[0] in {".", ".."} for piece in _SLASHES.split(reading)):
            raise InvalidPath("Write the path without . and .. in it, percent-encoded ones too.")


def _readings(path: str) -> Iterator[str]:
    """The path, and what servers make of it that decode it once, or several times. Raises InvalidPath for too many."""
    for _ in range(_MOST_DECODINGS + 1):
        yield path
        decoded = unquote(path, errors="replace") if "%" in path else path
        if decoded == path:
            return
        path = decoded
    raise InvalidPath(f"Percent-encode the path once, not more than {_MOST_DECODINGS} times.")
