"""Reads the logs of a fleet from a mark on. The lines before it belong to an earlier scenario."""

from pathlib import Path


class Logs:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marks: dict[Path, int] = {}

    def mark(self) -> None:
        self._marks = {log: log.stat().st_size for log in self.folder.glob("*.log")}

    def read(self, log: Path) -> str:
        with log.open("rb") as opened:
            opened.seek(self._marks.get(log, 0))
            return opened.read().decode(errors="replace")

    def read_all(self, pattern: str = "*.log") -> list[tuple[Path, str]]:
        return [(log, self.read(log)) for log in sorted(self.folder.glob(pattern))]
