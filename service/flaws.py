"""Everything wrong with a request: the first of it word for word, the rest counted."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from penstock.errors import Flaw
from penstock.pointer import pointer_to

MOST_FLAWS = 1_000  # in one answer: a small request can have very many
MOST_CHARACTERS = 4 * 1024 * 1024  # of all of them: the name of a member can be as long as a line
ENVELOPE = -1  # comes before every operation


class Flaws:
    """They are told in the order of the operations, whatever the order in which they were found."""

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
        """Before the others of the same operation. `flaws` are some of `count`."""
        self.count += count
        self._kept[:0] = flaws

    @property
    def told(self) -> list[Flaw]:
        in_order = sorted(self._kept, key=lambda one: one[0])
        return [flaw for _, flaw in in_order[:MOST_FLAWS]]


def errors_of(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


def to_flaw(error: ErrorDetails, document: Any) -> Flaw:
    return Flaw(pointer_to(error, document), f"{error['msg']}.")
