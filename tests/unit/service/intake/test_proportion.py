"""A compressed stream may decompress to much only if it carries operations in proportion."""

import gzip
from typing import Any

import pytest

from penstock import Operations
from penstock.service.intake import reading
from penstock.testing.http import Answer
from tests.support.service import NDJSON, Serve, Service, assert_problem

operations = Operations()
LINE = b'{"method":"POST","path":"/succeed"}\n'
FREE = 200_000


@operations.post("/succeed")
async def succeed() -> None:
    return None


@pytest.fixture
async def service(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(reading, "FREE_BYTES", FREE)
    return await serve(operations)


async def post(service: Service, content: bytes) -> Answer:
    return await service.post_content(gzip.compress(content), NDJSON, **{"Content-Encoding": "gzip"})


@pytest.mark.parametrize("filling", [b"\n" * 500_000, b" " * 500_000, (b" " * 999 + b"\n") * 500])
async def test_blank_lines_and_spaces_are_limited(service: Service, filling: bytes) -> None:
    problem = assert_problem(await post(service, filling + LINE), 413)
    assert FREE <= problem["maxDecompressedBytes"] < 500_000
    assert "Remove blank lines and spaces" in problem["detail"]


CARRYING: dict[str, Any] = {
    "few": b"\n" * 100_000 + LINE,
    "equal operations": LINE * 10_000,
    "operations with spaces": (b" " * 5_000 + LINE) * 100,
}


@pytest.mark.parametrize("content", CARRYING.values(), ids=CARRYING.keys())
async def test_stream_with_operations_may_be_compressed_well(service: Service, content: bytes) -> None:
    assert (await post(service, content)).status in {200, 202}


async def test_body_that_is_not_compressed_may_have_many_blank_lines(service: Service) -> None:
    assert (await service.post_content(b"\n" * 500_000 + LINE, NDJSON)).status == 200
