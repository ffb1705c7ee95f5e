"""An upstream is an existing API that operations are forwarded to. This module builds the URLs of the requests. Pure.

A request never leaves the host and the path prefix of the configured URL. An operation is rejected if its path could be
read as any other place, even by a server that decodes the path more than once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from yarl import URL

REST = "{path}"

_MOST_DECODINGS = 3
_NOT_IN_A_PATH = re.compile(r"[\x00-\x20\x7f-\x9f\\#\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASHES = re.compile(r"[/\\]")
_KEPT_IN_PATH = "/%:@!$&'()*+,;=[]~"
_KEPT_IN_QUERY = _KEPT_IN_PATH + "?"

_TWO_SLASHES = "Start the path with one slash: two slashes would start a host name."
_EXAMPLES = "write a URL such as https://api.example.com or http://localhost:3000/v1"


class InvalidPath(Exception):
    """The path of an operation is invalid or could be read as another path. The message says what to write."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The URL of an upstream.

    If `takes_rest` is True, the prefix replaces the beginning of an operation's path up to the part that `{path}`
    matched. Otherwise the whole path is appended to the prefix.
    """

    scheme: str
    host: str  # with the port, if the URL has one
    prefix: str
    takes_rest: bool = False

    def target(self, path: str, rest_begins: int) -> URL:
        """Return the URL for the path of an operation. Raises InvalidPath.

        `rest_begins` is the position in the path at which the part that `{path}` matches starts.
        """
        check_path(path)
        without_query, _, query = path.partition("?")
        target = self.prefix + (without_query[rest_begins:] if self.takes_rest else without_query)
        if target.startswith("//"):
            raise InvalidPath(_TWO_SLASHES)
        return URL.build(
            scheme=self.scheme,
            authority=self.host,
            path=quote(target, safe=_KEPT_IN_PATH),
            query_string=quote(query, safe=_KEPT_IN_QUERY),
            encoded=True,
        )


def read_upstream(url: str) -> Upstream:
    """Parse the URL of an upstream.

    Raises ValueError if it is invalid. The message does not contain the URL, which may contain a password.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in {"http", "https"} or not rest:
        raise ValueError(f"{_EXAMPLES}: it starts with neither https:// nor http://")
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            "remove the user and the password; use PENSTOCK_UPSTREAM_AUTHORIZATION or add_headers= instead"
        )
    if "?" in rest or "#" in rest:
        raise ValueError("remove the query or fragment, from ? or # on: each operation has its own query")
    takes_rest = rest.endswith("/" + REST)
    plain = url.removesuffix(REST) if takes_rest else url
    if "{" in plain or "}" in plain:
        raise ValueError(f"write {REST} only at the end of its path, or remove it")
    try:
        check_path("/" + plain.partition("://")[2])
        parsed = URL(plain)
        host = parsed.host
    except (InvalidPath, ValueError) as error:
        raise ValueError(f"{_EXAMPLES}: it is not a valid URL") from error
    if not host:
        raise ValueError(f"{_EXAMPLES}: it has no host")
    prefix = parsed.raw_path if takes_rest else parsed.raw_path.rstrip("/")
    return Upstream(parsed.scheme, parsed.raw_authority, prefix, takes_rest)


def without_secrets(url: str) -> str:
    """Return a URL, valid or not, as it may be logged: without its user, password and query, which may be secret."""
    shown, mark, _ = url.partition("?")
    scheme, separator, rest = shown.partition("://")
    before, rest = (scheme + separator, rest) if separator else ("", shown)
    return before + ("***@" if "@" in rest else "") + rest.rpartition("@")[2] + ("?***" if mark else "")


def check_path(path: str) -> None:
    """Raise InvalidPath if a path, with its query, is not valid in a URL or could be read as another path."""
    if not path.startswith("/"):
        raise InvalidPath("Start the path with a slash.")
    if found := _NOT_IN_A_PATH.search(path):
        raise InvalidPath(f"Percent-encode the character {found[0]!a}, or remove it.")
    if _STRAY_PERCENT.search(path):
        raise InvalidPath("Write a percent sign as %25, unless two hexadecimal digits follow it.")
    if path.startswith("//"):
        raise InvalidPath(_TWO_SLASHES)
    for reading in _readings(path.partition("?")[0]):
        if _CONTROL.search(reading):
            raise InvalidPath("Remove control characters from the path, including percent-encoded ones.")
        if any(piece.partition(";")[0] in {".", ".."} for piece in _SLASHES.split(reading)):
            raise InvalidPath("Remove . and .. from the path, including percent-encoded ones.")


def _readings(path: str) -> Iterator[str]:
    """Yield the path as it is, decoded once, decoded twice, and so on. Raises InvalidPath after too many levels."""
    for _ in range(_MOST_DECODINGS + 1):
        yield path
        decoded = unquote(path, errors="replace") if "%" in path else path
        if decoded == path:
            return
        path = decoded
    raise InvalidPath(f"Percent-encode the path only once. It is encoded more than {_MOST_DECODINGS} times.")
