"""Reads the metrics of a widget of the dashboard."""

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.infra.cloudformation import Document

Row = tuple[Sequence[str], Mapping[str, Any]]


def rows_of(properties: Document) -> list[Row]:
    """Return each metric in full: `.` repeats one part of the previous metric, `...` repeats all remaining parts."""
    rows: list[Row] = []
    for row in properties["metrics"]:
        words = [word for word in row if isinstance(word, str)]
        above = rows[-1][0] if rows else ()
        full = above if words == ["..."] else [above[at] if word == "." else word for at, word in enumerate(words)]
        rows.append((full, row[-1]))
    return rows
