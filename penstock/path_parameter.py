"""Decode the path parameters of an operation. Pure.

A parameter is decoded after the path was matched. So decoding must not turn it into something else than the segment,
or the rest of the path, that the handler asked for: handlers use parameters in file names, headers and queries.
"""

import re
from urllib.parse import unquote

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN = re.compile(r"[^%?#/\\.\x00-\x1f\x7f-\x9f]*")  # such a text needs no decoding, and all of it is accepted
_SLASHES = re.compile(r"[/\\]")


def decode_segment(text: str) -> str:
    """Decode the parameter `{name}`. Raise ValueError with a sentence for the client if it is not a single segment."""
    if _PLAIN.fullmatch(text):
        return text
    decoded = _decode(text)
    if "/" in decoded:
        raise ValueError("Remove the slash, also if it is written as %2F: the parameter is a single segment.")
    return decoded


def decode_rest(text: str) -> str:
    """Decode the parameter `{name:path}`. Raise ValueError with a sentence for the client if it leaves its place."""
    decoded = _decode(text)
    if _SLASHES.match(decoded):
        raise ValueError("Remove the slash at the beginning of the parameter.")
    return decoded


def _decode(text: str) -> str:
    if "?" in text or "#" in text:
        raise ValueError("Remove the query: a handler accepts none. In a value, write ? as %3F and # as %23.")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("Percent-encode the UTF-8 bytes of the text. This percent-encoding is not UTF-8.") from error
    if _CONTROL.search(decoded):
        raise ValueError("Remove control characters, including percent-encoded ones.")
    if not {".", ".."}.isdisjoint(_SLASHES.split(decoded)):
        raise ValueError("Remove . and .. segments, including percent-encoded ones.")
    return decoded
