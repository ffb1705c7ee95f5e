"""The key that a client gives to an operation: it is checked, and the handler gets it in every attempt and redrive."""

from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from penstock import Operations
from penstock.message import decode_chunk
from tests.support.plant import Toys, build_plant
from tests.support.service import NDJSON, Serve, Service, assert_problem, pointers

operations = Operations()


@operations.post("/run")
async def run() -> None:
    pass


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(operations)


def with_keys(*keys: Any) -> list[dict[str, Any]]:
    return [{"method": "POST", "path": "/run"} | ({} if key is ... else {"key": key}) for key in keys]


async def test_two_operations_with_the_same_key_are_rejected_and_named(service: Service) -> None:
    problem = assert_problem(await service.post(with_keys("a", ..., "b", "a", "b")), 422)
    assert [(error["pointer"], error["detail"]) for error in problem["errors"]] == [
        ("/operations/3/key", "Operation 0 has the same key 'a'. Keys must be unique within a batch."),
        ("/operations/4/key", "Operation 2 has the same key 'b'. Keys must be unique within a batch."),
    ]


async def test_line_with_the_key_of_another_line_is_named(service: Service) -> None:
    lines = b'{"method":"POST","path":"/run","key":"a"}\n\n{"method":"POST","path":"/run","key":"a"}\n'
    problem = assert_problem(await service.post_content(lines, NDJSON), 422)
    assert [(error["pointer"], error["line"]) for error in problem["errors"]] == [("/operations/1/key", 3)]


@pytest.mark.parametrize("key", ["", "a" * 256, "ä", "a\n", "a\t", "\x7f", 5, ["a"], True])
async def test_invalid_key_is_rejected(service: Service, key: Any) -> None:
    assert pointers(assert_problem(await service.post(with_keys(..., key)), 422)) == ["/operations/1/key"]


async def test_operations_without_a_key_may_be_many(service: Service) -> None:
    answer = await service.post(with_keys(..., None, None, "0", "~" * 255, " "))
    assert answer.body["summary"] == {"total": 6, "succeeded": 6, "failed": 0}


async def test_key_comes_along_in_every_attempt_and_in_a_redrive(aiohttp_client: AiohttpClient) -> None:
    toys = Toys()
    plant = await build_plant(aiohttp_client, toys.operations())
    paths = ["/second-time-right/1", "/break/1", "/reject/1", "/succeed/1"]
    asked = [{"method": "POST", "path": path, "key": f"own {path}"} for path in paths]
    answer = await plant.service.post(asked, {"Prefer": "respond-async"})
    await plant.work_off()
    listed = (await plant.ask("GET", "/dead-letters")).body["deadLetters"]
    assert [letter["operations"][0]["key"] for letter in listed] == ["own /break/1", "own /reject/1"]
    toys.is_mended = True
    await plant.ask("POST", "/dead-letters/redrive", json={})
    await plant.work_off()
    await plant.ask("POST", f"/batch/{answer.body['batchId']}/retry")
    await plant.work_off()
    assert toys.times == {"0": 2, "1": 2, "2": 3, "3": 1}
    assert {(context.operation_id, context.key) for context in toys.runs} == {
        (str(number), f"own {path}") for number, path in enumerate(paths)
    }


async def test_messages_of_a_batch_have_the_new_version_only_if_they_have_keys(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0)
    for keys, version in [((..., ...), 1), ((..., "a"), 2)]:
        await service.post(with_keys(*keys))
        message = service.parts.chunks.messages[-1].body
        assert message.startswith(f'{{"v":{version},')
        assert [operation.key for operation in decode_chunk(message).operations] == [
            None if key is ... else key for key in keys
        ]


async def test_handler_of_a_small_batch_gets_the_key(serve: Serve) -> None:
    toys = Toys()
    service = await serve(toys.operations())
    await service.post([{"method": "POST", "path": "/succeed/1", "key": "mine"}])
    assert [(context.key, context.tenant) for context in toys.runs] == [("mine", "default")]
