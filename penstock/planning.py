"""A batch that is an uploaded file: a consumer validates the file and cuts it into chunks.

While that lasts, the batch is in state validating. It has these items besides:

    file          where the file is, and how it is read. It never changes
    plan          of each group: which part of the file it is, and how it is cut into chunks. It is written once
    errors        what is invalid, if the batch fails

The plan of a group starts where that of the group before ends. So whoever goes on with a batch starts from the last
plan in the table, and all who ever do get the same chunks, even two at the same time. The item of the batch only says
where to start, and how far the work is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.bucket import StoredFile
from penstock.errors import Flaw
from penstock.open_limit import OpenLimit
from penstock.quota import Account, Limit, Quota

if TYPE_CHECKING:
    from penstock.batch import Batch, BatchState, Ending
    from penstock.webhooks.event import FinalEvent

MOST_PLAN_BYTES = 300_000  # of the errors in a plan: an item has at most 400 KB
Place = Mapping[str, Any]
"""Where in a file a reader is, as a JSON value: `reading/forms.py` makes it."""


@dataclass(frozen=True, slots=True)
class Planning:
    """How far the planning of a batch is. All numbers only grow."""

    file_bytes: int
    read_bytes: int = 0
    operations: int = 0  # that were read
    groups: int = 0  # whose plans are known to be in the table
    is_valid: bool = False  # the whole file is valid. Then `operations` and `groups` are those of the batch
    sent_groups: int = 0  # whose chunks are all on the queue
    sent_operations: int = 0
    errors: int = 0
    planner: str | None = None  # who works on it
    lease_until: float = 0.0  # of the planner. After it, another one goes on
    takes: int = 0  # how often the lease was taken since there was progress, each time after a planner that died


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """The file of a batch. `form` says how it is read, `limits` and `open_limits` what its operations count towards.

    The ids of its operations are compared by hashes with the key `hash_key`, so that nobody can make two with the same.
    """

    stored: StoredFile
    form: Mapping[str, Any]
    hash_key: str
    limits: Sequence[Limit] = ()
    open_limits: Sequence[OpenLimit] = ()

    def encode(self) -> bytes:
        limits = [
            [one.name, one.account.tenant, one.account.key_id, one.quota.operations, one.quota.window_seconds]
            for one in self.limits
        ]
        opens = [[one.name, one.account.tenant, one.account.key_id, one.operations] for one in self.open_limits]
        stored = [self.stored.key, self.stored.size, self.stored.etag]
        return zstd.compress(to_json([stored, self.form, self.hash_key, limits, opens]))

    @classmethod
    def decode(cls, content: bytes) -> "PlannedFile":
        stored, form, hash_key, limits, opens = from_json(zstd.decompress(content))
        return cls(
            StoredFile(*stored),
            form,
            hash_key,
            [Limit(name, Account(tenant, key_id), Quota(*quota)) for name, tenant, key_id, *quota in limits],
            [OpenLimit(name, Account(tenant, key_id), most) for name, tenant, key_id, most in opens],
        )


@dataclass(frozen=True, slots=True)
class Errors:
    """What is invalid. `flaws` are some of the errors, each with the index of its operation, and `count` is how many.

    If not `is_complete`, there may be more, because the validation stopped early.
    """

    count: int = 0
    is_complete: bool = True
    invalid_bytes: int = 0  # of the operations with these errors
    flaws: Sequence[tuple[int, Flaw]] = ()

    @property
    def sentence(self) -> str:
        at_least, plural = "" if self.is_complete else "at least ", "error" if self.count == 1 else "errors"
        return f"The file has {at_least}{self.count:,} {plural}; nothing was run."

    def encode(self) -> bytes:
        """Return the errors as bytes that fit into an item. If they are too many, the last ones are left out."""
        flaws = [[index, one.pointer, one.detail, one.line] for index, one in self.flaws]
        while True:
            content = zstd.compress(to_json([self.count, self.is_complete, self.invalid_bytes, flaws]))
            if len(content) <= MOST_PLAN_BYTES:
                return content
            flaws = flaws[: len(flaws) // 2]

    @classmethod
    def decode(cls, content: bytes) -> "Errors":
        count, is_complete, invalid_bytes, flaws = from_json(zstd.decompress(content))
        found = [(index, Flaw(pointer, detail, line)) for index, pointer, detail, line in flaws]
        return cls(count, is_complete, invalid_bytes, found)


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """A part of the file that becomes a group: from the end of the plan before to `end`.

    `sizes` are the numbers of operations in its chunks. `totals` and `handler_seconds` include all groups before it.
    """

    number: int
    first_index: int
    sizes: tuple[int, ...]
    end: Place
    is_last: bool
    handler_seconds: float = 0.0
    has_own_ids: bool = False
    digests: str | None = None  # the file in the bucket with the digests of its ids and keys
    parts: tuple[int, ...] = ()  # how many digests are in each part of this file
    errors: Errors = field(default_factory=Errors)

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def encode(self) -> bytes:
        values = [self.number, self.first_index, self.sizes, self.end, self.is_last, self.handler_seconds]
        content = to_json([*values, self.has_own_ids, self.digests, self.parts])
        return zstd.compress(content)

    @classmethod
    def decode(cls, content: bytes, errors: bytes | None) -> "GroupPlan":
        number, first, sizes, end, is_last, seconds, own, digests, parts = from_json(zstd.decompress(content))
        found = Errors() if errors is None else Errors.decode(errors)
        return cls(number, first, tuple(sizes), end, is_last, seconds, own, digests, tuple(parts), found)


class PlanStore(Protocol):
    """The part of the store that knows files of batches and their plans."""

    async def write_file(self, batch: "Batch", file: PlannedFile) -> None:
        """Write the file of a batch. Call it before the batch is created."""

    async def read_file(self, batch_id: str) -> PlannedFile | None:
        """Return the file of a batch, or None if the batch is none, or past its retention."""

    async def take_planning(self, batch_id: str, planner: str, now: float, until: float) -> "Batch | None":
        """Take the lease to plan a batch that is validating, if nobody has it.

        Returns the batch as it is now, or None if it does not exist. Its `planning` says who has the lease.
        """

    async def note_planning(self, batch_id: str, planning: Planning, due_at: float) -> bool:
        """Write how far the planning is, and extend the lease. A sweep looks at the batch after `due_at`.

        Returns False, and changes nothing, if another planner has the lease, or if the batch is not validating.
        """

    async def extend_planning(self, batch_id: str, planner: str, until: float, due_at: float) -> bool:
        """Extend the lease of a planner. Returns False as `note_planning` does."""

    async def leave_planning(self, batch_id: str, planner: str, due_at: float, reason: str | None = None) -> None:
        """End the lease of a planner, so that another one can go on, at `due_at` at the latest.

        `reason` says for clients what the batch waits for. It is removed when the batch is taken again.
        """

    async def postpone_planning(self, batch_id: str, due_at: float) -> None:
        """Let a sweep look at a batch that is validating after `due_at`."""

    async def write_plan(self, batch: "Batch", plan: GroupPlan) -> GroupPlan:
        """Write the plan of a group if it has none, and return the plan that it has now."""

    async def read_plans(self, batch_id: str, numbers: Sequence[int]) -> dict[int, GroupPlan]:
        """Return the plans of these groups that exist."""

    async def write_errors(self, batch: "Batch", errors: Errors) -> None:
        """Write what is invalid in the file of a batch."""

    async def read_errors(self, batch_id: str) -> Errors | None:
        """Return what is invalid in the file of a batch, or None if the table has nothing of that."""

    async def accept_planned(self, batch: "Batch", at: float) -> bool:
        """Move a batch from validating to queued, with its totals, if all of its groups are sent.

        A repetition with the same time succeeds. Returns False if it is not validating, or if a group is missing.
        """

    async def end_planning(
        self,
        batch_id: str,
        state: "BatchState",
        at: float,
        reason: str,
        *,
        ending: "Ending | None" = None,
        errors: int = 0,
        event: "FinalEvent | None" = None,
    ) -> bool:
        """Move a batch from validating to a final state. None of its operations will ever run.

        A repetition with the same time succeeds. Returns False if it is not validating.
        """
