"""Match the path of an operation with the path of a route, such as `/files/{name}.{extension}`. Pure.

A segment with several parameters can be split between them in very many ways. Then earlier parameters get as much as
possible. The separators are searched from the end, so the time grows with the length of the path and not faster.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PLACEHOLDER = re.compile(r"\{(\w+)(?::path)?\}")
REST = re.compile(r"/\{(\w+):path\}$")  # at the end of a path: it matches the rest, with slashes

_SEPARATORS = slice(2, -1, 2)  # of the pieces of a segment: text, name, text, name, text
_NAMES = slice(1, None, 2)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """The paths that lead to a route. `segments` are those that have several parameters, as pieces.

    In `whole` each of these segments is one group with the name of its first parameter.
    """

    whole: re.Pattern[str]
    segments: Sequence[Sequence[str]] = ()

    def match(self, path: str) -> Mapping[str, str] | None:
        """Return the text of each parameter, not decoded, or None if the path does not match."""
        match = self.whole.fullmatch(path)
        if match is None:
            return None
        texts: dict[str, str] = match.groupdict()
        for pieces in self.segments:
            split = _split(texts[pieces[1]], pieces[_SEPARATORS])
            if split is None:
                return None
            texts.update(zip(pieces[_NAMES], split, strict=True))
        return texts


def read_path(path: str) -> PathPattern:
    """Return the pattern of a route's path, in which `{name}` is a parameter and `{name:path}` the rest of the path."""
    rest = REST.search(path)
    segments = [PLACEHOLDER.split(segment) for segment in path.split("/")]
    whole = "/".join(_regular_expression(pieces, rest and rest[1]) for pieces in segments)
    return PathPattern(re.compile(whole, re.DOTALL), [pieces for pieces in segments if _has_several(pieces)])


def starting_with(start: str) -> PathPattern:
    """Return the pattern of all paths that start with a text."""
    return PathPattern(re.compile(re.escape(start) + ".*", re.DOTALL))


def _has_several(pieces: Sequence[str]) -> bool:
    return len(pieces[_NAMES]) > 1


def _regular_expression(pieces: Sequence[str], rest: str | None) -> str:
    """Return the regular expression of a segment. Several parameters, with the separators between them, are one.

    `rest` is the name of the parameter that matches slashes, too.
    """
    before, after = re.escape(pieces[0]), re.escape(pieces[-1])
    if len(pieces) == 1:
        return before
    return f"{before}(?P<{pieces[1]}>{'.+' if pieces[1] == rest else '[^/]+'}){after}"


def _split(text: str, separators: Sequence[str]) -> list[str] | None:
    """Split a text at these separators so that no part is empty. Return None if it cannot be done.

    Each separator is taken where it is last, if one character at least is left for each part on both sides.
    """
    parts: list[str] = []
    for separator in reversed(separators):
        at = text.rfind(separator, 1, len(text) - 1)
        if at < 0:
            return None
        parts.append(text[at + len(separator) :])
        text = text[:at]
    return [text, *reversed(parts)]
