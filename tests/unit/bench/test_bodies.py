"""The operations that a run sends."""

import json
from itertools import islice

import pytest
from backports import zstd

from bench.application import Order
from bench.bodies import draw_operations, is_streamed, raised_limits


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


def test_what_is_not_streamed_has_its_limits_raised() -> None:
    assert raised_limits(1_000) == {}
    assert bool(raised_limits(1_001)) is not is_streamed(1_001)
