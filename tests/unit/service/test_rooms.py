"""The rooms of the service import each other only in the directions that `service/__init__.py` describes."""

import ast
from pathlib import Path

import pytest

import penstock

PACKAGE = "penstock.service"
FOLDER = Path(penstock.__file__).parent / "service"
ROOMS = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
PROGRAM = {"__init__", "__main__", "app", "openapi", "routes"}  # these may import every room
ALLOWED = {
    "intake": {"batches", "limits"},
    "batches": {"limits"},
    "events": {"batches"},
    "dialects": {"batches", "intake"},
    "console": {"batches", "intake", "openapi", "operators"},
}


def place_of(path: Path) -> str:
    """Return the room of a file, or its own name if it is in no room."""
    first, *rest = path.relative_to(FOLDER).parts
    return first if rest else path.stem


def imported_rooms(path: Path) -> set[str]:
    modules = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    parts = [module.removeprefix(f"{PACKAGE}.").split(".")[0] for module in modules if module]
    return ROOMS.intersection(parts)


def test_there_are_rooms() -> None:
    assert {"intake", "batches", "operators"} <= ROOMS


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_file_imports_only_the_rooms_that_it_may(path: Path) -> None:
    place = place_of(path)
    if place not in PROGRAM:
        assert imported_rooms(path) <= {place} | ALLOWED.get(place, set())
