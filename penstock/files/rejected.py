"""The columns that Penstock adds to the rows that failed, and that it ignores if the file is sent again. Pure.

A cell that a spreadsheet would read as a formula is written with an apostrophe before it. Numbers stay as they are. In
a file with the added columns, one such apostrophe is removed again, so that the cell comes back as it was.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

STATUS, TITLE, DETAIL = ADDED = ("error_status", "error_title", "error_detail")
ID, METHOD, PATH = ADDED_TO_OPERATIONS = ("error_id", "error_method", "error_path")
_ALL = frozenset({*ADDED, *ADDED_TO_OPERATIONS})

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # https://owasp.org/www-community/attacks/CSV_Injection
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?")


def safe_cell(text: str) -> str:
    """Return the text as a cell that no spreadsheet runs as a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def original_cell(text: str) -> str:
    """Return the text for which `safe_cell` returned this one."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def is_rejected_file(columns: Collection[str]) -> bool:
    """Return True if a file, or a row of it, has all columns that Penstock adds. Some of them may be in any file."""
    return all(name in columns for name in ADDED)


def without_added(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the members that Penstock has added."""
    added = _added_to(row)
    return {name: row[name] for name in row if name not in added}


def own_columns(columns: Collection[str]) -> list[str]:
    """Return the columns of a file without those that Penstock has added."""
    added = _added_to(columns)
    return [name for name in columns if name not in added]


def _added_to(columns: Collection[str]) -> Collection[str]:
    if not is_rejected_file(columns):
        return ()
    return _ALL if all(name in columns for name in ADDED_TO_OPERATIONS) else ADDED
