"""Collects the errors of a request. The first ones are kept word for word, and all are counted."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from penstock.errors import Flaw
from penstock.pointer import pointer_to

MOST_FLAWS = 1_000  # in one answer: even a small request can have very many errors
MOST_CHARACTERS = 4 * 1024 * 1024  # of all kept errors: the name of a member can be as long as a line
ENVELOPE = -1  # the index of errors outside the operations: they are listed first


class Flaws:
    """Errors may be found in any order. They are listed in the order of the operations."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[tuple[int, Flaw]] = []
        self._characters = 0

    def add(self, index: int, flaw: Flaw) -> None:
        self.count += 1
        self._characters += len(flaw.pointer) + len(flaw.detail)
        if len(self._kept) < MOST_FLAWS and self._characters <= MOST_CHARACTERS:
            self._kept.append((index, flaw))

    def put_first(self, flaws: Iterable[tuple[int, Flaw]], count: int) -> None:
        """Add errors that are listed before the other errors of the same operation.

        `count` is how many errors there are. `flaws` may be only some of them.
        """
        self.count += count
        self._kept[:0] = flaws

    @property
    def listed(self) -> list[Flaw]:
        in_order = sorted(self._kept, key=lambda one: one[0])
        return [flaw for _, flaw in in_order[:MOST_FLAWS]]


def errors_of(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def to_flaw(error: ErrorDetails, document: Any) -> Flaw:
    return Flaw(pointer_to(error, document), f"{error['msg']}.")
