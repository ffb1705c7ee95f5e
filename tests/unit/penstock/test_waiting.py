"""Errors of calls that were made at the same time."""

import weakref
from contextlib import suppress

import pytest

from penstock.waiting import raise_first
from tests.support.garbage import without_collections


class Kept:
    """What a caller has."""


def fail(_kept: Kept, count: int) -> None:
    raise_first([None, *[ValueError("of a call that several callers share")] * count, OSError("of another call")])


def test_results_without_an_error_raise_none() -> None:
    raise_first([])
    raise_first([None, 1, None])


@pytest.mark.parametrize("count", [1, 2])
def test_error_does_not_keep_its_callers_in_memory(count: int) -> None:
    kept = Kept()
    freed = weakref.ref(kept)
    with without_collections():
        with suppress(ValueError):
            fail(kept, count)
        del kept
        assert freed() is None
