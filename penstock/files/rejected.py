"""The columns that Penstock adds to the rows that failed, and that it ignores if the file is sent again. Pure.

A cell that a spreadsheet would read as a formula is written with an apostrophe before it. Numbers stay as they are. In
a file with the added columns, one such apostrophe is removed again, so that the cell comes back as it was. The names of
the columns are written and read in the same way.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

STATUS, TITLE, DETAIL = ADDED = ("error_status", "error_title", "error_detail")
ID, METHOD, PATH = ADDED_TO_OPERATIONS = ("error_id", "error_method", "error_path")
OWN_PREFIX = "body."  # of a user's own column that has the name of one of these
_ALL = frozenset({*ADDED, *ADDED_TO_OPERATIONS})

# The last four are = + - @ as wide characters, which spreadsheets for Asian languages accept.
_FORMULA = re.compile(
    r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
)  # https://owasp.org/www-community/attacks/CSV_Injection
_HARMLESS = re.compile(r"-|[+-]?[0-9]+([., ][0-9]+)*([eE][+-]?[0-9]+)?")  # a number, also of a phone, or a dash


def safe_cell(text: str) -> str:
    """Return the text as a cell that no spreadsheet runs as a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _HARMLESS.fullmatch(text) else text


def original_cell(text: str) -> str:
    """Return the text for which `safe_cell` returned this one."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def is_rejected_file(columns: Collection[str]) -> bool:
    """Return True if a file, or a row of it, has all columns that Penstock adds. Some of them may be in any file."""
    return STATUS in columns and TITLE in columns and DETAIL in columns


def without_added(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the members that Penstock has added, and its own members with the names that they had."""
    added = _added_to(row)
    return {_own_name(name) if added else name: row[name] for name in row if name not in added}


def own_columns(columns: Collection[str]) -> list[str]:
    """Return the columns of a CSV file without those that Penstock has added, with the names that they had before."""
    return list(own_cells({name: name for name in columns}))


def own_cells(cells: Mapping[str, str]) -> Mapping[str, str]:
    """Return the cells of a row of a CSV file as they were before Penstock wrote it, if it did."""
    if not is_rejected_file(cells):
        return cells
    return {original_cell(name): original_cell(cell) for name, cell in without_added(cells).items()}


def name_next_to_added(name: str) -> str:
    """Return the name of a user's own column in a file that also has the columns that Penstock adds."""
    return f"{OWN_PREFIX}{name}" if name in ADDED else name


def _own_name(name: str) -> str:
    own = name.removeprefix(OWN_PREFIX)
    return own if own in ADDED else name


def _added_to(columns: Collection[str]) -> Collection[str]:
    if not is_rejected_file(columns):
        return ()
    return _ALL if all(name in columns for name in ADDED_TO_OPERATIONS) else ADDED
