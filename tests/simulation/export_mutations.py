"""Faults in making an export."""

import asyncio

import pytest

from penstock.export import Export, ExportPart
from penstock.service.batches.export_files import PartWriter
from tests.simulation.rewriting import drop_condition, rewrite

Patching = pytest.MonkeyPatch
_writing: set[asyncio.Task[ExportPart]] = set()


def export_whoever_has_the_lease(patching: Patching) -> None:
    """Add a part although another front end goes on with the export."""
    rewrite(patching, "write_export", drop_condition)


def forget_where_a_part_ends(patching: Patching) -> None:
    """Go on with an export after its first row, whichever parts it has."""
    with_part = Export.with_part

    def mutant(self: Export, part: ExportPart, cursor: str, now: float) -> Export:
        return with_part(self, part, self.cursor or cursor, now)

    patching.setattr(Export, "with_part", mutant)


def add_a_part_before_its_file_is_there(patching: Patching) -> None:
    """Add a part while its file is being written."""
    finish = PartWriter.finish

    async def mutant(self: PartWriter) -> ExportPart:
        task = asyncio.create_task(finish(self))
        _writing.add(task)
        task.add_done_callback(_writing.discard)
        task.add_done_callback(lambda _: task.cancelled() or task.exception())
        return ExportPart(self._key, self.rows, self._file.size, self._file.sha256)

    patching.setattr(PartWriter, "finish", mutant)
