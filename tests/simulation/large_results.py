"""Checks the results in the bucket: a record refers only to files that exist, and these never change."""

from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from penstock.api_key import DEFAULT_TENANT
from penstock.large_results import result_key
from penstock.outcome import ChunkRecord, Outcome, StoredResult
from tests.simulation.s3 import Files

Check = Callable[[bool, int, str], None]


class LargeResultChecks:
    def __init__(self, check: Check) -> None:
        self.files: Files | None = None
        self._check = check
        self._contents: dict[str, bytes] = {}  # of the files that records refer to, as they were recorded

    def on_record(self, batch_id: str, record: ChunkRecord) -> None:
        for outcome in record.outcomes:
            if isinstance(outcome.result, StoredResult):
                key = result_key(DEFAULT_TENANT, batch_id, outcome.result)
                content = None if self.files is None else self.files.contents.get(key)
                self._check(content is not None, 2, f"the record {record.chunk_id} refers to {key}, which is missing")
                self._contents.setdefault(key, content or b"null")

    def value_of(self, batch_id: str, outcome: Outcome) -> Any:
        """Return the result of an outcome as it was recorded."""
        if not isinstance(outcome.result, StoredResult):
            return outcome.result
        return from_json(self._contents[result_key(DEFAULT_TENANT, batch_id, outcome.result)])

    def check_line(self, batch_id: str, outcome: Outcome, line: dict[str, Any]) -> None:
        """Check that a client is told the result that was recorded."""
        is_same = line.get("result") == self.value_of(batch_id, outcome)
        self._check(is_same, 2, f"results of {batch_id} tell another result of {outcome.id} than was recorded")
