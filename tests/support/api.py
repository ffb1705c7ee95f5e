"""A client for the HTTP API, with plain calls and typed answers."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp

from tests.support.waiting import eventually

Operation = dict[str, Any]
Outcome = dict[str, Any]

STATUS_POLL_SECONDS = 0.1  # reading a status costs several calls, and polling faster would slow down the programs
FINAL = {"completed", "failed", "cancelled", "expired"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Status:
    """The counts and the state of a batch, as GET status returns them."""

    status: str
    total: int
    completed: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    progress: float

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_exact(self) -> bool:
        ended = self.succeeded + self.failed + self.cancelled + self.expired
        return ended == self.completed <= self.total


class Api:
    """A front end: `url` is for clients, `operator_url` for operators.

    No connection is kept open, so another process may answer the next call.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, operator_url: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._session = session
        self._headers = dict(headers or {})  # of every request
        self.url = url
        self.operator_url = operator_url

    def of(self, headers: Mapping[str, str]) -> "Api":
        """Return a client of the same front end that sends other headers, such as those of another tenant."""
        return Api(self._session, self.url, self.operator_url, headers)

    async def post(self, operations: Sequence[Operation], **members: Any) -> Answer:
        """Send POST /batch, and return the answer whatever its status."""
        body = BytesIO(json.dumps({"operations": list(operations), **members}).encode())
        headers = {"Content-Type": "application/json", **self._headers}
        async with self._session.post(f"{self.url}/batch", data=body, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.json(content_type=None))

    async def submit(self, operations: Sequence[Operation], **members: Any) -> str:
        """Return the id of a batch that was accepted."""
        answer = await self.post(operations, **members)
        assert answer.status == 202, answer
        batch_id: str = answer.body["batchId"]
        return batch_id

    async def stream(self, operation: Operation, count: int, **query: str) -> str:
        """Post copies of an operation as NDJSON, to run in the background. Return the id of the accepted batch."""
        body = BytesIO((json.dumps(operation).encode() + b"\n") * count)
        headers = {"Content-Type": "application/x-ndjson", "Prefer": "respond-async", **self._headers}
        async with self._session.post(f"{self.url}/batch", data=body, params=query, headers=headers) as answer:
            content = await answer.json(content_type=None)
            assert answer.status == 202, content
        batch_id: str = content["batchId"]
        return batch_id

    async def cancel(self, batch_id: str) -> None:
        async with self._session.post(f"{self.url}/batch/{batch_id}/cancel", headers=self._headers) as answer:
            assert answer.status == 202, await answer.text()

    async def steer(self, batch_id: str, **changes: Any) -> None:
        """Change a batch while it runs."""
        url = f"{self.url}/batch/{batch_id}"
        async with self._session.patch(url, json=changes, headers=self._headers) as answer:
            assert answer.status == 200, await answer.text()

    async def redrive(self) -> Answer:
        """Redrive all dead letters."""
        async with self._session.post(f"{self.operator_url}/dead-letters/redrive", json={}) as answer:
            return Answer(answer.status, answer.headers, await answer.json(content_type=None))

    async def dead_letters(self) -> Answer:
        async with self._session.get(f"{self.operator_url}/dead-letters") as answer:
            return Answer(answer.status, answer.headers, await answer.json(content_type=None))

    async def get(self, path: str) -> Answer:
        """GET a path, and return the JSON answer whatever its status."""
        headers = {"Accept": "application/json", **self._headers}
        async with self._session.get(self.url + path, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.json(content_type=None))

    async def status(self, batch_id: str) -> Status:
        """Return the status of a batch. Every read must be exact, so this checks it, for all tests."""
        answer = await self.get(f"/batch/{batch_id}/status")
        assert answer.status == 200, answer
        status = Status(**{name: answer.body[name] for name in Status.__dataclass_fields__})
        assert status.is_exact, status
        return status

    async def results(self, batch_id: str, query: str = "") -> list[Outcome]:
        """Return all results, read as NDJSON. A stream that breaks off raises an error."""
        async with self._session.get(f"{self.url}/batch/{batch_id}/results{query}", headers=self._headers) as answer:
            text = await answer.text()
            assert answer.status == 200, text
        return [json.loads(line) for line in text.splitlines()]

    async def ended(self, batch_id: str, units: float = 40) -> Status:
        """Wait until a batch is finished, and return its status."""

        async def final_status() -> Status | None:
            status = await self.status(batch_id)
            return status if status.is_final else None

        status = await eventually(final_status, units, poll_seconds=STATUS_POLL_SECONDS)
        assert status is not None
        return status

    async def completed(self, batch_id: str, count: int, units: float = 40) -> Status:
        """Wait until `count` operations of a batch have an outcome, and return its status."""

        async def far_enough() -> Status | None:
            status = await self.status(batch_id)
            return status if status.completed >= count else None

        status = await eventually(far_enough, units, poll_seconds=STATUS_POLL_SECONDS)
        assert status is not None
        return status


@asynccontextmanager
async def open_api(port: int, operator_port: int | None = None) -> AsyncIterator[Api]:
    """Open a client of a front end. It listens for operators on the next port, if no other port is given."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(session, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{operator_port or port + 1}")
