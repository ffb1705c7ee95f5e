"""`make test` plays a story for each promise of a batch and for each program."""

import importlib
from pathlib import Path

import pytest

# The first seven of what is promised. The others are about memory and other tenants, and have unit tests.
PROMISES = {
    "acceptance is atomic",
    "exactly one recorded outcome",
    "counters are exact at every read",
    "a batch always ends",
    "never again once recorded",
    "poison hurts no neighbour",
    "stopping loses nothing",
}
# `submit` and `profile` have theirs in tests/unit/penstock/cli and tests/examples.
PROGRAMS = {"up", "provision", "serve", "consume", "consume --processes"}
ROLES = {"roles"}  # together they use everything that the roles on AWS grant


def test_every_promise_and_every_program_has_a_story() -> None:
    assert _told() == PROMISES | PROGRAMS | ROLES


def _told() -> set[str]:
    modules = [
        importlib.import_module(f"tests.acceptance.{file.stem}") for file in Path(__file__).parent.glob("test_*.py")
    ]
    marks: list[pytest.Mark] = []
    for module in modules:
        for name, test in vars(module).items():
            if name.startswith("test_"):
                marks += _marks(test)
    return {what for mark in marks if mark.name == "story" for what in mark.args}


def _marks(test: object) -> list[pytest.Mark]:
    """Return the marks of a test and of its single cases."""
    marks: list[pytest.Mark] = list(getattr(test, "pytestmark", []))
    cases = [case for mark in marks if mark.name == "parametrize" for case in mark.args[1]]
    return marks + [getattr(mark, "mark", mark) for case in cases for mark in getattr(case, "marks", ())]
