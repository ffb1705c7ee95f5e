"""What the id of a batch looks like. Pure."""

import re

BATCH_ID = r"[0-9A-Za-z_-]{1,40}"  # it is a part of paths, and of keys in the table, which rejects long ones
_whole = re.compile(BATCH_ID)


def is_batch_id(text: str) -> bool:
    """Return True if a batch can have this id."""
    return _whole.fullmatch(text) is not None


def check_batch_id(text: str) -> str:
    """Return an id of a batch. Raises ValueError if no batch can have it."""
    if not is_batch_id(text):
        shown = repr(text[:60])
        raise ValueError(f"{shown} is no id of a batch. It should look like 01M853H03Q7Z1ZXRY68PYH3E2H.")
    return text
