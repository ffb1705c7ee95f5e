"""A limit of the operations that have not finished, for a tenant or a key, and what counts towards it. Pure.

The table has one item for each account, with an entry for each open batch. An entry is added before the batch is
accepted. It is lowered, or removed, when somebody needs the room and reads how far the batch is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.quota import Account

MOST_ENTRIES = 1_000  # batches of an account
MOST_OPERATIONS = 2**53 - 1  # the largest number that every JSON parser reads exactly
UNKNOWN_SECONDS = 60  # to wait, if nothing has finished yet
LONGEST_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """The name of an entry: a batch, or one retry of it.

    If the batch was not accepted by `lapses_at`, its front end has died. A retry does not count after this time.
    """

    id: str
    lapses_at: int  # in whole seconds
    retry_id: str | None = None


@dataclass(frozen=True, slots=True)
class OpenOperations:
    """The entries of an account, with the operations of each that count, and their sum."""

    total: int = 0
    entries: Mapping[OpenBatch, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenLimit:
    """At most `operations` of an account may be open, under the name that answers give to this limit."""

    name: str
    account: Account
    operations: int

    def has_room(self, is_open: OpenOperations, operations: int) -> bool:
        """Return True if a batch of this many operations may be added."""
        return len(is_open.entries) < MOST_ENTRIES and is_open.total + operations <= self.operations


def seconds_to_room(excess: int, each_second: float) -> int:
    """Return how long it takes until this many operations have finished, if this many finish in each second."""
    if each_second <= 0:
        return UNKNOWN_SECONDS
    return min(max(1, math.ceil(excess / each_second)), LONGEST_SECONDS)
