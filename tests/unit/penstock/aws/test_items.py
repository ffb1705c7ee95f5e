"""What the items look like. The tests in tests/contract write them to servers and read them back."""

import random
import string
from dataclasses import replace

import pytest

from penstock.aws import items
from penstock.aws.attributes import binary, number, numbers, text, texts
from penstock.aws.billing import item_bytes
from penstock.batch import STEERED, Batch, BatchState, Counts, Ending, FailureLimit
from penstock.chunk import GROUP_CHUNKS
from penstock.consumer.planning.group_cut import MOST_GROUPS
from penstock.cost import Units
from penstock.errors import NewerVersion
from penstock.outcome import ChunkRecord
from penstock.priority import Priority
from penstock.store import Group, KeyClaim
from tests.support.builders import build_record

PLAIN = Batch(
    id="B1",
    tenant="acme",
    state=BatchState.ACCEPTING,
    total=70,
    chunk_count=70,
    group_totals=(64, 6),
    created_at=1_000.125,
    accept_by=1_060.5,
    deadline_at=4_600.25,
    expires_at=90_000,
)
FULL = replace(
    PLAIN,
    priority=Priority.HIGH,
    not_before=2_000.5,
    failure_limit=FailureLimit(0),
    max_failures=0,
    max_failed_percent=33.3,
    paused_at=3_000.25,
    paused_seconds=12.5,
    concurrency=7,
    has_own_ids=True,
    keys_from="B0",
    headers=(("authorization", "secret"),),
)


def record_of(chunk_id: str) -> ChunkRecord:
    return ChunkRecord(chunk_id, ())


@pytest.mark.parametrize("batch", [PLAIN, FULL])
def test_batch_comes_back_as_it_was(batch: Batch) -> None:
    assert items.batch_from_item(items.batch_to_item(batch)) == batch


def test_item_of_a_batch_has_room_for_as_many_groups_as_a_file_may_have() -> None:
    batch = replace(FULL, group_totals=(500,) * MOST_GROUPS)
    item = {**items.batch_to_item(batch), "finished_groups": numbers(range(MOST_GROUPS))}
    assert item_bytes(item) < 150_000


def test_limit_of_a_batch_of_an_earlier_version_is_a_number_of_failures() -> None:
    item = {**items.batch_to_item(PLAIN), "failure_limit": {"N": "7"}}
    batch = items.batch_from_item(item)
    assert (batch.max_failures, batch.failure_limit) == (7, FailureLimit(7))


def test_what_a_client_may_change_has_an_attribute() -> None:
    assert set(items.steered_to_values(FULL)) == set(STEERED)


@pytest.mark.parametrize("name", ["state", "priority", "ending"])
def test_batch_with_a_value_of_a_newer_version_is_told(name: str) -> None:
    with pytest.raises(NewerVersion, match=f"The {name} 'paused' in the table was written by a newer version"):
        items.batch_from_item({**items.batch_to_item(FULL), name: text("paused")})


def test_group_that_a_newer_version_has_closed_is_told() -> None:
    with pytest.raises(NewerVersion):
        items.group_from_item({"closed": text("paused")})


def test_batch_is_due_when_its_acceptance_lease_ends() -> None:
    item = items.batch_to_item(PLAIN)
    assert (item["open"], item["due_at"]) == (text("open"), {"N": "1060.500"})


def test_chunks_are_sorted_by_their_operations_and_before_their_follow_ups() -> None:
    ids = ["2", "9", "9.1", "9.1.d1", "10", "63"]
    assert sorted(ids, key=items.chunk_sk) == ids
    assert all("chunk#" < items.chunk_sk(chunk_id) < items.CHUNKS_END for chunk_id in ids)


@pytest.mark.parametrize("chunk_id", ["0", "17", "17.1", "17.d1", f"{GROUP_CHUNKS}.2.1"])
def test_chunk_is_known_by_its_keys(chunk_id: str) -> None:
    assert items.chunk_of(items.chunk_key("B1", chunk_id)) == ("B1", chunk_id)


def test_chunk_with_only_notes_has_no_record() -> None:
    assert not items.has_record({**items.chunk_key("B1", "0"), "begun": {"SS": ["m#2"]}})


def test_small_record_is_in_its_item_and_a_large_one_in_parts() -> None:
    small = items.record_to_item(PLAIN, "65", "n", [b"ab"])
    assert (items.record_bytes(small), items.record_part_keys(small)) == (b"ab", [])

    large = items.record_to_item(PLAIN, "65", "n", [b"ab", b"c"])
    parts = items.record_parts_to_items(PLAIN, "65", "n", [b"ab", b"c"])
    assert items.record_part_keys(large) == [{"pk": part["pk"], "sk": part["sk"]} for part in parts]
    assert parts[1]["sk"] == text("part#65#n#1")
    assert b"".join(map(items.record_bytes, parts)) == b"abc"


def test_content_is_cut_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "ITEM_BYTES", 2)
    assert items.cut(b"abcde") == [b"ab", b"cd", b"e"]
    assert items.cut(b"") == []


def test_ids_that_are_too_long_for_one_item_go_into_several(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    ids = ["".join(chance.choices(string.ascii_letters, k=40)) for _ in range(60)]
    monkeypatch.setattr(items, "ITEM_BYTES", 700)
    pieces = items.ids_to_items(PLAIN, 3, ids)
    assert len(pieces) > 2
    assert [operation_id for piece in pieces for operation_id in items.ids_from_item(piece)] == ids
    keys = [piece["sk"]["S"] for piece in pieces]
    assert keys == sorted(keys)
    assert keys[0] == "ids#00000003"


def test_chunks_are_counted_once_in_an_open_group() -> None:
    conditions, values = items.conditions_of_count([record_of("3"), record_of("4")], 5)
    assert conditions == [
        "NOT contains(done, :chunk0)",
        "NOT (attribute_exists(closed) OR completed > :room)",
        "NOT contains(done, :chunk1)",
    ]
    assert values == {"chunk0": text("3"), "chunk1": text("4"), "room": {"N": "5"}}


def test_chunks_that_complete_more_operations_than_their_group_has_are_not_counted() -> None:
    record = build_record("3", Counts(succeeded=2, failed=2))
    conditions, values = items.conditions_of_count([record], 3)
    assert "completed <= :room" in conditions  # also false for a counter that does not exist yet
    assert values["room"] == {"N": "-1"}


def test_redrive_needs_the_failures_that_it_takes_back() -> None:
    conditions, values = items.conditions_of_count([build_record("3.d1", Counts(succeeded=2))], 5)
    assert "failed >= :taken_back" in conditions
    assert values["taken_back"] == {"N": "2"}


def test_redrive_is_counted_in_a_closed_group_if_what_it_corrects_is() -> None:
    conditions, values = items.conditions_of_count([record_of("3.1.d1")], 5)
    assert conditions == [
        "NOT contains(done, :chunk0)",
        "(attribute_not_exists(closed) OR contains(done, :corrected0))",
    ]
    assert values == {"chunk0": text("3.1.d1"), "corrected0": text("3.1")}


def test_group_is_closed_only_if_its_counts_are_those_that_were_seen() -> None:
    """A count that is 0 may be missing."""
    assert items.condition_of_close(Counts(succeeded=1)) == (
        "attribute_not_exists(closed) AND succeeded = :succeeded AND (attribute_not_exists(failed) OR failed = :failed)"
        " AND (attribute_not_exists(cancelled) OR cancelled = :cancelled)"
        " AND (attribute_not_exists(expired) OR expired = :expired)"
    )


def test_what_is_zero_makes_no_report_longer() -> None:
    assert items.spent_to_values(Units(sqs=1.5, requests=2)) == {"sqs_units": {"N": "1500"}, "requests": {"N": "2000"}}


def test_missing_counter_is_a_group_of_zeros() -> None:
    group = items.group_from_item({})
    assert (group.counts, group.redelivered, group.closed, group.done) == (Counts(), 0, None, frozenset())


def test_group_without_done_does_not_decode_what_is_folded() -> None:
    item = {"succeeded": number(9), "done": number(1), "folded": binary(b"?"), "counted": texts(["1"])}
    assert items.group_without_done(item) == Group(Counts(succeeded=9))


def test_batch_that_was_accepted_or_ended_by_this_call_is_recognized() -> None:
    item = {"accepted_at": {"N": "1000.123"}, "ending": text("cancelled"), "reason": text("enough")}
    assert items.was_accepted(item, 1_000.12304)
    assert not items.was_accepted(item, 1_000.124)
    assert not items.was_accepted({}, 1_000.123)
    assert items.was_ended(item, Ending.CANCELLED, "enough")
    assert not items.was_ended(item, Ending.EXPIRED, "enough")


def test_tenant_cannot_name_a_key_of_another() -> None:
    def key_of(tenant: str, key: str) -> str:
        claim = KeyClaim(tenant, key, "f", "B1", "B1", 0.0, 0.0)
        return str(items.claim_key(claim.tenant, claim.key)["pk"]["S"])

    assert key_of("a", "b#c") != key_of("a#b", "c")
    assert key_of("a", "k") == "key#a#k"
