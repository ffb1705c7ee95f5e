"""Collects the errors of a request. The first ones are kept word for word, and all are counted."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from penstock.documents.pointer import pointer_to
from penstock.documents.validation import sentence_of
from penstock.errors import Flaw
from penstock.settings import MIB

MOST_FLAWS = 1_000  # in one answer: even a small request can have very many errors
MOST_FOUND = 10_000  # in one request: after that, it is rejected without validating the rest of it
MOST_INVALID_BYTES = 4 * MIB  # of the invalid operations of one stream: it costs time to find their errors
MOST_CHARACTERS = MIB  # of all kept errors: the name of a member can be as long as a line
ENVELOPE = -1  # the index of errors outside the operations: they are listed first


class Flaws:
    """Errors may be found in any order. They are listed in the order of the operations."""

    def __init__(self) -> None:
        self.count = 0
        self.is_complete = True  # False if there may be more errors, because something was not validated to its end
        self.invalid_bytes = 0
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
    def is_full(self) -> bool:
        """Return True if so many errors were found that the rest of the request need not be read."""
        return self.count >= MOST_FOUND or self.invalid_bytes > MOST_INVALID_BYTES

    @property
    def indexed(self) -> list[tuple[int, Flaw]]:
        """Return the first errors in the order of the operations, each with the index of its operation."""
        return sorted(self._kept, key=lambda one: one[0])[:MOST_FLAWS]

    @property
    def listed(self) -> list[Flaw]:
        return [flaw for _, flaw in self.indexed]


def without_most_unknown_members(document: Any, model: type[BaseModel]) -> Any:
    """Return the document, or a copy with only the first unknown members if there are very many.

    Pydantic builds an error for each unknown member, and cannot be told to stop.
    """
    if not isinstance(document, dict) or len(document) <= MOST_FLAWS:
        return document
    names = (field.alias or name for name, field in model.model_fields.items())
    known = {name: document[name] for name in names if name in document}
    return dict(islice(document.items(), MOST_FLAWS)) | known


def to_flaw(error: ErrorDetails, document: Any) -> Flaw:
    return Flaw(pointer_to(error, document), sentence_of(error))
