"""A front end remembers the numbers of groups of the batches whose status was read lately."""

from dataclasses import replace

import pytest

from penstock.service import group_numbers
from penstock.service.group_numbers import MOST_GROUPS, GroupNumbers
from tests.support.builders import BATCH_ID, build_batch


@pytest.mark.parametrize(("groups", "number"), [(1, 1), (2, 2), (MOST_GROUPS, MOST_GROUPS), (MOST_GROUPS + 1, 1)])
def test_batch_is_read_with_all_its_groups_unless_they_are_many(groups: int, number: int) -> None:
    batch = build_batch(*[1] * groups)
    numbers = GroupNumbers()
    assert numbers.of(batch.id) == 1
    numbers.note(batch)
    assert numbers.of(batch.id) == number


def test_batch_of_one_chunk_is_known_after_it_was_read() -> None:
    numbers = GroupNumbers()
    for batch in (build_batch(5, chunk_count=1), replace(build_batch(5, chunk_count=2), id="two")):
        assert not numbers.has_one_chunk(batch.id)
        numbers.note(batch)
    assert [numbers.has_one_chunk(name) for name in (BATCH_ID, "two", "unknown")] == [True, False, False]
    assert numbers.of(BATCH_ID) == 1


def test_only_the_latest_batches_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_numbers, "MOST_BATCHES", 2)
    numbers = GroupNumbers()
    for name in ("a", "b", "a", "c"):
        numbers.note(replace(build_batch(1, 1), id=name))
    assert [numbers.of(name) for name in ("a", "b", "c")] == [1, 2, 2]
