"""Choose the media type of a response by the client's Accept header (RFC 9110, section 12.5.1). Pure."""

from collections.abc import Sequence

from penstock.errors import NotAcceptable

MOST_RANGES = 100  # of a header that are read. Browsers send about eight, and a request can have a megabyte of them
_SHOWN = 500  # characters of the header in an error


def choose_type(accept: str | None, offered: Sequence[str]) -> str:
    """Return the first of `offered` with the highest weight. Raises NotAcceptable if the client accepts none."""
    if not accept or not accept.strip():
        return offered[0]
    ranges = [_parse(part) for part in accept.split(",", MOST_RANGES)[:MOST_RANGES]]
    weights = {kind: _weight(kind, ranges) for kind in offered}
    best = max(offered, key=lambda kind: weights[kind])
    if weights[best] <= 0:
        raise NotAcceptable(
            f"The response is available as {' or '.join(offered)}; the request accepts {accept[:_SHOWN]}."
        )
    return best


def _parse(part: str) -> tuple[str, float]:
    kind, *parameters = [piece.strip().lower() for piece in part.split(";")]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _weight(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the most specific range that matches the type."""
    for pattern in (kind, kind.partition("/")[0] + "/*", "*/*"):
        matching = [weight for name, weight in ranges if name == pattern]
        if matching:
            return max(matching)
    return 0.0
