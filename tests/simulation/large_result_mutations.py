"""Faults in keeping large results in the bucket."""

import asyncio
from typing import Any

import pytest

from penstock import large_results
from penstock.large_results import LargeResults
from penstock.outcome import Outcome, StoredResult

_writing: set[asyncio.Task[Any]] = set()


def commit_before_the_files_are_written(patching: pytest.MonkeyPatch) -> None:
    write = LargeResults._write

    async def mutant(self: LargeResults, *call: Any) -> None:
        task = asyncio.create_task(write(self, *call))
        _writing.add(task)
        task.add_done_callback(_writing.discard)

    patching.setattr(LargeResults, "_write", mutant)


def name_files_by_operation(patching: pytest.MonkeyPatch) -> None:
    """Let all deliveries of a chunk write the same files, whatever their handlers have returned."""

    def mutant(outcome: Outcome) -> StoredResult:
        return StoredResult(outcome.id, len(outcome.result.content))

    patching.setattr(large_results, "_reference", mutant)
