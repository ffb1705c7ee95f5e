"""The headers of a forwarded operation: which may be passed on, which may be added, and its idempotency key. Pure."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from urllib.parse import quote

# The headers that an application adds to every request. A function is called for each, for example to renew a token.
AddedHeaders = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

IDEMPOTENCY_KEY = "Idempotency-Key"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~]*")

# These headers are about one connection or one body, and Penstock makes both.
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "idempotency-key",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# In a batch's request these headers are about the batch, not about its operations.
_OF_THE_BATCH = frozenset({"accept", "host", "prefer"})

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def check_passed(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of headers that operations may carry from the batch's request.

    Raises ValueError if a name is invalid or not allowed.
    """
    checked = tuple(names)
    for name in checked:
        _check_name(name, _OURS | _OF_THE_BATCH)
    return checked


def check_added(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that the application adds.

    Raises ValueError if a header is invalid. The message does not contain its value, which may be secret.
    """
    for name, value in headers.items():
        _check_name(name, _OURS)
        if not is_plain(value):
            raise ValueError(f"the value of {name} must be one line of printable ASCII")
    return dict(headers)


def is_plain(value: object) -> bool:
    """Return True if the value is a text of printable ASCII, spaces and tabs."""
    return isinstance(value, str) and _VALUE.fullmatch(value) is not None


def to_key_header(key: str) -> str:
    """Return the key as a string of structured fields (RFC 9651). Characters outside ASCII are percent-encoded."""
    plain = quote(key, safe=_PRINTABLE, errors="replace").replace("\\", r"\\").replace('"', r"\"")
    return f'"{plain}"'


def _check_name(name: str, excluded: frozenset[str]) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid header name")
    if name.lower() in excluded:
        raise ValueError(f"remove {name}: Penstock sets this header itself, or it is about the batch")
