"""The operations that a run sends."""

import json
from itertools import islice
from pathlib import Path

import pytest

from bench.application import Order
from bench.bodies import draw_operations, request_body
from penstock import zstd


@pytest.mark.parametrize("size", [200, 1_074])
def test_operations_are_valid_and_of_their_size(size: int) -> None:
    for line in islice(draw_operations("noop", size), 200):
        operation = json.loads(line)
        Order.model_validate(operation["body"])
        assert (operation["method"], operation["path"]) == ("POST", "/noop")
        assert size - 10 <= len(line) - 1 <= size + 10


def test_operations_are_the_same_every_time_and_compress_as_data_does() -> None:
    drawn = b"".join(islice(draw_operations("order", 1_074), 100))
    assert drawn == b"".join(islice(draw_operations("order", 1_074), 100))
    assert 2 < len(drawn) / len(zstd.compress(drawn)) < 5


def test_few_operations_come_as_a_document_and_many_as_a_stream(tmp_path: Path) -> None:
    file = tmp_path / "operations"
    file.write_bytes(b'{"path":"/a"}\n{"path":"/b"}\n')
    document = request_body(file, 1_000)
    assert (document.content_type, document.data) == (
        "application/json",
        b'{"operations":[{"path":"/a"},{"path":"/b"}]}',
    )
    stream = request_body(file, 1_001)
    assert stream.content_type == "application/x-ndjson"
    assert not isinstance(stream.data, bytes)
    stream.data.close()
