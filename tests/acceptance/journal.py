"""Records what the toy handlers did in all processes, in a file, and has the gate that some of them wait for."""

import asyncio
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Entry:
    what: str  # "begun" or "done"
    key: str
    pid: int
    attempt: int


class Journal:
    """A file in a folder that the test and the programs know. The lines of one process are in the order of writing."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "journal"
        self._gate = folder / "gate"

    def write(self, what: str, key: str, attempt: int) -> None:
        line = json.dumps(asdict(Entry(what, key, os.getpid(), attempt))) + "\n"
        # One write to a file opened for appending: lines of several processes never mix.
        descriptor = os.open(self._file, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def entries(self, what: str | None = None) -> list[Entry]:
        if not self._file.exists():
            return []
        entries = [Entry(**json.loads(line)) for line in self._file.read_text().splitlines()]
        return [entry for entry in entries if what in {None, entry.what}]

    def runs(self) -> Counter[str]:
        """Return how often each operation, by its key, ran to the end."""
        return Counter(entry.key for entry in self.entries("done"))

    def pids(self) -> set[int]:
        return {entry.pid for entry in self.entries()}

    def most_at_once(self, pid: int) -> int:
        """Return how many handlers of a process ran at the same time at most."""
        under_way = most = 0
        for entry in self.entries():
            if entry.pid == pid:
                under_way += 1 if entry.what == "begun" else -1
                most = max(most, under_way)
        return most

    def open_gate(self) -> None:
        self._gate.touch()

    @property
    def is_gate_open(self) -> bool:
        return self._gate.exists()

    async def until_gate_is_open(self) -> None:
        while not self._gate.exists():  # noqa: ASYNC110 - the gate is opened by another process
            await asyncio.sleep(POLL_SECONDS)
