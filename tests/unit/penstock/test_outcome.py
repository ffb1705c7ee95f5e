"""The one decision: what an attempt at a chunk came to, as outcomes and as the chunks that follow."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from msgspec.structs import replace as with_changes

from penstock.backoff import Backoff
from penstock.batch import Counts, Ending
from penstock.chunk import Chunk, Operation, from_sort_key, sort_key
from penstock.message import decode_chunk, encode_chunk
from penstock.outcome import (
    LEAST_TURN_SECONDS,
    MOST_TRIES,
    ChunkRecord,
    Ended,
    FollowUp,
    Outcome,
    OutcomeState,
    TryAgain,
    Verdict,
    dead_letters,
    delay_seconds,
    failed,
    follow_up_chunks,
    in_next_round,
    is_throttled,
    never_ended,
    next_round,
    poison_verdicts,
    record_attempt,
    record_halves,
    record_too_early,
    succeeded,
)
from penstock.record import decode_record, encode_record
from tests.support.builders import build_chunk, build_operation

ANY = Operation(0, "op-0", "POST", "/users")
NOW = 1_000.0
BACKOFF = Backoff(base_seconds=8, max_seconds=300)
DRAW = 0.5  # so the backoff says 4 s after the first attempt, 8 s after the second


def make_chunk(count: int, attempt: int = 1, chunk_id: str = "17") -> Chunk:
    operations = tuple(Operation(index, f"op-{index}", "POST", "/users", {"n": index}) for index in range(count))
    return Chunk("01J", chunk_id, attempt, operations)


def ok(index: int) -> Outcome:
    return succeeded(make_chunk(9).operations[index], 200, {"n": index})


def broken(index: int) -> Outcome:
    return failed(make_chunk(9).operations[index], 500, "Broke", "It broke.")


def rejected(index: int) -> Outcome:
    return failed(make_chunk(9).operations[index], 409, "Rejected", "Taken.", rejected=True)


def again(index: int, *, of: int = 3, after: float | None = None) -> TryAgain:
    return TryAgain(broken(index), max_attempts=of, after_seconds=after)


def turned_away(index: int, *, after: float | None = None) -> TryAgain:
    return TryAgain(broken(index), 1, after, uses_attempt=False)


def record(
    chunk: Chunk, *verdicts: Verdict | None, attempts: dict[int, int] | None = None, ended: Ended | None = None
) -> ChunkRecord:
    by_index = {index: verdict for index, verdict in enumerate(verdicts) if verdict is not None}
    return record_attempt(chunk, by_index, backoff=BACKOFF, draw=DRAW, now=NOW, attempts=attempts, ended=ended)


@pytest.mark.parametrize(
    ("attempt", "verdicts", "outcomes", "follow_ups"),
    [
        # All went well: nothing follows.
        (1, [ok(0), ok(1)], [ok(0), ok(1)], []),
        # What a handler refused is as final as what it did.
        (1, [ok(0), rejected(1)], [ok(0), rejected(1)], []),
        # What is to be tried again follows, its attempt one higher, delayed by the backoff.
        (1, [again(0), again(1)], [], [FollowUp("17.0.1.0", 2, (0, 1), NOW + 4)]),
        (2, [ok(0), again(1)], [ok(0)], [FollowUp("17.0.1.1", 3, (1,), NOW + 8)]),
        # A handler's word on the wait goes before the backoff, be it shorter or longer.
        (1, [again(0, after=0), again(1, after=2)], [], [FollowUp("17.0.1.0", 2, (0, 1), NOW + 2)]),
        (1, [again(0, after=70)], [], [FollowUp("17.0.1.0", 2, (0,), NOW + 70)]),
        # They wait together: one that asked for less does not take the backoff from the others.
        (1, [again(0, after=0), again(1)], [], [FollowUp("17.0.1.0", 2, (0, 1), NOW + 4)]),
        (1, [again(0, after=70), again(1)], [], [FollowUp("17.0.1.0", 2, (0, 1), NOW + 70)]),
        # One that was only turned away keeps its attempt, and none is the last.
        (3, [ok(0), turned_away(1, after=70)], [ok(0)], [FollowUp("17.0.1.1", 3, (1,), NOW + 70)]),
        (
            2,
            [again(0), turned_away(1)],
            [],
            [FollowUp("17.0.1.1", 2, (1,), NOW + 8), FollowUp("17.0.1.0", 3, (0,), NOW + 8)],
        ),
        # The last attempt: the failure is final.
        (3, [ok(0), again(1)], [ok(0), broken(1)], []),
        # Handlers may differ in how often they are tried.
        (2, [again(0, of=2), again(1, of=3)], [broken(0)], [FollowUp("17.0.1.1", 3, (1,), NOW + 8)]),
        # An attempt beyond the last, since the application now allows fewer.
        (5, [again(0)], [broken(0)], []),
        # Stopped before anything ran: all of it follows, at once, as the same attempt.
        (2, [None, None], [], [FollowUp("17.0.1.0", 2, (0, 1), None)]),
        # Stopped half-way.
        (1, [ok(0), None, None], [ok(0)], [FollowUp("17.0.1.1", 1, (1, 2), None)]),
        # Everything at once: what is tried again and what was not run follow apart, since their attempts differ.
        (
            2,
            [again(0), None, ok(2), rejected(3), again(4, of=2), None],
            [ok(2), rejected(3), broken(4)],
            [FollowUp("17.0.1.0", 3, (0,), NOW + 8), FollowUp("17.0.1.1", 2, (1, 5), None)],
        ),
    ],
)
def test_attempt_becomes_outcomes_and_follow_ups(
    attempt: int, verdicts: list[Verdict | None], outcomes: list[Outcome], follow_ups: list[FollowUp]
) -> None:
    answer = record(make_chunk(len(verdicts), attempt), *verdicts)
    assert answer.chunk_id == "17"
    assert list(answer.outcomes) == outcomes
    assert list(answer.follow_ups) == follow_ups


@pytest.mark.parametrize(
    ("chunk_id", "after", "wait"),
    [
        ("17", None, BACKOFF.delay_seconds(1, DRAW)),
        ("17.0.1.0", None, BACKOFF.delay_seconds(2, DRAW)),
        ("17.0.4.0", None, BACKOFF.delay_seconds(5, DRAW)),
        ("17.0.9.0", None, BACKOFF.delay_seconds(MOST_TRIES, DRAW)),
        ("17", 0, 0),
        ("17.0.1.0", 0, LEAST_TURN_SECONDS),
        ("17.0.9.0", 7, 7),
    ],
)
def test_what_is_turned_away_again_and_again_waits_longer(chunk_id: str, after: float | None, wait: float) -> None:
    answer = record(make_chunk(1, chunk_id=chunk_id), turned_away(0, after=after))
    [following] = answer.follow_ups
    assert (following.attempt, following.not_before) == (1, NOW + wait)


def test_what_was_often_postponed_waits_for_half_a_minute_at_most_when_it_is_turned_away() -> None:
    chunk = make_chunk(1)
    for _ in range(20):
        postponed = record_attempt(chunk, {}, backoff=Backoff(), draw=DRAW, now=NOW, postponed={0: 900.0})
        [chunk] = follow_up_chunks(chunk, postponed)
    answer = record_attempt(chunk, {0: turned_away(0)}, backoff=Backoff(), draw=DRAW, now=NOW)
    [following] = answer.follow_ups
    assert following.not_before == NOW + DRAW * 32


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (turned_away(0), False),
        (TryAgain(failed(ANY, 429, "Too many"), 3, uses_attempt=False), True),
        (TryAgain(failed(ANY, 503, "Busy"), 3, 7, uses_attempt=False), True),
        (TryAgain(failed(ANY, 409, "Still running"), 3, uses_attempt=False), False),
        (TryAgain(failed(ANY, 503, "Down"), 3), False),
        (failed(ANY, 429, "Rejected"), False),
        (ok(0), False),
    ],
)
def test_what_asks_the_fleet_to_slow_down(verdict: Verdict, *, expected: bool) -> None:
    assert is_throttled(verdict) is expected


def test_what_is_turned_away_as_the_batch_ends_has_failed() -> None:
    answer = record(make_chunk(1), turned_away(0), ended=Ended(Ending.EXPIRED))
    assert (answer.outcomes, answer.follow_ups) == ((broken(0),), ())


def test_record_keeps_the_failed_operations_for_a_retry_and_no_others() -> None:
    chunk = make_chunk(5, attempt=3)
    answer = record(chunk, ok(0), broken(1), again(2), rejected(3), None)
    assert answer.failed_operations == (chunk.operations[1], chunk.operations[2], chunk.operations[3])


def test_counts_are_those_of_the_outcomes() -> None:
    answer = record(make_chunk(5, attempt=3), ok(0), ok(1), rejected(2), again(3), None)
    assert answer.counts == Counts(succeeded=2, failed=2)


def test_counts_know_every_state() -> None:
    states = [*OutcomeState, OutcomeState.FAILED]
    outcomes = tuple(with_changes(ok(0), index=index, state=state) for index, state in enumerate(states))
    assert ChunkRecord("17", outcomes).counts == Counts(succeeded=1, failed=2, cancelled=1, expired=1)


@pytest.mark.parametrize("seed", range(50))
def test_every_operation_ends_in_an_outcome_or_in_exactly_one_follow_up(seed: int) -> None:
    draw = random.Random(seed)
    chunk = make_chunk(draw.randint(1, 9), attempt=draw.randint(1, 4))
    drawn = [
        draw.choice([None, ok(index), rejected(index), again(index), again(index, of=1, after=draw.random())])
        for index in range(len(chunk.operations))
    ]
    answer = record(chunk, *drawn)

    ends = Counter(outcome.index for outcome in answer.outcomes)
    ends.update(index for follow_up in answer.follow_ups for index in follow_up.indexes)
    assert ends == Counter(operation.index for operation in chunk.operations)
    assert answer.counts.completed == len(answer.outcomes)
    assert all(follow_up.indexes for follow_up in answer.follow_ups)


@pytest.mark.parametrize("count", [2, 3, 100, 101])
def test_chunk_that_a_consumer_died_with_is_halved(count: int) -> None:
    chunk = make_chunk(count, attempt=2)
    answer = record_halves(chunk)
    first, second = follow_up_chunks(chunk, answer)

    assert not answer.outcomes
    assert (first.id, second.id) == ("17.0.1.0", f"17.0.1.{len(first.operations)}")
    assert (first.attempt, second.attempt) == (2, 2)
    assert first.operations + second.operations == chunk.operations
    assert 0 <= len(second.operations) - len(first.operations) <= 1


def test_one_poison_operation_is_cornered_in_as_many_steps_as_halving_takes() -> None:
    chunk, steps = make_chunk(100), 0
    while len(chunk.operations) > 1:
        chunk = next(
            half for half in follow_up_chunks(chunk, record_halves(chunk)) if chunk.operations[-1] in half.operations
        )
        steps += 1
    assert steps == 7


@pytest.mark.parametrize(("deaths", "times"), [(1, "lease when it ran"), (3, "(3 times)")])
def test_poison_fails_for_good_and_says_why(deaths: int, times: str) -> None:
    chunk = make_chunk(1)
    answer = record(chunk, poison_verdicts(chunk, deaths)[0])
    (outcome,) = answer.outcomes
    assert (outcome.state, outcome.status, outcome.rejected) == (OutcomeState.FAILED, 500, False)
    assert outcome.error is not None
    assert times in outcome.error["detail"]
    assert answer.follow_ups == ()
    assert answer.failed_operations == chunk.operations


def test_chunk_that_came_too_early_follows_from_itself_unchanged() -> None:
    chunk = replace(make_chunk(3, attempt=2), not_before=5_000.0)
    answer = record_too_early(chunk)
    (following,) = follow_up_chunks(chunk, answer)
    assert following == replace(chunk, id="17.0.1.0")
    assert answer.counts == Counts()


@pytest.mark.parametrize("seed", range(50))
def test_ids_of_all_that_follows_never_meet(seed: int) -> None:
    """Everything that follows from a chunk within twelve steps, with redrives, if chance decides what happens."""
    draw = random.Random(seed)
    layer = [make_chunk(9, chunk_id=draw.choice(["17", "17.2", "17.d1", "17.1.1"]))]
    ids = [layer[0].id]
    for _ in range(12):
        records = [(chunk, possible_record(draw, chunk)) for chunk in layer]
        layer = [following for chunk, answer in records for following in follow_up_chunks(chunk, answer)]
        layer += [letter for _, answer in records for letter in dead_letters("01J", answer)]
        ids += [chunk.id for chunk in layer]
    assert len(ids) > 3
    assert len(set(ids)) == len(ids)
    assert [from_sort_key(sort_key(chunk_id)) for chunk_id in ids] == ids


def possible_record(draw: random.Random, chunk: Chunk) -> ChunkRecord:
    if draw.random() < 0.3:
        return record_too_early(chunk)
    if len(chunk.operations) > 1 and draw.random() < 0.4:
        return record_halves(chunk)
    kinds = {
        operation.index: draw.choice(
            [again(operation.index, of=99), None, ok(operation.index), broken(operation.index)]
        )
        for operation in chunk.operations
    }
    verdicts = {index: verdict for index, verdict in kinds.items() if verdict is not None}
    attempts = {index: draw.choice([1, 1, 2]) for index in kinds}
    return record_attempt(chunk, verdicts, backoff=BACKOFF, draw=DRAW, now=NOW, attempts=attempts)


def test_operation_cannot_be_redriven_without_end() -> None:
    chunk, generations = make_chunk(1), 0
    while letters := dead_letters("01J", record(chunk, broken(0))):
        [chunk] = letters
        generations += 1
        [tried] = follow_up_chunks(chunk, record(chunk, again(0)))
        assert decode_chunk(encode_chunk(tried)) == tried
    assert generations > 100


def test_follow_ups_can_be_sent() -> None:
    chunk = make_chunk(4)
    for following in follow_up_chunks(chunk, record(chunk, again(0), None, ok(2), again(3))):
        assert decode_chunk(encode_chunk(following)) == following


# --- Batches that are to end


CANCELLED = Ended(Ending.CANCELLED, "Somebody asked for it.")


@pytest.mark.parametrize(
    ("ending", "state", "status", "title"),
    [
        (Ending.CANCELLED, OutcomeState.CANCELLED, 410, "Cancelled"),
        (Ending.EXPIRED, OutcomeState.EXPIRED, 504, "Not done by the deadline"),
        (Ending.FAILED, OutcomeState.FAILED, 503, "Stopped"),
    ],
)
def test_what_has_not_ended_is_given_the_outcome_that_the_ending_says(
    ending: Ending, state: OutcomeState, status: int, title: str
) -> None:
    error = {"title": title, "detail": "So it is."}
    expected = Outcome(0, "op-0", state, status, error=error, rejected=True)
    assert record(make_chunk(1), None, ended=Ended(ending, "So it is.")).outcomes == (expected,)
    assert never_ended(0, "op-0", ending, "So it is.") == expected
    assert never_ended(0, "op-0", ending, None).error == {"title": title}


def test_nothing_follows_in_a_batch_that_is_to_end() -> None:
    answer = record(make_chunk(4), ok(0), again(1), rejected(2), None, ended=CANCELLED)
    assert answer.follow_ups == ()
    assert answer.outcomes[:3] == (ok(0), broken(1), rejected(2))  # what ran came to what it came to
    assert answer.counts == Counts(succeeded=1, failed=2, cancelled=1)
    assert [operation.index for operation in answer.failed_operations] == [1, 2]


# --- Batches that were begun at once and go on in the background


def test_operations_tried_more_often_than_their_chunk_go_on_from_their_own_attempt() -> None:
    verdicts = [again(0), again(1), again(2), again(3), None, ok(5)]
    answer = record(make_chunk(6), *verdicts, attempts={0: 1, 1: 2, 2: 1, 3: 3})
    assert answer.outcomes == (broken(3), ok(5))
    assert answer.follow_ups == (
        FollowUp("17.0.1.0", 2, (0, 2), NOW + 4),
        FollowUp("17.0.1.1", 3, (1,), NOW + 8),
        FollowUp("17.0.1.4", 1, (4,), None),
    )


# --- Dead letters, and what runs again


def test_dead_letters_are_what_broke_and_what_was_rejected_apart() -> None:
    chunk = make_chunk(5, attempt=3, chunk_id="17.1")
    answer = record(chunk, ok(0), rejected(1), again(2), broken(3), None)
    broke, refused = dead_letters("01J", answer)
    assert broke == Chunk("01J", "17.1.d1", 1, chunk.operations[2:4])
    assert refused == Chunk("01J", "17.1.d2", 1, chunk.operations[1:2])
    assert dead_letters("01J", answer, rejections=False) == [broke]


def test_record_without_failures_has_no_dead_letters() -> None:
    assert dead_letters("01J", record(make_chunk(3), ok(0), again(1), None)) == []
    assert dead_letters("01J", record(make_chunk(2), ok(0), None, ended=CANCELLED)) == []


def test_what_another_retry_has_not_recorded_is_the_next_round() -> None:
    again = [build_operation(index) for index in range(5)]
    chunk = build_chunk(again, chunk_id="0.d1")
    standing = ChunkRecord("0.d1", (succeeded(again[0], 200, None),), (FollowUp("0.d1.0.1.3", 2, (3,)),))
    made = ChunkRecord(
        "0.d1",
        tuple(failed(operation, 500, "Broke") for operation in again[:2]),
        (FollowUp("0.d1.0.1.2", 2, (2, 3), 5.0), FollowUp("0.d1.0.1.4", 1, (4,))),
        tuple(again[:2]),
        redelivered=10,
    )
    assert next_round(chunk, standing) == replace(chunk, id="0.d3", operations=(again[1], again[2], again[4]))
    assert in_next_round(made, standing) == ChunkRecord(
        "0.d3",
        (failed(again[1], 500, "Broke"),),
        (FollowUp("0.d3.0.1.2", 2, (2,), 5.0), FollowUp("0.d3.0.1.4", 1, (4,))),
        (again[1],),
        redelivered=6,
    )
    assert next_round(chunk, made) is None
    assert in_next_round(standing, made) is None


def test_dead_letters_are_the_same_whoever_makes_them() -> None:
    """From the record alone: the consumer that wrote it, another that found it, and a retry much later."""
    answer = record(make_chunk(3, attempt=3), again(0), rejected(1), ok(2))
    assert dead_letters("01J", decode_record("17", encode_record(answer))) == dead_letters("01J", answer)


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        ([ok(0), ok(1)], Counts(succeeded=2, failed=-2)),  # each success takes the place of a failure
        ([ok(0), rejected(1)], Counts(succeeded=1, failed=-1)),
        ([rejected(0), rejected(1)], Counts()),  # failed again
        ([ok(0), again(1)], Counts(succeeded=1, failed=-1)),  # one follows, and is still counted as failed
        ([None, None], Counts()),
    ],
)
@pytest.mark.parametrize("chunk_id", ["17.d1", "17.1.d2", "17.d1.1", "17.d1.d1"])
def test_redriven_operations_take_back_their_failures(
    chunk_id: str, verdicts: list[Verdict | None], counts: Counts
) -> None:
    answer = record(make_chunk(2, chunk_id=chunk_id), *verdicts)
    assert answer.counts == counts
    assert answer.counts.completed == 0  # the batch is as complete as before


@pytest.mark.parametrize("seed", range(50))
def test_counts_stay_exact_through_retries_and_redrives(seed: int) -> None:
    """A batch of one chunk, run to its end with handlers that do anything, then redriven twice."""
    draw = random.Random(seed)
    chunk = make_chunk(9)
    counts, waiting, letters = Counts(), [chunk], list[Chunk]()
    for _ in range(3):
        while waiting:
            running = waiting.pop()
            verdicts = {one.index: draw_verdict(draw, one.index) for one in running.operations}
            ran = {index: verdict for index, verdict in verdicts.items() if verdict is not None}
            answer = record_attempt(running, ran, backoff=BACKOFF, draw=DRAW, now=NOW)
            counts += answer.counts
            waiting += follow_up_chunks(running, answer)
            letters += dead_letters("01J", answer)
        assert counts.completed == 9
        assert counts.failed == sum(len(letter.operations) for letter in letters)
        waiting, letters = letters, []


def draw_verdict(draw: random.Random, index: int) -> Verdict | None:
    return draw.choice([None, ok(index), rejected(index), broken(index), again(index)])


@pytest.mark.parametrize(
    ("not_before", "delay"),
    [
        (None, 0),
        (NOW, 0),
        (NOW - 50, 0),  # overdue
        (NOW + 0.001, 1),  # never before its time
        (NOW + 10, 10),
        (NOW + 899.2, 900),
        (NOW + 86_400, 900),  # as long as the queue can; then it comes too early
    ],
)
def test_queue_holds_a_chunk_back_in_whole_seconds(not_before: float | None, delay: int) -> None:
    assert delay_seconds(not_before, NOW, 900) == delay


def test_error_text_is_one_that_json_can_hold() -> None:
    outcome = failed(make_chunk(1).operations[0], 500, "Broke", "no file \udcff.csv")
    assert outcome.error == {"title": "Broke", "detail": "no file ?.csv"}


def test_record_without_results_has_all_else() -> None:
    answer = record(make_chunk(3, attempt=3), with_changes(ok(0), result="x" * 1_000), rejected(1), again(2))
    lean = answer.without_results()
    assert [outcome.result for outcome in lean.outcomes] == [None] * 3
    assert lean.counts == answer.counts
    assert dead_letters("01J", lean) == dead_letters("01J", answer)


@pytest.mark.parametrize("pieces", [1, 2, 3, 4])
def test_rest_of_a_slow_chunk_is_cut_into_pieces(pieces: int) -> None:
    chunk = make_chunk(9)
    record = record_attempt(
        chunk, {0: ok(0), 4: ok(4), 5: again(5)}, backoff=BACKOFF, draw=DRAW, now=NOW, pieces=lambda _rest: pieces
    )
    retried, *parts = record.follow_ups
    assert retried.indexes == (5,)
    assert [index for part in parts for index in part.indexes] == [1, 2, 3, 6, 7, 8]
    assert [part.id for part in parts] == [f"17.0.1.{part.indexes[0]}" for part in parts]
    assert len(parts) == pieces
    assert {(part.attempt, part.not_before) for part in parts} == {(1, None)}
    sizes = [len(part.indexes) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_postponed_operations_follow_together_and_keep_their_attempt() -> None:
    running = make_chunk(4, attempt=2)
    record = record_attempt(running, {0: ok(0)}, backoff=BACKOFF, draw=DRAW, now=NOW, postponed={1: 20.0, 3: 30.0})
    assert record.outcomes == (ok(0),)
    assert record.follow_ups == (FollowUp("17.0.1.1", 2, (1, 3), NOW + 30), FollowUp("17.0.1.2", 2, (2,), None))


def test_postponed_operations_end_with_their_batch() -> None:
    ended = Ended(Ending.EXPIRED)
    record = record_attempt(make_chunk(1), {}, backoff=BACKOFF, draw=DRAW, now=NOW, postponed={0: 20.0}, ended=ended)
    assert record.follow_ups == ()
    assert [outcome.state for outcome in record.outcomes] == [OutcomeState.EXPIRED]
