"""Which headers a forwarded operation takes along: what may be passed on, what may be added, and its key. Pure."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

IDEMPOTENCY_KEY = "Idempotency-Key"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~]*")

# They are about one connection or one body, and both are ours.
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
# What the client of a batch says with these is about the batch.
_OF_THE_BATCH = frozenset({"accept", "host", "prefer"})

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def check_passed(names: Iterable[str]) -> tuple[str, ...]:
    """The names of headers that a batch's request passes on to its operations. Raises ValueError."""
    checked = tuple(names)
    for name in checked:
        _check_name(name, _OURS | _OF_THE_BATCH)
    return checked


def check_added(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that the application adds. Raises ValueError, without their values: those may be secrets."""
    for name, value in headers.items():
        _check_name(name, _OURS)
        if not is_plain(value):
            raise ValueError(f"write the value of {name} in printable ASCII, on one line")
    return dict(headers)


def is_plain(value: object) -> bool:
    return isinstance(value, str) and _VALUE.fullmatch(value) is not None


def to_key_header(key: str) -> str:
    """A key as a string of structured fields (RFC 9651). That is ASCII: any other character is percent-encoded."""
    plain = quote(key, safe=_PRINTABLE, errors="replace").replace("\\", r"\\").replace('"', r"\"")
    return f'"{plain}"'


def _check_name(name: str, excluded: frozenset[str]) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    if name.lower() in excluded:
        raise ValueError(f"leave {name} out: Penstock sets it itself, or it is about the batch")
