"""An export: the outcomes of a final batch as files in the bucket, and how far it is. Pure, with the port to the table.

One front end makes an export. It holds a *lease*, which it extends while it works. If it dies, the lease ends, and the
next front end goes on after the last finished part. Each lease has a number, which is in the names of the files that
are written under it. So a front end that has lost its lease overwrites nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Protocol
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from penstock.batch import Counts

EXPORTS = "exports/"  # the prefix of all exports; `infra/bucket.yaml` names it, too
LEASE_SECONDS = 60.0
MOST_TRIES = 5  # without a finished part, until an export has failed
MOST_PARTS = 2_000  # they are in the item of the export, which may have 400 KB


class ExportState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ExportWish:
    """What a client asks for: which outcomes of which batch, and in what form."""

    format: str
    status: str | None = None
    compression: str | None = None

    def id_for(self, counted: Iterable[tuple[Counts, float | None]]) -> str:
        """Return the id of this export of a batch. `counted` has the counts of its groups, and their times.

        After a retry there is another export, also if other errors are all that has changed.
        """
        words = "|".join(map(str, (self.format, self.status, self.compression, *counted)))
        return sha256(words.encode()).hexdigest()[:20]


class ExportPart(Struct, frozen=True):
    """A file with the rows of an export that follow each other. `sha256` is that of the file."""

    key: str
    rows: int
    bytes: int
    sha256: str


class Export(Struct, frozen=True):
    """An export as the table has it. `cursor` is the position after the last part.

    CSV has the same `columns` in every part, and a last one for other members if `has_more`. `revision` changes with
    each write.
    """

    batch_id: str
    tenant: str
    id: str
    format: str
    status: str | None
    compression: str | None
    total: int  # of the rows
    created_at: float
    expires_at: float
    state: ExportState = ExportState.RUNNING
    parts: tuple[ExportPart, ...] = ()
    cursor: str | None = None
    columns: tuple[str, ...] | None = None
    has_more: bool = False
    lease: int = 0
    lease_until: float = 0.0
    tries: int = 0  # since the last part
    error: str | None = None
    revision: str = ""

    @property
    def wish(self) -> ExportWish:
        return ExportWish(self.format, self.status, self.compression)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def folder(self) -> str:
        return f"{EXPORTS}{quote(self.tenant, safe='')}/{self.batch_id}/{self.id}/"

    @property
    def manifest_key(self) -> str:
        return f"{self.folder}manifest.json"

    @property
    def suffix(self) -> str:
        return f".{self.format}.gz" if self.compression else f".{self.format}"

    @property
    def is_full(self) -> bool:
        return len(self.parts) >= MOST_PARTS

    @property
    def oldest_key(self) -> str:
        """Return the key of the file that is deleted first."""
        return self.parts[0].key if self.parts else self.manifest_key

    def next_key(self) -> str:
        """Return where the next part is written under the present lease."""
        return f"{self.folder}{self.lease}/part-{len(self.parts) + 1:05d}{self.suffix}"

    def may_be_claimed(self, now: float) -> bool:
        return self.state is ExportState.RUNNING and now >= self.lease_until

    def claimed(self, now: float) -> "Export":
        """Return the export with a new lease. If it was tried too often, it has failed."""
        if self.tries >= MOST_TRIES:
            error = f"It was interrupted {MOST_TRIES} times in a row. Ask for it again."
            return replace(self, state=ExportState.FAILED, error=error)
        return replace(self, lease=self.lease + 1, lease_until=now + LEASE_SECONDS, tries=self.tries + 1)

    def extended(self, now: float) -> "Export":
        return replace(self, lease_until=now + LEASE_SECONDS)

    def with_part(self, part: ExportPart, cursor: str, now: float) -> "Export":
        return replace(self.extended(now), parts=(*self.parts, part), cursor=cursor, tries=0)

    def released(self, now: float) -> "Export":
        """Return the export for whoever goes on with it, immediately. What was interrupted on purpose is no try."""
        return replace(self, lease_until=now, tries=max(0, self.tries - 1))

    def completed(self) -> "Export":
        return replace(self, state=ExportState.COMPLETED, lease_until=0.0)

    def too_large(self) -> "Export":
        error = (
            f"It has more than {MOST_PARTS:,} files. Export the outcomes of one status, or read the results in pages."
        )
        return replace(self, state=ExportState.FAILED, error=error, lease_until=0.0)

    def outdated(self) -> "Export":
        """Return the export as failed, because its files would have outcomes of before a retry and of after it."""
        error = "The batch was retried while it was exported. Ask for another export."
        return replace(self, state=ExportState.FAILED, error=error, lease_until=0.0)

    def restarted(self) -> "Export":
        """Return an export that has failed as one that may be claimed again. The number of its lease goes on."""
        return replace(self, state=ExportState.RUNNING, tries=0, error=None, lease_until=0.0)

    def begun_again(self) -> "Export":
        """Return an export whose files were deleted as one that is made from the start."""
        return replace(self.restarted(), parts=(), cursor=None)


class ExportStore(Protocol):
    """The part of the store that has the exports."""

    async def read_export(self, batch_id: str, export_id: str) -> Export | None:
        """Return an export, or None if there is none."""

    async def write_export(self, export: Export, seen: Export | None, revision: str) -> Export | None:
        """Write an export with a new revision, unless somebody has written it since it was `seen`.

        Return the export with this revision, or None if another write was faster. `seen` is None for a new export.
        """


def encode_export(export: Export) -> bytes:
    return msgspec.json.encode(export)


def decode_export(content: bytes) -> Export:
    return _decoder.decode(content)


_decoder = msgspec.json.Decoder(Export)
