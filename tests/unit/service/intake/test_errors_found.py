"""A request that is rejected costs little: the validation stops when very many errors were found."""

import gzip
import json
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from penstock import Operations
from penstock.reading.flaws import MOST_FLAWS, MOST_FOUND, MOST_INVALID_BYTES
from penstock.reading.operation_reader import OperationReader
from penstock.testing.http import Answer
from tests.support.service import JSON, NDJSON, Serve, Service, assert_problem

operations = Operations()
COUNT = 50_000
MANY = {f"unknown{number}": 1 for number in range(COUNT)}


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = 0


@operations.post("/numbers")
async def add_numbers(numbers: list[int]) -> int:
    return sum(numbers)


@operations.post("/map")
async def take_map(numbers: dict[str, int]) -> int:
    return len(numbers)


@operations.post("/closed")
async def take_closed(closed: Closed) -> int:
    return closed.number


@operations.post("/any")
async def take_any(body: Any) -> bool:
    return body is None


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(operations)


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the documents of the operations that are validated."""
    documents: list[Any] = []
    read = OperationReader.read

    def note(reader: OperationReader, document: Any) -> Any:
        documents.append(document)
        return read(reader, document)

    monkeypatch.setattr(OperationReader, "read", note)
    return documents


def ask(path: str, body: Any) -> dict[str, Any]:
    return {"method": "POST", "path": path, "body": body}


async def post(service: Service, *asked: Any, **members: Any) -> Answer:
    content = gzip.compress(json.dumps({"operations": asked, **members}).encode(), 1)
    return await service.post_content(content, JSON, **{"Content-Encoding": "gzip"})


async def post_lines(service: Service, *asked: Any) -> Answer:
    content = gzip.compress(b"".join(json.dumps(one).encode() + b"\n" for one in asked), 1)
    return await service.post_content(content, NDJSON, **{"Content-Encoding": "gzip"})


INVALID = {
    "list": ask("/numbers", ["a"] * COUNT),
    "dict": ask("/map", MANY | dict.fromkeys(MANY, "a")),
    "unknown members of the body": ask("/closed", MANY),
    "unknown members of the operation": {**ask("/numbers", []), **MANY},
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID.keys())
@pytest.mark.parametrize("send", [post, post_lines])
async def test_invalid_operation_has_few_errors(service: Service, send: Any, invalid: Any) -> None:
    problem = assert_problem(await send(service, invalid), 422)
    assert 1 <= problem["errorCount"] <= MOST_FLAWS
    assert f"at least {problem['errorCount']} error" in problem["detail"]
    assert all(error["pointer"].startswith("/operations/0") for error in problem["errors"])


async def test_unknown_members_of_the_request_are_few_errors(service: Service) -> None:
    problem = assert_problem(await post(service, ask("/numbers", [1]), **MANY), 422)
    # `operations` is one of the first members.
    assert problem["errorCount"] == len(problem["errors"]) == MOST_FLAWS - 1
    assert problem["errors"][0]["pointer"] == "/unknown0"


async def test_batch_with_very_many_duplicate_ids_is_not_read_to_its_end(service: Service) -> None:
    asked = [{"id": "a", **ask("/numbers", [])}] * 2 * MOST_FOUND
    problem = assert_problem(await post_lines(service, *asked, "not read"), 422)
    assert problem["errorCount"] == 2 * MOST_FOUND - 1
    assert problem["detail"].startswith("The request has at least 19999 errors")
    [error] = problem["errors"]
    assert error["detail"].startswith("19,999 of the first 20,000 operations have the id of an earlier operation.")


@pytest.mark.full
async def test_known_members_are_read_after_very_many_unknown_ones(service: Service) -> None:
    content = json.dumps({**MANY, "operations": [{**MANY, **ask("/numbers", ["a"])}], "atomic": "x"})
    problem = assert_problem(await service.post_content(content.encode()), 422)
    assert problem["errorCount"] == 2 * MOST_FLAWS + 1
    assert "/atomic" in json.dumps(problem["errors"]) or len(problem["errors"]) == MOST_FLAWS


@pytest.mark.full
async def test_unknown_members_of_a_redrive_are_few_errors(service: Service) -> None:
    answer = await service.ask("POST", "/dead-letters/redrive", json=MANY)
    assert assert_problem(answer, 422)["errorCount"] == MOST_FLAWS


async def test_lines_after_very_many_errors_are_not_validated(service: Service, validated: list[Any]) -> None:
    problem = assert_problem(await post_lines(service, *[{}] * (3 * MOST_FOUND)), 422)
    assert len(validated) == MOST_FOUND // 2  # each has two errors
    assert problem["errorCount"] == MOST_FOUND
    assert problem["detail"] == f"The request has at least {MOST_FOUND} errors; nothing was run."
    assert len(problem["errors"]) == MOST_FLAWS
    assert problem["errors"][0] == {"line": 1, "pointer": "/operations/0/method", "detail": "Field required."}


async def test_lines_that_are_not_json_are_errors_too(service: Service) -> None:
    content = b"{\n" * (3 * MOST_FOUND)
    problem = assert_problem(await service.post_content(content, NDJSON), 422)
    assert problem["errorCount"] == MOST_FOUND


async def test_lines_after_very_many_invalid_bytes_are_not_validated(service: Service, validated: list[Any]) -> None:
    size = MOST_INVALID_BYTES // 3
    problem = assert_problem(await post_lines(service, *[ask("/numbers", "a" * size)] * 20), 422)
    assert len(validated) == 3
    assert problem["detail"] == "The request has at least 3 errors; nothing was run."


async def test_lines_that_are_too_large_to_send_are_not_all_read(service: Service, validated: list[Any]) -> None:
    large = ask("/any", "a" * (MOST_INVALID_BYTES // 3))
    problem = assert_problem(await post_lines(service, *[ask("/any", 1)] * 200, *[large] * 20), 413)
    assert len(validated) < 210
    assert problem["detail"].startswith("At least ")
    assert problem["errorCount"] < 10


async def test_very_long_ids_are_not_in_the_answer(service: Service) -> None:
    answer = await post_lines(service, *[{**ask("/any", 1), "id": "i" * 100_000}] * 20)
    assert assert_problem(answer, 422)["errorCount"] == 20
    assert len(answer.content) < 10_000


async def test_very_long_names_are_not_in_the_answer(service: Service) -> None:
    answer = await post(service, ask("/closed", {"n" * 100_000: 1}), **{"n" * 100_000: 1})
    problem = assert_problem(answer, 422)
    assert [error["pointer"] for error in problem["errors"]] == ["", "/operations/0/body"]


async def test_number_with_very_many_digits_is_an_error(service: Service) -> None:
    digits = b"1" * 1_001
    content = b'{"method":"POST","path":"/any","body":%b}' % digits
    problem = assert_problem(await service.post_content(content, NDJSON), 422)
    assert problem["errors"][0]["detail"].startswith("The line is not valid JSON: a number has more than 1,000 digits")
    problem = assert_problem(await service.post_content(b'{"operations":[%b]}' % content), 400)
    assert "a number has more than 1,000 digits" in problem["detail"]
    assert (await service.post_content(content[:-2] + b"}", NDJSON)).status == 200


@pytest.mark.parametrize("levels", [201, 5_000])
async def test_very_many_levels_are_not_called_invalid_json(service: Service, levels: int) -> None:
    content = b'{"method":"POST","path":"/any","body":%b}' % (b"[" * levels + b"]" * levels)
    [error] = assert_problem(await service.post_content(content, NDJSON), 422)["errors"]
    problem = assert_problem(await service.post_content(b'{"operations":[%b]}' % content), 400)
    for detail, what in ((error["detail"], "line"), (problem["detail"], "body")):
        assert detail.startswith(f"The {what} has too many levels: ")
        assert detail.endswith(". Use at most 190 levels of arrays and objects.")


async def test_small_stream_with_very_many_elements_runs_in_the_background(serve: Serve) -> None:
    service = await serve(operations, max_elements=5_000)
    assert (await post_lines(service, *[ask("/numbers", [1] * 2_000)] * 2)).status == 200
    assert (await post_lines(service, *[ask("/numbers", [1] * 2_000)] * 3)).status == 202


async def test_operations_after_very_many_errors_are_not_validated(service: Service, validated: list[Any]) -> None:
    problem = assert_problem(await post(service, *[ask("/numbers", ["a"] * 1_000)] * 100), 422)
    assert len(validated) == MOST_FOUND // 1_000
    assert problem["errorCount"] == MOST_FOUND


@pytest.mark.parametrize("send", [post, post_lines])
async def test_elements_are_limited(serve: Serve, send: Any, validated: list[Any]) -> None:
    service = await serve(operations, max_elements=5_000)
    assert (await send(service, ask("/numbers", [1] * 4_000))).status == 200
    assert len(validated) == 1
    problem = assert_problem(await send(service, ask("/numbers", [1] * 6_100)), 413)
    assert problem["maxElements"] == 5_000
    assert len(validated) == 1
