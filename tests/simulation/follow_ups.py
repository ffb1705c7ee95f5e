"""Checks what leads from one chunk to the next: no operation, attempt or wait is lost or added on the way."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from penstock.backoff import Backoff
from penstock.batch import EARLY_SECONDS
from penstock.chunk import Chunk
from penstock.outcome import LEAST_TURN_SECONDS, ChunkRecord, FollowUp
from penstock.running.limit_gate import LONGEST_POSTPONED_SECONDS
from tests.simulation.process import EPOCH
from tests.simulation.retries import is_same_letter, letter_of
from tests.simulation.truth import LIMITED, TIMEOUT_SECONDS, Run, Toy, Truth

ChunkKey = tuple[str, str]  # a batch and a chunk
Check = Callable[[bool, int, str], None]

FAILS_ALONE = {"/flaky", "/later", "/poll", "/break"}  # each failure of these uses up an attempt
ASKS = {"/later", "/poll", "/bulk", "/turned-away", *LIMITED}  # these ask for a delay, if their plan has one
ROUNDING_SECONDS = 0.001
LONGEST_CALL_SECONDS = 40.0  # until a message is on the queue. Its delay is decided before


@dataclass
class Sent:
    """A chunk that was sent, and how often it was put on a queue."""

    chunk: Chunk
    times: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """The step of one operation from a chunk to the next one. `runs` are its runs in the chunk that it leaves."""

    key: ChunkKey
    toy: Toy
    index: int
    before: int
    after: int
    runs: list[Run]

    @property
    def failures(self) -> list[float]:
        return [run.failed_at for run in self.runs if run.failed_at is not None]

    @property
    def has_to_wait(self) -> bool:
        return self.after > self.before or self.toy.path in {"/turned-away", *LIMITED}

    @property
    def asked_seconds(self) -> float | None:
        return self.toy.plan.after if self.toy.path in ASKS else None


class FollowUps:
    """The checks. `lapsed` counts the deliveries of each chunk that ended without a release or a deletion.

    `only_held` are those of them whose processes had not started to run the chunk when they died, and gave it back.
    """

    def __init__(self, now: Callable[[], float], truth: Truth, check: Check) -> None:
        self.backoff = Backoff()  # of the programs
        self.least_part_seconds = 0.0  # of the handler time of a part that the rest of a slow chunk is cut into
        self.lapsed: Counter[ChunkKey] = Counter()
        self.only_held: Counter[ChunkKey] = Counter()
        self._sent: dict[ChunkKey, Sent] = {}
        self._attempts: dict[ChunkKey, dict[int, int]] = {}  # of the operations of each follow-up, as recorded
        self._now = now
        self._truth = truth
        self._check = check

    def on_sent(self, chunk: Chunk, visible_at: float, batch_not_before: float | None) -> None:
        """Check that a message is not held back for longer than its chunk has to wait."""
        key = chunk.batch_id, chunk.id
        attempts = self._attempts.get(key, chunk.attempts())
        self._check(attempts == chunk.attempts(), 7, f"chunk {key} has the attempts {chunk.attempts()}, not {attempts}")
        self._sent.setdefault(key, Sent(chunk)).times += 1
        late = visible_at - max(self._now(), _virtual(chunk.not_before), batch_not_before or 0.0)
        most = LONGEST_CALL_SECONDS + 2 * self._truth.most_skew
        self._check(late <= most, 4, f"chunk {key} is held back {late:.1f} s too long")

    def on_start(self, run: Run) -> None:
        """Check that a chunk with a wait runs only after it."""
        sent = self._sent.get((run.batch_id, run.chunk_id or ""))
        early = 0.0 if sent is None else _virtual(sent.chunk.not_before) - self._now()
        most = EARLY_SECONDS + self._truth.most_skew
        self._check(early <= most, 7, f"{run} starts {early:.1f} s before the end of its wait")

    def on_count(self, batch_id: str, record: ChunkRecord) -> None:
        """Check that everything that follows from a counted chunk is on a queue. Its message may be deleted now."""
        unsent = [follow_up.id for follow_up in record.follow_ups if (batch_id, follow_up.id) not in self._sent]
        self._check(not unsent, 2, f"{record.chunk_id} of batch {batch_id} is counted, and {unsent} are not sent yet")

    def on_record(self, batch_id: str, record: ChunkRecord) -> None:
        """Check that a chunk is split, and its operations called redelivered, only after lost deliveries."""
        key = batch_id, record.chunk_id
        keys = self._keys_of(key)
        lost, only_held = sum(self.lapsed[one] for one in keys), sum(self.only_held[one] for one in keys)
        most = lost * len(record.indexes) if keys else 0
        words = f"the record of {key} says that {record.redelivered} operations were redelivered, and not {most}"
        self._check(record.redelivered <= most, 7, words)
        parts = [follow_up for follow_up in record.follow_ups if follow_up.not_before is None]
        self._check(
            len(parts) < 2 or lost > only_held or self._is_slow(key, parts) or self._runs_one_at_a_time(keys),
            7,
            f"{key} is split into {[part.id for part in parts]}. It was not slow, and no delivery of it was lost",
        )
        for follow_up in record.follow_ups:
            behind = dict(follow_up.behind)
            self._attempts[batch_id, follow_up.id] = {
                index: follow_up.attempt - behind.get(index, 0) for index in follow_up.indexes
            }
            steps = [self._step(key, follow_up, index) for index in follow_up.indexes]
            for step in steps:
                self._check_attempt(step)
                self._check_least_wait(step, follow_up)
            self._check_longest_wait(key, follow_up, max(map(self._longest_wait, steps)))

    def _runs_one_at_a_time(self, keys: list[ChunkKey]) -> bool:
        """Return True if a chunk may have several parts that follow, because what is connected follows by itself."""
        return any(self._sent[one].chunk.one_at_a_time for one in keys)

    def _is_slow(self, key: ChunkKey, parts: list[FollowUp]) -> bool:
        """Return True if something of a chunk has run, and has taken so long that its parts are worth a message each.

        A pause makes every handler slow.
        """
        keys = self._keys_of(key) or [key]
        runs = [run for runs in self._truth.runs.values() for run in runs if (run.batch_id, run.chunk_id) in keys]
        toys = self._truth.submission_of(key[0]).toys
        ran = [toys[int(run.operation_id.partition("-")[2])] for run in runs]
        longest = max(
            (TIMEOUT_SECONDS + toy.plan.seconds if toy.is_endless else toy.plan.seconds for toy in ran), default=0.0
        )
        was_paused = any(run.process in self._truth.paused for run in runs)
        left = sum(len(part.indexes) for part in parts)
        return was_paused or longest * left >= len(parts) * self.least_part_seconds

    def _step(self, key: ChunkKey, follow_up: FollowUp, index: int) -> Step:
        batch_id, _ = key
        keys = self._keys_of(key)  # a front end does not send a chunk that it has run
        runs = self._truth.runs.get((batch_id, f"{self._truth.labels[batch_id]}-{index}"), [])
        return Step(
            key=key,
            toy=self._truth.submission_of(batch_id).toys[index],
            index=index,
            before=max((self._sent[one].chunk.attempts()[index] for one in keys), default=1),
            after=follow_up.attempt - dict(follow_up.behind).get(index, 0),
            runs=[run for run in runs if (run.batch_id, run.chunk_id) in keys or (not keys and run.chunk_id is None)],
        )

    def _check_attempt(self, step: Step) -> None:
        self._check(step.after >= step.before, 7, f"{step} has lost attempts")
        if step.toy.group is not None:
            return  # the attempts are those of its group
        self._check(step.after == step.before or bool(step.runs), 7, f"{step} has used an attempt without a run")
        if step.toy.path in FAILS_ALONE and self._is_only_delivery(step.key) and not self._was_paused(step):
            self._check(step.after == step.before + len(step.failures), 7, f"{step} has another attempt")

    def _check_least_wait(self, step: Step, follow_up: FollowUp) -> None:
        """Check that an operation waits for as long as it has asked. A front end may have waited for it already."""
        if not self._keys_of(step.key) or not self._is_only_delivery(step.key):
            return
        if step.has_to_wait and step.failures and step.asked_seconds is not None:
            early = step.failures[-1] + step.asked_seconds - _virtual(follow_up.not_before)
            most = self._truth.most_skew + ROUNDING_SECONDS
            self._check(early <= most, 7, f"{step} waits {early:.1f} s too short")

    def _longest_wait(self, step: Step) -> float:
        if step.toy.path in {*LIMITED, "/declared", "/crowd", "/free-crowd"} and not step.runs:
            return LONGEST_POSTPONED_SECONDS
        if not step.has_to_wait:
            return 0.0
        doublings = step.after - 2 if step.after > step.before else 64  # it grows while the attempt stays the same
        backoff = min(self.backoff.base_seconds * 2.0**doublings, self.backoff.max_seconds)
        if step.asked_seconds is None:
            return backoff
        asked = max(step.asked_seconds, LEAST_TURN_SECONDS)
        return max(asked, backoff) if self._was_paused(step) else asked  # after a time-out nothing was asked

    def _check_longest_wait(self, key: ChunkKey, follow_up: FollowUp, longest: float) -> None:
        """Check that operations do not wait longer than the one of them that has to wait longest."""
        sent = self._sent.get(key)
        own = 0.0 if sent is None else _virtual(sent.chunk.not_before)  # perhaps the chunk came before its time
        late = _virtual(follow_up.not_before) - max(self._now() + longest, own)
        most = self._truth.most_skew + ROUNDING_SECONDS
        self._check(late <= most, 7, f"{follow_up} of {key} waits {late:.3f} s longer than {longest:.3f} s")

    def _was_paused(self, step: Step) -> bool:
        """Return True if the process of a run was ever paused. A pause may use up the time limit of its handler."""
        return any(run.process in self._truth.paused for run in step.runs)

    def _is_only_delivery(self, key: ChunkKey) -> bool:
        """Return True if nobody else can have run the chunk: its operations ran in a front end, or in one delivery."""
        keys = self._keys_of(key)
        return sum(self._sent[one].times + self.lapsed[one] for one in keys) <= 1

    def _keys_of(self, key: ChunkKey) -> list[ChunkKey]:
        """Return the chunks that were sent and may have led to the record of this one: itself, or other rounds."""
        batch_id, chunk_id = key
        if letter_of(chunk_id) is None:
            return [key] if key in self._sent else []
        return [one for one in self._sent if one[0] == batch_id and is_same_letter(one[1], chunk_id)]


def _virtual(at: float | None) -> float:
    """Return a time of the programs in virtual time, or 0 if there is none."""
    return 0.0 if at is None else at - EPOCH
