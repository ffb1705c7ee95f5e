"""What a consumer held comes back at once when its parent knows that it died."""

import os
from collections.abc import Iterator

import pytest

from penstock.batch import BatchState, Counts
from penstock.consumer import giving_back, journal
from penstock.consumer.attempt import Evidence, StartNote
from penstock.consumer.giving_back import give_back
from penstock.consumer.journal import Journal, open_file, read_predecessor
from penstock.errors import Unavailable
from penstock.message import encode_chunk
from penstock.queue import Message, SentAhead
from tests.support.builders import BATCH_ID, NOW, build_batch, build_chunk, build_operation, build_operations
from tests.support.faults import Moment, watched
from tests.support.rig import Rig


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = open_file()
    yield descriptor
    os.close(descriptor)


async def hold(rig: Rig, file: int, *, starts: bool, operations: int = 1, ahead: SentAhead | None = None) -> str:
    """Submit a chunk and let a consumer die that holds it. Return the mark of the delivery.

    If it is sent `ahead`, its batch is not written.
    """

    @rig.operations.post("/succeed")
    async def succeed() -> None: ...

    asked = build_operations(*["/succeed"] * operations)
    if ahead is None:
        await rig.submit(asked)
    else:
        await rig.parts.chunks.send([Message(encode_chunk(build_chunk(asked)), sent_ahead=ahead)])
    written = Journal(file)
    written.open("the dead")
    delivery, chunk = await rig.receive()
    written.receive(delivery, chunk)
    if starts:
        written.start(delivery)
    return delivery.mark


async def test_what_was_only_held_runs_as_if_nothing_had_happened(file: int) -> None:
    rig = Rig()
    mark = await hold(rig, file, starts=False, operations=2)
    await give_back(read_predecessor(file), rig.parts.backend, rig.clock)
    assert (await rig.parts.store.read_traces(BATCH_ID, "0")).released == {mark}
    await rig.process_next()
    assert await rig.counts() == Counts(succeeded=2)
    assert not (await rig.batch()).is_suspect


@pytest.mark.parametrize(("operations", "evidence"), [(1, Evidence.RUNNING), (2, Evidence.NONE)])
async def test_what_was_under_way_has_a_note_of_a_certain_death(file: int, operations: int, evidence: Evidence) -> None:
    rig = Rig()
    mark = await hold(rig, file, starts=True, operations=operations)
    await give_back(read_predecessor(file), rig.parts.backend, rig.clock)
    note = StartNote(mark, "the dead", evidence, is_dead=True)
    assert (await rig.parts.store.read_traces(BATCH_ID, "0")).begun == {str(note)}
    assert StartNote.parse(str(note)) == note
    await rig.process_next()
    assert (await rig.batch()).died == {"the dead"}


async def test_what_was_held_before_its_batch_is_written_runs_whole_once_it_is(file: int) -> None:
    rig = Rig()
    ahead = SentAhead(accept_by=NOW + 60, expires_at=NOW + 90_000)
    mark = await hold(rig, file, starts=False, operations=2, ahead=ahead)
    await give_back(read_predecessor(file), rig.parts.backend, rig.clock)
    assert (await rig.parts.store.read_traces(BATCH_ID, "0")).released == {mark}
    await rig.parts.store.accept_new(build_batch(2, state=BatchState.ACCEPTING, accepted_at=None), NOW)
    await rig.process_next()
    assert await rig.counts() == Counts(succeeded=2)
    assert not (await rig.batch()).is_suspect


@pytest.mark.parametrize("call", ["store.read_batch", "store.note_start", "queue.extend"])
async def test_delivery_that_cannot_be_given_back_waits_for_the_end_of_its_lease(file: int, call: str) -> None:
    """It is tried a few times. Without its note it does not come back."""
    rig, tries = Rig(), 0
    await hold(rig, file, starts=True)

    def watch(name: str, moment: Moment) -> None:
        nonlocal tries
        if moment == "before" and call.removeprefix("queue.") in name:
            tries += 1
            raise Unavailable("away")

    await give_back(read_predecessor(file), watched(rig.parts, watch), rig.clock)
    assert tries == giving_back.TRIES
    assert await rig.parts.chunks.depth() == 0


def test_journal_is_written_again_with_what_is_held(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "JOURNAL_BYTES", 2_000)
    rig_delivery = [journal.Entry(f"m{n}", 1, "r" * 100, "normal", BATCH_ID, str(n), True).delivery for n in range(99)]
    written = Journal(file)
    written.open("a process")
    for number, delivery in enumerate(rig_delivery):
        written.receive(delivery, build_chunk([build_operation(0)], chunk_id=str(number)))
        written.start(delivery)
        if number:
            written.settle(delivery)
    assert os.fstat(file).st_size < 4_000
    predecessor = read_predecessor(file)
    assert predecessor.process == "a process"
    assert [(entry.message_id, has_started) for entry, has_started in predecessor.held] == [("m0", True)]


def test_line_that_was_cut_off_is_left_out(file: int) -> None:
    Journal(file).open("a process")
    os.write(file, b'["received", {"mess')
    assert read_predecessor(file) == journal.Predecessor("a process", ())


def test_journal_without_a_file_does_nothing() -> None:
    written = Journal()
    written.open("a process")
    written.start(journal.Entry("m", 1, "r", "normal", BATCH_ID, "0", True).delivery)
