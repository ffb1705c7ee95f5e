"""The texts of the repository, as tests read them: their files, their code blocks, their markers."""

import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
FILES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "infra/*.md", "bench/*.md", "examples/*/*.md")
    for path in REPOSITORY.glob(pattern)
)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CLIENT_MARKER = "<!-- code: run the python blocks below against the users example -->"
_MARKER = re.compile(r"<!-- code: run the console blocks below against (.+) -->")


def name_of(file: Path) -> str:
    return file.relative_to(REPOSITORY).as_posix()


def blocks(file: Path, language: str) -> Iterator[str]:
    for match in _BLOCK.finditer(file.read_text()):
        if match[1] == language:
            yield match[2]


def marker(file: Path) -> str | None:
    """Return what the page's console blocks run against, or None if they are not run."""
    found = _MARKER.search(file.read_text())
    return found[1] if found else None


def prose(file: Path) -> str:
    """Return the text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)


def client_marker(file: Path) -> bool:
    """Return True if the page's python blocks call a server."""
    return _CLIENT_MARKER in file.read_text()
