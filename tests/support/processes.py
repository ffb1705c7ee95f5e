"""Reads from /proc which processes run on this machine, and which process started them."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
ENDED = {"Z", "X"}


@dataclass(frozen=True, slots=True)
class Process:
    """A process. `started` distinguishes it from a later process with the same id."""

    pid: int
    parent: int
    started: int
    command: str = field(compare=False)  # between fork and exec it is still that of the parent

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def children_of(pid: int) -> list[Process]:
    everyone = [process for folder in PROC.iterdir() if folder.name.isdecimal() and (process := _read(folder))]
    return sorted((process for process in everyone if process.parent == pid), key=lambda process: process.started)


def is_running(process: Process) -> bool:
    now = _read(PROC / str(process.pid))
    return now is not None and now.started == process.started


def _read(folder: Path) -> Process | None:
    """Return None for a process that has ended, even if nobody has read its exit code yet."""
    try:
        stat = (folder / "stat").read_text()
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in brackets and may contain anything. Only the fields after the last bracket can be split.
    state, parent, *rest = stat.rpartition(")")[2].split()
    if state in ENDED:
        return None
    return Process(int(folder.name), int(parent), int(rest[17]), command)
