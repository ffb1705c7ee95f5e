"""The journal of a consumer: what it holds and runs, in a file of its parent, so that it survives the consumer.

If the consumer dies, its successor reads the journal and gives the deliveries back: see `giving_back.py`.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import from_json, to_json

from penstock.chunk import Chunk
from penstock.priority import Priority
from penstock.queue import Delivery

JOURNAL_BYTES = 1024 * 1024  # then it is written again, with only what is held
_PROCESS, _RECEIVED, _STARTED, _SETTLED = "process", "received", "started", "settled"


@dataclass(frozen=True, slots=True)
class Entry:
    """A delivery that a consumer holds, as it is written in the journal."""

    message_id: str
    receive_count: int
    receipt: str
    priority: str
    batch_id: str
    chunk_id: str
    is_single: bool
    expires_at: float | None = None  # when its batch will expire, if it may not be written yet

    @property
    def delivery(self) -> Delivery:
        """Return the delivery without its body: enough to note something about it and to release it."""
        return Delivery(self.message_id, "", self.receipt, self.receive_count, priority=Priority(self.priority))


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What a dead consumer held: its id in the table, and the entries with True for those that had started."""

    process: str
    held: tuple[tuple[Entry, bool], ...]


@dataclass(frozen=True, slots=True)
class Journals:
    """The files of a parent for one run of a consumer: its own journal, and the one of its predecessor, which died."""

    own: int | None = None
    predecessors: int | None = None


NO_JOURNALS = Journals()


class Journal:
    """Writes to the file `descriptor`. Does nothing without one, or after the file could not be written."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._process = ""
        self._bytes = 0
        self._held: dict[str, Entry] = {}
        self._started: set[str] = set()

    def open(self, process: str) -> None:
        """Write the id under which this process leaves notes in the table."""
        self._process = process
        self._write(_PROCESS, process)

    def receive(self, delivery: Delivery, chunk: Chunk) -> None:
        if self._descriptor is None:
            return
        entry = Entry(
            delivery.message_id,
            delivery.receive_count,
            delivery.receipt,
            delivery.priority,
            chunk.batch_id,
            chunk.id,
            chunk.one_at_a_time or len(chunk.operations) == 1,
            None if delivery.sent_ahead is None else delivery.sent_ahead.expires_at,
        )
        self._held[delivery.mark] = entry
        self._write(_RECEIVED, asdict(entry))

    def start(self, delivery: Delivery) -> None:
        """Write that a handler of this delivery is about to start. It may be called again."""
        if delivery.mark in self._held and delivery.mark not in self._started:
            self._started.add(delivery.mark)
            self._write(_STARTED, delivery.mark)

    def settle(self, delivery: Delivery) -> None:
        """Write that the delivery was acknowledged or released."""
        if self._held.pop(delivery.mark, None) is not None:
            self._started.discard(delivery.mark)
            self._write(_SETTLED, delivery.mark)

    def _write(self, step: str, what: Any) -> None:
        if self._bytes > JOURNAL_BYTES:
            self._write_again()
        self._append((step, what))

    def _write_again(self) -> None:
        """Replace the file. If the process dies during this, the leases of what is missing end by themselves."""
        if self._descriptor is not None:
            self._bytes = 0
            with suppress(OSError):
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.ftruncate(self._descriptor, 0)
        received = [(_RECEIVED, asdict(entry)) for entry in self._held.values()]
        self._append((_PROCESS, self._process), *received, *((_STARTED, mark) for mark in self._started))

    def _append(self, *steps: tuple[str, Any]) -> None:
        if self._descriptor is None:
            return
        try:
            self._bytes += os.write(self._descriptor, b"".join(to_json(step) + b"\n" for step in steps))
        except OSError:
            self._descriptor = None


def open_file() -> int:
    """Open a file for a journal. It has no name, and is gone when all processes have closed it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("penstock-journal")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def read_predecessor(descriptor: int) -> Predecessor:
    """Return what a consumer held when it died. A line that cannot be read is left out."""
    size = os.fstat(descriptor).st_size
    process, held, started = "", dict[str, Entry](), set[str]()
    for step, what in _lines(os.pread(descriptor, size, 0)):
        if step == _PROCESS:
            process = what
        elif step == _RECEIVED:
            entry = Entry(**what)
            held[entry.delivery.mark] = entry
        elif step == _STARTED:
            started.add(what)
        elif step == _SETTLED:
            held.pop(what, None)
    return Predecessor(process, tuple((entry, mark in started) for mark, entry in held.items()))


def _lines(content: bytes) -> Iterator[tuple[str, Any]]:
    for line in content.splitlines():
        with suppress(ValueError):
            step, what = from_json(line)
            yield step, what
