"""The collector leaves alone what a program has loaded, and chunks that come and go."""

import gc
from collections.abc import Iterator

import pytest

from penstock.running.collector import THRESHOLD, spare_json, spare_what_stays


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


def test_no_collection_visits_large_json_while_it_is_read() -> None:
    with spare_json():
        with spare_json():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.full
def test_what_is_loaded_is_not_gone_through_again() -> None:
    loaded: list[list[int]] = [[] for _ in range(1_000)]
    spare_what_stays()
    assert gc.get_freeze_count() > len(loaded)


@pytest.mark.full
def test_holding_as_much_as_some_chunks_starts_no_collection() -> None:
    spare_what_stays()
    before = [generation["collections"] for generation in gc.get_stats()]
    held: list[list[int]] = [[] for _ in range(THRESHOLD // 2)]
    assert [generation["collections"] for generation in gc.get_stats()] == before
    assert len(held) == THRESHOLD // 2
