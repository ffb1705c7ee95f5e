import pytest

from penstock.chunk import Chunk, Links, Operation
from penstock.dependencies import (
    Progress,
    blocked_by_failures,
    components,
    links_error,
    needed_outside,
    share_out,
    units,
    with_connected,
    with_more_attempts,
)


def build(after: dict[int, tuple[int, ...]], *, groups: dict[int, int] | None = None) -> tuple[Operation, ...]:
    """Build operations with these links: `after` has all indexes, and `groups` those in atomic groups."""
    groups = groups or {}
    return tuple(
        Operation(index, f"op-{index}", "POST", "/x", links=_links(needed, groups.get(index)))
        for index, needed in after.items()
    )


def _links(after: tuple[int, ...], group: int | None) -> Links | None:
    return Links(after, group) if after or group is not None else None


def indexes(operations: tuple[Operation, ...] | list[Operation]) -> list[int]:
    return [operation.index for operation in operations]


def taken(progress: Progress) -> list[int]:
    return [operation.index for unit in progress.take_ready() for operation in unit]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({0: (), 1: (), 2: ()}, [[0], [1], [2]]),
        ({0: (), 1: (0,), 2: ()}, [[0, 1], [2]]),
        ({0: (), 1: (), 2: (0, 1)}, [[0, 1, 2]]),  # connected by what depends on both
        ({0: (), 1: (), 2: (0,), 3: (1,)}, [[0, 2], [1, 3]]),  # between each other
        ({5: (4,), 6: (5,)}, [[5, 6]]),  # 4 is in no chunk any more
        ({5: (4,), 6: (4,)}, [[5], [6]]),  # what has succeeded connects nothing
    ],
)
def test_components(after: dict[int, tuple[int, ...]], expected: list[list[int]]) -> None:
    assert list(map(indexes, components(build(after)))) == expected


def test_atomic_group_is_a_unit_and_connected() -> None:
    operations = build({0: (), 1: (), 2: (1,), 3: ()}, groups={0: 0, 1: 0})
    assert list(map(indexes, units(operations))) == [[0, 1], [2], [3]]
    assert list(map(indexes, components(operations))) == [[0, 1, 2], [3]]


def test_operations_become_ready_as_others_succeed() -> None:
    progress = Progress(build({0: (), 1: (0,), 2: (0,), 3: (1, 2), 4: (9,)}))
    assert taken(progress) == [0, 4]  # 9 is not in the chunk, so it has succeeded
    assert progress.take_ready() == []
    progress.note_success(0)
    assert taken(progress) == [1, 2]
    progress.note_success(1)
    assert progress.take_ready() == []
    assert progress.left == 1
    progress.note_success(2)
    assert taken(progress) == [3]
    assert progress.left == 0


def test_group_is_ready_when_all_needs_of_its_members_are_met() -> None:
    progress = Progress(build({0: (), 1: (), 2: (0,), 3: (2,)}, groups={1: 1, 2: 1}))
    assert taken(progress) == [0]
    progress.note_success(0)
    assert taken(progress) == [1, 2]
    progress.note_success(2)
    assert taken(progress) == [3]


def test_failure_blocks_all_that_depend_on_it() -> None:
    operations = build({0: (), 1: (0,), 2: (1,), 3: (), 4: (3, 0)})
    assert blocked_by_failures(operations, {0: False, 3: True}) == {1: 0, 2: 1, 4: 0}


def test_failure_blocks_a_whole_group() -> None:
    operations = build({0: (), 1: (), 2: (0,)}, groups={1: 1, 2: 1})
    assert blocked_by_failures(operations, {0: False}) == {1: 0, 2: 0}


def test_choice_includes_what_is_connected() -> None:
    operations = build({0: (), 1: (0,), 2: (), 3: (2,)})
    assert indexes(with_connected(operations, {1, 9})) == [0, 1]
    plain = build({0: (), 1: ()})
    assert indexes(with_connected(plain, {1})) == [1]


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([1, 99], 2, [[0], [1]]),  # the first and the last are never together
        ([99, 1], 2, [[0], [1]]),
        ([1, 1, 1, 1], 2, [[0, 1], [2, 3]]),
        ([5], 2, [[0]]),
        ([1, 1], 5, [[0], [1]]),
        ([], 2, []),
    ],
)
def test_shares_have_whole_components(sizes: list[int], count: int, expected: list[list[int]]) -> None:
    parts, first = [], 0
    for size in sizes:
        parts.append(build({index: () if index == first else (first,) for index in range(first, first + size)}))
        first += size
    shares = share_out(parts, count)
    numbers = {part[0].index: number for number, part in enumerate(parts)}
    assert [[numbers[one.index] for one in share if one.index in numbers] for share in shares] == expected
    assert sum(map(len, shares)) == sum(sizes)


def test_deaths_count_for_what_runs_alone_only() -> None:
    chunk = Chunk("b", "0.0.1.0", 2, build({0: (), 1: (0,)}), behind=((1, 1),), one_at_a_time=True)
    assert chunk.attempts() == {0: 2, 1: 1}
    assert with_more_attempts(chunk, 2).attempts() == {0: 4, 1: 1}


def test_forged_circle_is_an_error() -> None:
    assert links_error(Chunk("b", "0", 1, build({0: (), 1: (0,)}))) is None
    assert "Operation 1" in str(links_error(Chunk("b", "0", 1, build({0: (), 1: (2,), 2: (1,)}))))
    circle = build({0: (), 1: (0,), 2: (1,)}, groups={0: 0, 2: 0})  # the group needs 1, which needs the group
    assert "Operation 0" in str(links_error(Chunk("b", "0", 1, circle)))


def test_needs_outside_of_a_chunk() -> None:
    assert needed_outside(Chunk("b", "0", 1, build({3: (1, 2), 4: (3,)}))) == {1, 2}
