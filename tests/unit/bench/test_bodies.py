"""The operations that a run sends."""

import json
from itertools import islice
from pathlib import Path

import pytest

from bench.application import FAILING_DOMAIN, Order
from bench.bodies import draw_operations, failing, request_body
from penstock import zstd


@pytest.mark.parametrize("size", [200, 1_074])
def test_operations_are_valid_and_of_their_size(size: int) -> None:
    for line in islice(draw_operations("noop", size, fails=True), 200):
        operation = json.loads(line)
        Order.model_validate(operation["body"])
        assert (operation["method"], operation["path"]) == ("POST", "/noop")
        assert size - 10 <= len(line) - 1 <= size + 10


def test_operations_are_the_same_every_time_and_compress_as_data_does() -> None:
    drawn = b"".join(islice(draw_operations("order", 1_074, fails=True), 100))
    assert drawn == b"".join(islice(draw_operations("order", 1_074, fails=True), 100))
    assert 2 < len(drawn) / len(zstd.compress(drawn)) < 5


@pytest.mark.parametrize("operations", [49, 50, 51, 100, 1_000])
def test_one_operation_in_a_hundred_fails(operations: int) -> None:
    drawn = list(islice(draw_operations("noop", 200, fails=True), operations))
    assert sum(FAILING_DOMAIN.encode() in line for line in drawn) == failing(operations)
    assert not any(FAILING_DOMAIN.encode() in line for line in islice(draw_operations("noop", 200, fails=False), 200))


def test_operations_are_sent_as_a_document_or_as_lines(tmp_path: Path) -> None:
    file = tmp_path / "operations"
    file.write_bytes(b'{"path":"/a"}\n{"path":"/b"}\n')
    document = request_body(file, as_lines=False)
    assert document.content_type == "application/json"
    assert document.data.read() == b'{"operations":[{"path":"/a"},{"path":"/b"}]}'
    stream = request_body(file, as_lines=True)
    assert stream.content_type == "application/x-ndjson"
    assert stream.data.read() == file.read_bytes()
    stream.data.close()
