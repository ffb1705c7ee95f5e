"""The metadata of a batch: how it is given, what is rejected, and where it is read again."""

from typing import Any

import pytest

from penstock import Operations
from penstock.service import known_metadata
from penstock.service.known_metadata import KnownMetadata
from penstock.testing import MemoryStore
from tests.support.builders import build_batch
from tests.support.faults import Moment
from tests.support.service import NDJSON, Serve, Service, ask_for, assert_problem, pointers

METADATA = {"team": "growth", "order.id": "17 \u00e4", "empty": ""}
LINES = b'{"method": "POST", "path": "/run"}\n' * 3

operations = Operations()


@operations.post("/run")
async def run() -> None:
    pass


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(operations, sync_max_operations=0)


async def test_metadata_of_a_document_is_in_the_status(service: Service) -> None:
    answer = await service.post(ask_for("/run"), metadata=METADATA)
    assert (await service.get(answer.body["statusUrl"])).body["metadata"] == METADATA


async def test_metadata_of_a_stream_is_in_its_query(service: Service) -> None:
    query = {f"metadata.{name}": value for name, value in METADATA.items()}
    answer = await service.ask("POST", "/batch", params=query, data=LINES, headers={"Content-Type": NDJSON})
    assert (await service.get(answer.body["statusUrl"])).body["metadata"] == METADATA


async def test_repeated_request_gets_the_metadata_too(service: Service) -> None:
    key = {"Idempotency-Key": '"a"'}
    answers = [await service.post(ask_for("/run"), key, metadata=METADATA) for _ in range(2)]
    assert answers[1].body["metadata"] == METADATA
    assert_problem(await service.post(ask_for("/run"), key, metadata={}), 422)


async def test_batch_without_metadata_has_none_of_it_in_its_item(service: Service) -> None:
    nothing: list[dict[str, str] | None] = [{}, None]
    for metadata in nothing:
        answer = await service.post(ask_for("/run"), metadata=metadata)
        batch = await service.parts.store.read_batch(answer.body["batchId"])
        assert batch is not None
        assert not batch.has_metadata
        assert (await service.get(answer.body["statusUrl"])).body["metadata"] == {}


INVALID: dict[str, tuple[Any, str]] = {
    "text": ("team", "/metadata"),
    "list": ([], "/metadata"),
    "number": ({"team": 1}, "/metadata/team"),
    "null": ({"team": None}, "/metadata/team"),
    "long value": ({"team": "x" * 513}, "/metadata/team"),
    "long name": ({"n" * 65: "x"}, f"/metadata/{'n' * 65}"),
    "no name": ({"": "x"}, "/metadata/"),
    "too many": ({str(number): "x" for number in range(17)}, "/metadata"),
    "far too many": ({str(number): number for number in range(20_000)}, "/metadata"),
}


@pytest.mark.parametrize(("metadata", "pointer"), INVALID.values(), ids=INVALID)
async def test_invalid_metadata_is_rejected(service: Service, metadata: Any, pointer: str) -> None:
    problem = assert_problem(await service.post(ask_for("/run"), metadata=metadata), 422)
    assert pointers(problem) == [pointer]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("metadata=x", "/metadata"),
        ("metadata.team=a&metadata.team=b", "/metadata.team"),
        (f"metadata.team={'x' * 513}", "/metadata/team"),
        ("&".join(f"metadata.{number}=x" for number in range(17)), "/metadata"),
    ],
)
async def test_invalid_metadata_of_a_stream_is_rejected(service: Service, query: str, pointer: str) -> None:
    problem = assert_problem(
        await service.ask("POST", f"/batch?{query}", data=LINES, headers={"Content-Type": NDJSON}), 422
    )
    assert pointers(problem) == [pointer]


async def test_object_in_the_query_of_a_stream_is_told_the_right_form(service: Service) -> None:
    query = "metadata=%7B%22team%22%3A%22growth%22%7D"
    answer = await service.ask("POST", f"/batch?{query}", data=LINES, headers={"Content-Type": NDJSON})
    [error] = assert_problem(answer, 422)["errors"]
    assert error["detail"] == "Write each pair as a parameter, such as metadata.team=growth."


async def test_metadata_in_the_query_of_a_document_is_rejected(service: Service) -> None:
    body = {"operations": ask_for("/run")}
    problem = assert_problem(await service.ask("POST", "/batch?metadata.team=x", json=body), 422)
    assert "Only NDJSON and CSV have their options in the query." in problem["errors"][0]["detail"]


async def test_as_much_as_is_allowed_is_accepted(service: Service) -> None:
    metadata = {f"{number:064}": "\u20ac" * 512 for number in range(16)}
    answer = await service.post(ask_for("/run"), metadata=metadata)
    assert (await service.get(answer.body["statusUrl"])).body["metadata"] == metadata


async def test_metadata_is_read_once(serve: Serve) -> None:
    calls: list[str] = []

    def watch(call: str, moment: Moment) -> None:
        if moment == "after":
            calls.append(call)

    service = await serve(operations, sync_max_operations=0, watch=watch)
    status_url = (await service.post(ask_for("/run"), metadata=METADATA)).body["statusUrl"]
    calls.clear()
    await service.get(status_url)
    await service.get(status_url)
    assert calls == ["store.read_progress", "store.read_metadata", "store.read_progress"]


async def test_metadata_that_was_read_first_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_metadata, "MOST_CHARACTERS", 10)
    store = MemoryStore()
    batches = [build_batch(1, id=f"b{number}", has_metadata=True) for number in range(3)]
    for batch in batches:
        await store.list_batch(batch, {"key": batch.id})
    known = KnownMetadata(store)
    assert [await known.of(batch) for batch in batches] == [{"key": "b0"}, {"key": "b1"}, {"key": "b2"}]
    assert list(known._known) == ["b1", "b2"]
    assert await known.of(batches[0]) == {"key": "b0"}
