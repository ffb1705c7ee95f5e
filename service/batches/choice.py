"""Which failures of a batch a retry runs again: all of them, or those that the client chooses."""

import itertools
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, ValidationError

from penstock.batch import Batch
from penstock.documents.validation import errors_of
from penstock.errors import Flaw, InvalidRequest, MalformedRequest
from penstock.outcome import Outcome
from penstock.reading.flaws import to_flaw, without_most_unknown_members
from penstock.reading.operation_request import LONGEST_ID
from penstock.service.batches.causes import LONGEST_TITLE, shortened, title_of
from penstock.service.content import JSON, check_type, parse_json, read_content
from penstock.service.keys import SETTINGS
from penstock.store import Store

MOST_STATUSES = 100
MOST_NAMED = 10  # unknown ids in an answer
_LONGEST_EMPTY = 64  # bytes of a body that may be an empty object
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")

_Status = Annotated[int, Field(ge=100, le=999)]
_Id = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]


class RetryChoice(BaseModel):
    """Chooses failures of a batch. A failure is chosen if it fits all members that are present. Without any, all are.

    `status` and `title` are those of a group in the answer of `GET /batch/{id}/failures`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    status: Annotated[list[_Status], FailFast(), Field(min_length=1, max_length=MOST_STATUSES)] = []
    ids: Annotated[list[_Id], FailFast(), Field(min_length=1)] = []
    title: str = ""

    @property
    def is_everything(self) -> bool:
        return not self.model_fields_set

    @property
    def is_by_id(self) -> bool:
        return "ids" in self.model_fields_set

    @property
    def summary(self) -> dict[str, Any]:
        """Return the members that were given, short enough for a line of a log or for a sentence."""
        short = {"status": self.status, "ids": len(self.ids), "title": shortened(self.title, LONGEST_TITLE)}
        return {name: value for name, value in short.items() if name in self.model_fields_set}


EVERYTHING = RetryChoice()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen failures of a batch: the statuses, the title, and the operations of each group. None means any."""

    statuses: frozenset[int] | None = None
    title: str | None = None
    indexes: Mapping[int, frozenset[int]] | None = None

    def groups(self, batch: Batch) -> Sequence[int]:
        """Return the groups that may have chosen failures."""
        return range(len(batch.group_totals)) if self.indexes is None else sorted(self.indexes)

    def has(self, outcome: Outcome, group: int) -> bool:
        return (
            (self.statuses is None or outcome.status in self.statuses)
            and (self.title is None or title_of(outcome.error) == self.title)
            and (self.indexes is None or outcome.index in self.indexes[group])
        )


async def read_choice(request: web.Request) -> RetryChoice:
    """Return the choice in the body of a request. No body, or an empty object, chooses all failures."""
    if request.query:
        raise MalformedRequest("This request has no query. Send the choice in its body.")
    most_bytes = request.app[SETTINGS].max_body_bytes
    content = await read_content(request, most_bytes) if request.can_read_body else bytearray()
    if len(content) <= _LONGEST_EMPTY and b"".join(content.split()) in {b"", b"{}"}:
        return EVERYTHING
    check_type(request, [JSON])
    return choice_of(parse_json(content))


def choice_of(document: Any) -> RetryChoice:
    """Return the choice in a document. Raises InvalidRequest."""
    document = without_most_unknown_members(document, RetryChoice)
    try:
        return RetryChoice.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest([to_flaw(one, document) for one in errors_of(error)]) from error


async def find_chosen(store: Store, batch: Batch, choice: RetryChoice) -> Chosen:
    """Return what a choice means for a batch. Raises InvalidRequest if the batch does not have one of the ids."""
    given = choice.model_fields_set
    return Chosen(
        frozenset(choice.status) if "status" in given else None,
        shortened(choice.title, LONGEST_TITLE) if "title" in given else None,
        await _find_operations(store, batch, choice.ids) if choice.is_by_id else None,
    )


async def _find_operations(store: Store, batch: Batch, ids: Sequence[str]) -> dict[int, frozenset[int]]:
    """Return the operations with these ids, by their group."""
    if len(ids) > batch.total:
        detail = f"The batch has {batch.total:,} operations, and these are {len(ids):,} ids. Name each operation once."
        raise InvalidRequest([Flaw("/ids", detail)])
    index_of = await _own_ids(store, batch, set(ids)) if batch.has_own_ids else _numbers(batch, ids)
    unknown = [position for position, one in enumerate(ids) if one not in index_of]
    if unknown:
        raise InvalidRequest([_unknown(batch, ids, position) for position in unknown[:MOST_NAMED]], len(unknown))
    ends = list(itertools.accumulate(batch.group_totals))
    by_group: defaultdict[int, set[int]] = defaultdict(set)
    for index in index_of.values():
        by_group[bisect_right(ends, index)].add(index)
    return {group: frozenset(indexes) for group, indexes in by_group.items()}


async def _own_ids(store: Store, batch: Batch, ids: AbstractSet[str]) -> dict[str, int]:
    """Return the indexes of the operations with these ids. Read the ids of the batch until all are found."""
    found: dict[str, int] = {}
    first = 0
    for number, total in enumerate(batch.group_totals):
        if len(found) == len(ids):
            break
        of_group = await store.read_ids(batch.id, number)
        found.update((one, first + offset) for offset, one in enumerate(of_group) if one in ids)
        first += total
    return found


def _numbers(batch: Batch, ids: Sequence[str]) -> dict[str, int]:
    return {one: int(one) for one in ids if _NUMBER.fullmatch(one) and int(one) < batch.total}


def _unknown(batch: Batch, ids: Sequence[str], position: int) -> Flaw:
    known = "" if batch.has_own_ids else f" Its ids are the numbers 0 to {batch.total - 1}."
    return Flaw(f"/ids/{position}", f"The batch has no operation with the id {ids[position]!r}.{known}")
