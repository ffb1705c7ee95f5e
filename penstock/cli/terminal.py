"""Prints for people and for scripts: tables, colours where a terminal shows them, and JSON."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_MESSAGE_LENGTH = 400
_GAP = "  "
_CONTROL = {
    code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)
}  # the characters of control that JSON leaves as they are
_STATES = {
    "completed": "green",
    "succeeded": "green",
    "failed": "red",
    "processing": "cyan",
    "paused": "yellow",
    "cancelling": "yellow",
    "cancelled": "magenta",
    "expired": "magenta",
}

Style = Callable[[str], str]
"""Returns the style of a cell, or "" for none."""


def style_of_state(state: str) -> str:
    return _STATES.get(state, "")


def style_of_count(count: str) -> str:
    """Return the style of a number of failures."""
    return "" if count in {"0", "-"} else "red"


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    styles: Mapping[int, Style] | None = None,
) -> None:
    """Print rows below their headings. `right` names the columns of numbers, and `styles` those with colours.

    On a terminal a long row is cut at its edge. A pipe or a file gets all of it, without colours.
    """
    console = _console()
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    _print_row(console, headings, widths, right, dict.fromkeys(range(len(headings)), _bold))
    for row in rows:
        _print_row(console, row, widths, right, styles or {})


def _print_row(
    console: Console, row: Sequence[str], widths: Sequence[int], right: Sequence[int], styles: Mapping[int, Style]
) -> None:
    line = Text()
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
        padding = " " * (width - cell_len(cell))
        line.append(padding if place in right else "")
        line.append(cell, styles[place](cell) if place in styles else "")
        line.append(("" if place in right else padding) + _GAP)
    line.rstrip()
    if console.is_terminal:
        console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        console.print(line, soft_wrap=True)


def _bold(_: str) -> str:
    return "bold"


def print_facts(facts: Mapping[str, str], styles: Mapping[str, str] | None = None) -> None:
    """Print each name with its value. Values may be long. Empty ones are left out."""
    console = _console()
    width = max(map(len, facts))
    for name, value in facts.items():
        if value:
            line = Text(f"{name:<{width}}{_GAP}", "bold")
            line.append(value, (styles or {}).get(name, "not bold"))
            console.print(line, soft_wrap=True)


def print_json(document: Any) -> None:
    typer.echo(_as_json(document, indent=2))


def print_line(document: Any) -> None:
    """Print a document as one line of NDJSON."""
    typer.echo(_as_json(document, separators=(",", ":")))


def _as_json(document: Any, **form: Any) -> str:
    """Return a document as JSON that a terminal only shows: what tenants send is in it."""
    return json.dumps(document, ensure_ascii=False, **form).translate(_CONTROL)


def print_error(sentence: str) -> None:
    typer.echo(sentence, err=True)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def one_line(text: str) -> str:
    """Make a text safe to print on a terminal: an application's messages may contain anything."""
    flat = "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))
    return flat if len(flat) <= _MESSAGE_LENGTH else f"{flat[:_MESSAGE_LENGTH]} ..."


def local_time(time: datetime | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time in the time zone of this machine, or "" for None."""
    return "" if time is None else time.astimezone().strftime(form)


def local_time_of(text: str | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a time of an answer in the time zone of this machine, or "-" for None."""
    return "-" if text is None else local_time(datetime.fromisoformat(text), form)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 operation" or "2,000 operations"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
