"""Checks the promises of DESIGN.md after every write to the table, at every start of a handler, and at the end.

The checks use only the items of the table and the messages on the queues, with their codecs. They do not use the code
that decides what to write.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from penstock import zstd
from penstock.aws.items import chunk_of as chunk_of_item
from penstock.aws.items import group_from_item, unfolded
from penstock.batch import EARLY_SECONDS, Counts
from penstock.chunk import Chunk, group_of, redriven_from
from penstock.consumer.attempt import StartNote
from penstock.errors import UnreadableMessage
from penstock.message import decode_chunk
from penstock.outcome import ChunkRecord, Outcome, OutcomeState
from penstock.record import decode_record
from tests.simulation.dynamodb import Key, Table
from tests.simulation.expressions import Item
from tests.simulation.final_batches import FinalChecks
from tests.simulation.follow_ups import FollowUps
from tests.simulation.large_results import LargeResultChecks
from tests.simulation.limits import Limits
from tests.simulation.links import LinkChecks, members
from tests.simulation.losses import ACTS_AFTER_SECONDS, Losses
from tests.simulation.open_operations import OpenChecks
from tests.simulation.process import EPOCH
from tests.simulation.quotas import Quotas
from tests.simulation.retries import Retries, is_same_letter
from tests.simulation.sqs import Kept
from tests.simulation.truth import FINAL, POISON, Run, Submission, Truth, key_given_to
from tests.simulation.uploads import UploadChecks, is_plan_request
from tests.simulation.webhooks import WebhookChecks

ANSWERED, ACCEPTED = 200, 202
UNKNOWN = {None, 504}  # answers after which the batch runs whole or not at all
NOT_ACCEPTED = {"?", "accepting", "validating", "abandoned"}
MOVES = {
    "?": {"accepting", "validating", "queued"},
    "validating": {"queued", "failed", "cancelled", "expired"},
    "accepting": {"queued", "abandoned"},
    "queued": {"processing", "cancelling"} | FINAL,
    "processing": {"cancelling"} | FINAL,
    "cancelling": FINAL,
    # Only a redrive moves a batch from one final state to another; see `_check_move`.
    **dict.fromkeys(FINAL, FINAL),
}
CLOSED_STATUS = {"cancelled": 410, "expired": 504, "failed": 503}
DEFAULT_TIMEOUT_SECONDS = 60.0
LONGEST_RUN_SECONDS = 5.0  # of a handler with that timeout
NOTED_JUST_NOW_SECONDS = 0.1  # the answer to the note may be on its way, and the handler starts after it
STEERED = (
    "priority",
    "deadline_at",
    "paused_at",
    "paused_seconds",
    "concurrency",
    "failure_limit",
    "max_failures",
    "max_failed_percent",
)
RUNNING = {"queued", "processing"}
QUEUE_ACTS_AFTER_SECONDS = 4.1  # a consumer reads what is paused together with a batch, every two seconds
BEGINS_STILL_SECONDS = 2.0  # consumers read a batch once a second; a call takes a moment
_STATES = tuple(state.value for state in OutcomeState)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record in the table, and the time since when it is there."""

    record: ChunkRecord
    at: float


@dataclass
class GroupFacts:
    """The facts in the table about a group. `closed` is the state of all operations that were not counted before."""

    counts: Counts = field(default_factory=Counts)
    done: AbstractSet[str] = frozenset()
    folded: Item | None = None
    closed: str | None = None
    closed_at: float = 0.0


@dataclass
class BatchFacts:
    """The facts in the table about a batch."""

    state: str = "?"
    is_planned: bool = False  # by a consumer, from a file
    was_accepted: bool = False
    ending: str | None = None
    group_totals: tuple[int, ...] = ()
    deadline_at: float = 0.0
    first_deadline_at: float = math.inf  # the earliest that it ever had
    paused_at: float | None = None  # when a write paused it
    steered: Item = field(default_factory=dict)  # what a client can change
    not_before: float | None = None
    suspected_at: float = math.inf  # since when it is known that a delivery of it was lost
    over_limit_at: float = math.inf  # since when more processes than allowed seem to have died of it
    most_failed: int = 0  # the maximum so far: a retry subtracts failures
    groups: defaultdict[int, GroupFacts] = field(default_factory=lambda: defaultdict(GroupFacts))
    records: dict[str, Recorded] = field(default_factory=dict)
    chunks_of: defaultdict[int, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # by the index of the operation

    @property
    def total(self) -> int:
        return sum(self.group_totals)

    @property
    def is_accepted(self) -> bool:
        return self.state not in NOT_ACCEPTED and (self.was_accepted or not self.is_planned)

    @property
    def is_over(self) -> bool:
        """Return True if nothing will happen to the batch any more, accepted or not."""
        return self.state in FINAL or (not self.is_accepted and self.state != "validating")

    @property
    def counts(self) -> Counts:
        return sum((group.counts for group in self.groups.values()), start=Counts())

    @property
    def was_redriven(self) -> bool:
        return any(redriven_from(chunk_id) is not None for chunk_id in self.records)

    def can_count(self, chunk_id: str) -> bool:
        """Return True if a chunk has a record that is not counted, and can still be."""
        if chunk_id not in self.records:
            return False
        group = self.groups[group_of(chunk_id)]
        return chunk_id not in group.done and group.closed is None

    def indexes(self, number: int) -> range:
        first = sum(self.group_totals[:number])
        return range(first, first + self.group_totals[number])

    def number_of(self, index: int) -> int:
        return next(number for number in range(len(self.group_totals)) if index in self.indexes(number))

    def outcome(self, index: int, *, counted: bool) -> tuple[Outcome, str] | None:
        """Return the latest outcome of an operation, counted or not, and the chunk that recorded it."""
        done = self.groups[self.number_of(index)].done
        for chunk_id in reversed(self.chunks_of[index]):
            if not counted or chunk_id in done:
                outcomes = self.records[chunk_id].record.outcomes
                return next(outcome for outcome in outcomes if outcome.index == index), chunk_id
        return None

    def state_of(self, index: int) -> str | None:
        """Return the state of an operation, or None if it is not counted yet."""
        found = self.outcome(index, counted=True)
        if found is not None:
            return found[0].state.value
        return self.groups[self.number_of(index)].closed

    def tally(self, number: int) -> Counts:
        states = Counter(self.state_of(index) for index in self.indexes(number))
        return Counts(*(states[state] for state in _STATES))


class Promises:
    """The checks. `broken` describes each broken promise. `excused` counts by kind what only looks like one."""

    def __init__(self, now: Callable[[], float], truth: Truth, on_broken: Callable[[], None]) -> None:
        self.broken: list[str] = []
        self.excused: Counter[str] = Counter()
        self.batches: defaultdict[str, BatchFacts] = defaultdict(BatchFacts)
        self.table: Table | None = None
        self.is_poison_alone = False  # consumers die only of the operations that they run
        self.is_evidence_needed = False  # leases end only because a process died, so each suspect ran when one died
        self.are_leases_kept = False  # the queue delivers a message again only after its lease
        self.acts_in_time = False  # no call takes long, and no process is paused
        self.has_parents = False  # what a dead consumer held is given back, and no lease of it ends
        self.max_deaths: int | None = None  # the limit for each batch
        self.sweep_tenure = 0.0  # seconds after which the lease to sweep may be taken over
        self.names: dict[str, str] = {}  # of the processes, by their ids in the table
        # For each batch, the processes that died while they ran a chunk of it that had no record, or had noted that
        # they were about to run it; and the operations that had started there.
        self.deaths: defaultdict[str, set[str]] = defaultdict(set)
        self._noted: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)  # batches and chunks, by process
        self._noted_at: dict[tuple[str, str, str], float] = {}  # by process, batch and chunk
        self._dead: set[str] = set()
        # For each batch and chunk, the process that received each of its messages last.
        self._holders: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._noted_deaths: defaultdict[str, set[str]] = defaultdict(set)  # those of `deaths` that had a note
        self._went_on: set[str] = set()  # batches of which a handler started after more of these than their limit
        self._died_of: set[tuple[str, str]] = set()
        self._keys_with_answers: set[str] = set()
        self._listed: set[str] = set()  # batches with an entry in the list of their tenant
        self._queues_paused_at: dict[str, float] = {}
        self._swept_at = 0.0  # when the lease to sweep was last taken or extended
        # For each submission, the front ends that poison killed or blocked while they ran it as a small batch.
        self.poisoned_front_ends: defaultdict[str, set[str]] = defaultdict(set)
        self._died_just_before: set[tuple[str, str]] = set()  # batches and chunks that had just noted their start
        self._now = now
        self._truth = truth
        self._on_broken = on_broken
        self.follow_ups = FollowUps(now, truth, self.check)
        self.losses = Losses(now, self.check, self.batches.__getitem__)
        self.quotas = Quotas(now, truth, self.check)
        self.limits = Limits(now, truth, self.check)
        self.open = OpenChecks(truth, self.check, self.batches.__getitem__)
        self.final = FinalChecks(truth, self.check, self.batches.__getitem__)
        self.webhooks = WebhookChecks(truth, self.check, on_event=self.final.on_event)
        self.retries = Retries(truth, self.check)
        self.large_results = LargeResultChecks(self.check)
        self.links = LinkChecks(now, truth, self.check)
        self.uploads = UploadChecks(truth, self.check)

    def check(self, holds: bool, promise: int, words: str) -> None:
        if not holds and not self._truth.is_over:
            self.broken.append(f"promise {promise}: {words}")
            self._on_broken()

    # at every write

    def on_write(self, key: Key, before: Item | None, after: Item | None) -> None:
        if after is None:
            return
        match key[1]:
            case "sweep":
                self._on_sweep(before, after)
            case "rate" | "open" | "limit" as kind:
                watching: dict[str, Any] = {"rate": self.quotas, "open": self.open, "limit": self.limits}
                watching[kind].on_write(before or {}, after)
            case "queues":
                self._on_queues(after)
            case "key":
                self._on_claim(key, before or {}, after)
            case _:
                self._on_write_in_partition(key, before, after)

    def _on_write_in_partition(self, key: Key, before: Item | None, after: Item) -> None:
        match key[0].partition("#")[0]:
            case "deliveries":
                self.webhooks.on_delivery(key, before or {}, after)
            case "batch":
                self._on_write_of_batch(key, before, after)
            case "tenant":
                self._listed.add(key[1].rpartition("#")[2])

    def _on_write_of_batch(self, key: Key, before: Item | None, after: Item) -> None:
        kind = key[1].partition("#")[0]
        if kind == "batch":
            self._on_batch(key, after)
            self.webhooks.on_batch(key, before or {}, after)
        elif kind == "file":
            self.uploads.on_file(key[0].split("#")[1], after)
        elif kind == "plan":
            self.uploads.on_plan(key, before, after)
        elif kind == "count":
            self._on_count(key, after)
        elif kind == "chunk":
            self._on_chunk(key, before or {}, after)
        elif kind == "ids":
            first = from_json(zstd.decompress(after["ids"]["B"]))[0]
            self._truth.labels.setdefault(key[0].split("#")[1], first.partition("-")[0])

    def _on_queues(self, after: Item) -> None:
        for name in list(self._queues_paused_at):
            if name not in after:
                del self._queues_paused_at[name]
        for name in after.keys() - {"pk", "sk"}:
            self._queues_paused_at.setdefault(name, self._now())

    def _check_queue_not_paused(self, run: Run, where: str) -> None:
        """Check that nothing starts of a queue that was paused, except for what could not know it."""
        if not self.acts_in_time:
            return
        holders = self._holders[run.batch_id, run.chunk_id or ""]
        queues = {message_id.rpartition("-")[0] for message_id, process in holders.items() if process == run.process}
        since = [self._now() - self._queues_paused_at.get(name, math.inf) for name in queues]
        late = min(since, default=-math.inf)
        self.check(late < QUEUE_ACTS_AFTER_SECONDS, 2, f"{where}, {late:.3f} s after its queue was paused")

    def _on_sweep(self, before: Item | None, after: Item) -> None:
        """Check that nobody takes the sweep over from a consumer that still sweeps."""
        unchanged, self._swept_at = self._now() - self._swept_at, self._now()
        if before is not None and before["owner"] != after["owner"]:
            self.check(unchanged >= self.sweep_tenure, 6, f"the sweep was taken over after {unchanged:.1f} s")

    def _on_claim(self, key: Key, before: Item, after: Item) -> None:
        """Check that only the request that has claimed an Idempotency-Key settles it, and only once."""
        if not after["is_settled"]["BOOL"]:
            return
        batch_id, parts = after["batch_id"]["S"], int(after["answer_parts"]["N"])
        answer = [(key[0], f"answer#{batch_id}#{number}") for number in range(parts)]
        assert self.table is not None
        if answer:
            self._keys_with_answers.add(key[0])
        facts = self.batches[batch_id]
        is_own = all(map(self.table.item, answer)) if answer else facts.is_accepted or facts.is_planned
        self.check(is_own, 5, f"{key} is settled for batch {batch_id}, with the answer of another one")
        was_settled = bool(before) and before["is_settled"]["BOOL"] and before["batch_id"] == after["batch_id"]
        self.check(not was_settled or before == after, 5, f"{key} was settled with {before}, and now with {after}")

    def _on_batch(self, key: Key, after: Item) -> None:
        batch_id = key[0].split("#")[1]
        facts = self.batches[batch_id]
        before, facts.state = facts.state, after["state"]["S"]
        ending, facts.ending = facts.ending, after["ending"]["S"] if "ending" in after else None
        if facts.ending == "failed" != ending:
            self._check_deaths(batch_id)
        facts.is_planned, facts.was_accepted = "plan_file_bytes" in after, "accepted_at" in after
        facts.group_totals = tuple(int(total["N"]) for total in after["group_totals"]["L"])
        died = len(after.get("died", {"SS": []})["SS"])
        is_over = self.max_deaths is not None and died > self.max_deaths
        facts.over_limit_at = min(facts.over_limit_at, self._now()) if is_over else math.inf
        if "suspect" in after:
            facts.suspected_at = min(facts.suspected_at, self._now())
        facts.deadline_at = float(after["deadline_at"]["N"]) - EPOCH
        facts.first_deadline_at = min(facts.first_deadline_at, facts.deadline_at)
        self._check_steered(batch_id, facts, before, after)
        facts.not_before = float(after["not_before"]["N"]) - EPOCH if "not_before" in after else None
        if before != facts.state:
            self._check_move(batch_id, facts, before)
        if before == "validating" and facts.is_accepted:
            self.uploads.on_accepted(batch_id, facts, after)

    def _check_steered(self, batch_id: str, facts: BatchFacts, before: str, after: Item) -> None:
        """Check that only a running batch is changed, and that a sweep looks at it at its new deadline."""
        steered = {name: after[name] for name in STEERED if name in after}
        if facts.steered and steered != facts.steered:
            self.check(before in RUNNING, 2, f"batch {batch_id} is {before}, and was changed to {steered}")
        if facts.state in RUNNING:
            self.check(after["due_at"] == after["deadline_at"], 4, f"batch {batch_id} is due at another time")
        if "paused_at" not in after:
            facts.paused_at = None
        elif after["paused_at"] != facts.steered.get("paused_at"):
            facts.paused_at = self._now()
        facts.steered = steered

    def _check_not_paused(self, run: Run, facts: BatchFacts, where: str) -> None:
        """Check that an operation does not start after its batch was paused, except for what could not know it."""
        if facts.paused_at is None or facts.state not in RUNNING or self._now() > facts.deadline_at:
            return
        if run.process in self._truth.paused:
            return  # an answer may have waited for long until the process could read it
        at = self._now() if self.acts_in_time else min(self._now(), run.looked_at or 0)
        since = at - facts.paused_at
        self.check(since < ACTS_AFTER_SECONDS, 2, f"{where}, {since:.3f} s after its batch was paused")
        self.excused["started just after its batch was paused"] += 1

    def _check_move(self, batch_id: str, facts: BatchFacts, before: str) -> None:
        words = f"batch {batch_id} was {before} and is {facts.state}"
        self.check(facts.state in MOVES[before], 2, words)
        if before in {"?", "accepting", "validating"} and facts.is_accepted:
            self.check(batch_id in self._listed, 1, f"batch {batch_id} is accepted, and it is in no list")
            self.quotas.on_accepted(batch_id, facts.total)
            self.open.on_accepted(batch_id, facts.total)
        self.check(before not in FINAL or facts.was_redriven, 2, words)
        if facts.state not in FINAL or not facts.is_accepted:
            return
        counts = facts.counts
        self.check(counts.completed == facts.total, 3, f"batch {batch_id} is {facts.state} with {counts}")
        if not facts.was_redriven:
            self.check(facts.state == final_state(counts, facts.ending), 3, f"{words} with {counts}, {facts.ending}")

    def _on_count(self, key: Key, after: Item) -> None:
        _, batch_id, digits = key[0].split("#")
        facts, number = self.batches[batch_id], int(digits)
        if not facts.group_totals:
            return  # it replaces a batch that must never be accepted
        group = facts.groups[number]
        before = group.counts
        group.counts = Counts(*(int(after[state]["N"]) if state in after else 0 for state in _STATES))
        added = self._read_done(group, after)
        if group.closed is None and "closed" in after:
            group.closed, group.closed_at = after["closed"]["S"], self._now()
        counts = group.counts
        facts.most_failed = max(facts.most_failed, facts.counts.failed)
        where = f"group {number} of batch {batch_id} counts {counts}"
        total = facts.group_totals[number]
        self.check(
            min(counts.succeeded, counts.failed, counts.cancelled, counts.expired) >= 0, 3, f"{where}, less than 0"
        )
        self.check(counts.completed <= total, 3, f"{where} of {total}")
        self.check(counts.completed >= before.completed, 3, f"{where}, but had {before}")
        unrecorded = [chunk_id for chunk_id in added if chunk_id not in facts.records]
        self.check(not unrecorded, 3, f"{where} with {sorted(unrecorded)}, which have no record")
        for chunk_id in (chunk_id for chunk_id in added if chunk_id in facts.records):
            self.follow_ups.on_count(batch_id, facts.records[chunk_id].record)
        if not unrecorded:
            tally = facts.tally(number)
            self.check(counts == tally, 3, f"{where}, but the outcomes of {sorted(group.done)} are {tally}")

    def _read_done(self, group: GroupFacts, after: Item) -> AbstractSet[str]:
        """Read which chunks are counted. Return those of them that may be new."""
        before, group.done = group.done, group_from_item(after).done
        if "folded" in after and after["folded"] != group.folded:
            group.folded = after["folded"]
            forgotten = [chunk_id for chunk_id in before if chunk_id not in group.done]
            self.check(not forgotten, 3, f"{forgotten} were counted, and their group no longer knows that")
            return group.done
        return unfolded(after)

    def _on_chunk(self, key: Key, before: Item, after: Item) -> None:
        batch_id = key[0].split("#")[1]
        chunk_id = _chunk_id(key)
        for note in after.get("begun", {"SS": []})["SS"]:
            process = StartNote.parse(note).process or ""
            name = self.names.get(process, process)
            self._noted[name].add((batch_id, chunk_id))
            self._noted_at.setdefault((name, batch_id, chunk_id), self._now())
            if name in self._dead:  # the note was on its way
                self._died_just_before.add((batch_id, chunk_id))
                self.deaths[batch_id].add(name)
        if "nonce" in before:
            stands = all(before.get(name) == after.get(name) for name in ("nonce", "record", "parts"))
            self.check(stands, 2, f"the record of chunk {chunk_id} of batch {batch_id} was replaced")
        elif "nonce" in after:
            self._on_record(batch_id, decode_record(chunk_id, self._content(key, after)))

    def _content(self, key: Key, item: Item) -> bytes:
        if "record" in item:
            content: bytes = item["record"]["B"]
            return content
        assert self.table is not None
        pieces = []
        for number in range(int(item["parts"]["N"])):
            part = self.table.item((key[0], f"part#{_chunk_id(key)}#{item['nonce']['S']}#{number}"))
            self.check(part is not None, 2, f"part {number} of the record {key} is missing")
            pieces.append(part["record"]["B"] if part else b"")
        return b"".join(pieces)

    def _on_record(self, batch_id: str, record: ChunkRecord) -> None:
        facts = self.batches[batch_id]
        if not facts.group_totals:
            return
        facts.records[record.chunk_id] = Recorded(record, self._now())
        self.follow_ups.on_record(batch_id, record)
        self.large_results.on_record(batch_id, record)
        for outcome in record.outcomes:
            latest = facts.outcome(outcome.index, counted=False)
            # Only a failure can get another outcome, and only from a chunk of its dead letter.
            fresh = latest is None or (
                latest[0].state is OutcomeState.FAILED and redriven_from(record.chunk_id) == latest[1]
            )
            words = f"{outcome.id} of batch {batch_id} has the outcome {latest} and gets that of {record.chunk_id}"
            self.check(fresh, 2, words)
            facts.chunks_of[outcome.index].append(record.chunk_id)
        self.links.on_record(batch_id, facts, record)

    def _check_deaths(self, batch_id: str) -> None:
        """Check that a batch is stopped only if it has cost more processes than the limit says."""
        runs = [run for (of, _), runs in self._truth.runs.items() if of == batch_id for run in runs]
        noted = {process for process, chunks in self._noted.items() if batch_id in dict(chunks)}
        # What is paused for longer than a lease looks dead.
        silent = ({run.process for run in runs} | noted) & self._truth.paused
        deaths = len(self.deaths[batch_id] | silent)
        words = f"batch {batch_id} was stopped after {deaths} deaths, and its limit is {self.max_deaths}"
        self.check(self.max_deaths is None or deaths > self.max_deaths, 6, words)

    # at every message

    def on_message(self, body: str, visible_at: float) -> None:
        chunk = None if body in self._truth.garbage else chunk_of(body)
        if chunk is not None:
            self.follow_ups.on_sent(chunk, visible_at, self._not_before_of(chunk))
            self.uploads.on_sent(self.batches[chunk.batch_id], chunk)

    def _not_before_of(self, chunk: Chunk) -> float | None:
        facts = self.batches[chunk.batch_id]
        if facts.state not in {"?", "abandoned"}:
            return facts.not_before
        # The chunk is sent before its batch is written, or so late that a stand-in has taken the place of the batch.
        label = chunk.operations[0].id.partition("-")[0]
        return next((one.not_before for one in self._truth.submissions if one.label == label), None)

    def on_dead_letter(self, body: str) -> None:
        """Check that a failure is counted before it is in the dead letter queue, because a redrive subtracts it."""
        chunk = None if body in self._truth.garbage else chunk_of(body)
        origin = None if chunk is None else redriven_from(chunk.id)
        if chunk is None or origin is None:
            return
        self.follow_ups.on_sent(chunk, self._now(), None)
        group = self.batches[chunk.batch_id].groups[chunk.group]
        self.check(origin in group.done, 7, f"{words_of(body)} is a dead letter, and {origin} is not counted")

    def on_receive(self, process: str, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            chunk = chunk_of(message["Body"])
            if chunk is not None:
                self._holders[chunk.batch_id, chunk.id][message["MessageId"]] = process
                self.losses.on_receive((chunk.batch_id, chunk.id), message["MessageId"], process)

    def on_lapse(self, body: str) -> None:
        chunk = chunk_of(body)
        if chunk is not None:
            self.follow_ups.lapsed[chunk.batch_id, chunk.id] += 1
            self.losses.on_lapse((chunk.batch_id, chunk.id))

    def on_given_back(self, body: str) -> None:
        """Count the delivery of a process that died. If the chunk had not started there, it must not be split."""
        chunk = chunk_of(body)
        if chunk is None:
            return  # it asks for a plan
        names = [self._truth.named(chunk.batch_id, one.id) for one in chunk.operations]
        runs = [run for name in names for run in self._truth.runs.get((chunk.batch_id, name), [])]
        self.follow_ups.lapsed[chunk.batch_id, chunk.id] += 1
        if not any(run.chunk_id == chunk.id and run.process in self._dead for run in runs):
            self.follow_ups.only_held[chunk.batch_id, chunk.id] += 1

    # at every death of a process

    def on_death(self, process: str) -> None:
        self._dead.add(process)
        self.losses.on_end(process)
        for (batch_id, operation_id), runs in self._truth.runs.items():
            for run in runs:
                if run.process == process and run.chunk_id is not None and not self._is_recorded(run):
                    self.deaths[batch_id].add(process)
                    self._died_of.add((batch_id, operation_id))
        for batch_id, chunk_id in self._noted[process]:
            if chunk_id not in self.batches[batch_id].records:
                self.deaths[batch_id].add(process)
                self._noted_deaths[batch_id].add(process)
                if self._now() - self._noted_at[process, batch_id, chunk_id] < NOTED_JUST_NOW_SECONDS:
                    self._died_just_before.add((batch_id, chunk_id))

    def _is_recorded(self, run: Run) -> bool:
        """Return True if the chunk of a run has a record with its operation: perhaps as a later round of a retry."""
        records, index = self.batches[run.batch_id].records, index_of(run.operation_id)
        return any(
            index in kept.record.indexes
            for chunk_id, kept in records.items()
            if is_same_letter(chunk_id, run.chunk_id or "")
        )

    # at every start of a handler

    def on_start(self, run: Run) -> None:
        given = key_given_to(run.operation_id)
        self.check(given in {None, run.key}, 5, f"{run.operation_id} has the key {run.key!r}, and not {given!r}")
        self.limits.on_start(run)
        self.links.on_start(run, self.batches[run.batch_id])
        if run.chunk_id is None:
            return  # the batch runs synchronously
        facts = self.batches[run.batch_id]
        if self.max_deaths is not None and len(self._noted_deaths[run.batch_id]) > self.max_deaths:
            self._went_on.add(run.batch_id)
        where = f"{run.operation_id} of batch {run.batch_id} runs in chunk {run.chunk_id}"
        self.check(facts.is_accepted, 1, f"{where}, but the batch is {facts.state}")
        early = (facts.not_before or 0.0) - self._now()
        self.check(early <= EARLY_SECONDS + self._truth.most_skew, 1, f"{where} {early:.3f} s before its time")
        over = min(self._now(), run.looked_at or 0) - facts.over_limit_at
        is_redriven = redriven_from(run.chunk_id) is not None  # an operator has asked for it
        self.check(
            over < BEGINS_STILL_SECONDS or is_redriven, 6, f"{where}, which seems to have killed too many processes"
        )
        self._check_not_paused(run, facts, where)
        self._check_queue_not_paused(run, where)
        has_lease = run.process in self._holders[run.batch_id, run.chunk_id].values()
        self.check(has_lease or not self.are_leases_kept, 5, f"{where}, whose lease is over: another consumer has it")
        self.follow_ups.on_start(run)
        index = index_of(run.operation_id)
        latest = facts.outcome(index, counted=False)
        if latest is not None and redriven_from(run.chunk_id) != latest[1]:
            self._check_unknowing(run, facts.records[latest[1]].at, f"{where} after its outcome {latest}")
        elif latest is None:
            self._check_not_closed(run, facts.groups[facts.number_of(index)], where)

    def on_poison(self, run: Run) -> None:
        """Check that a small batch with a key kills at most one front end, however often it is sent."""
        self.losses.on_end(run.process)
        if run.chunk_id is not None:
            return
        label = run.operation_id.partition("-")[0]
        submission = next(one for one in self._truth.submissions if one.label == label)
        self.poisoned_front_ends[label].add(run.process)
        killed = len(self.poisoned_front_ends[label])
        self.check(killed <= 1 or submission.key is None, 6, f"the small batch {label} killed {killed} front ends")

    def _check_unknowing(self, run: Run, recorded_at: float, words: str) -> None:
        """Check that the attempt could not know the record. It can be written after any read of the attempt."""
        unknowing = run.looked_at is None or run.looked_at <= recorded_at
        self.check(unknowing, 5, words)
        self.excused["started after its outcome, by an attempt that had read before"] += unknowing

    def _check_not_closed(self, run: Run, group: GroupFacts, words: str) -> None:
        """Check that the group was not closed long ago. Consumers read a batch once a second, so starts can be late."""
        if group.closed is None or redriven_from(run.chunk_id or "") is not None:
            return
        since = min(self._now(), run.looked_at or 0) - group.closed_at
        # The deadline has passed by the clock of the sweeper, and perhaps not by the clock of this consumer.
        apart = 2 * self._truth.most_skew if group.closed == "expired" else 0
        self.check(since < BEGINS_STILL_SECONDS + apart, 5, f"{words}, which was closed {since:.3f} s before its read")
        self.excused["started after its group was closed"] += 1

    # when an operation is suspected

    def on_suspected(self, batch_id: str, chunk_id: str, operation_id: str) -> None:
        """Check that only what ran when a process died is suspected, and not what the process only held."""
        operation_id = self._truth.named(batch_id, operation_id)
        noted = {process for process, *chunk in self._noted_at if chunk == [batch_id, chunk_id]}
        died = (batch_id, operation_id) in self._died_of or noted & self._truth.paused
        was_about_to_start = (batch_id, chunk_id) in self._died_just_before
        is_right = bool(died) or was_about_to_start or not self.is_evidence_needed
        self.check(is_right, 6, f"{operation_id} of batch {batch_id} is suspected, but no process died while it ran")

    # at the end

    def check_end(self, chunks: Iterable[Kept], dead_letters: Iterable[Kept], lapsed: Counter[str]) -> None:
        for batch_id, facts in self.batches.items():
            if facts.is_accepted:
                self._check_ended(batch_id, facts, lapsed)
            self.check(facts.state != "validating", 4, f"batch {batch_id} is still validating")
            if facts.is_planned and facts.is_accepted:
                self.uploads.check_accepted(batch_id)
            elif facts.is_planned:
                self.uploads.check_unaccepted(batch_id, facts)
        self._check_submissions()
        self.webhooks.check_end(self._sent_at())
        self.retries.check_end(self.batches.__getitem__)
        left = [words_of(kept.body) for kept in chunks if self._is_owed(kept)]
        self.check(not left, 7, f"left on the queue: {left}")
        self._check_dead_letters(list(dead_letters))

    def _sent_at(self) -> dict[str, float]:
        """Return when each accepted batch was sent for the first time."""
        accepted = [batch_id for batch_id, facts in self.batches.items() if facts.is_accepted]
        return {batch_id: self._truth.submission_of(batch_id).sent_at or 0.0 for batch_id in accepted}

    def check_results(self, batch_id: str, lines: list[dict[str, Any]]) -> None:
        """Check that GET results returns what is recorded and counted."""
        facts = self.batches[batch_id]
        for index in range(facts.total):
            found = facts.outcome(index, counted=True)
            closed = facts.groups[facts.number_of(index)].closed
            status = found[0].status if found else CLOSED_STATUS.get(closed or "")
            line = lines[index] if index < len(lines) else {}
            operation_id = f"{self._truth.labels[batch_id]}-{index}"
            told = self._truth.named(batch_id, line.get("id", "")), line.get("status")
            self.check(
                told == (operation_id, status), 2, f"results of {batch_id} say {told}, not {operation_id}, {status}"
            )
            if found:
                self.large_results.check_line(batch_id, found[0], line)
        self.check(len(lines) == facts.total, 2, f"results of {batch_id} have {len(lines)} lines of {facts.total}")

    def check_list(self, listed: list[str]) -> None:
        """Check that GET /batches has each batch that was accepted, once, and no other."""
        accepted = sorted(batch_id for batch_id, facts in self.batches.items() if facts.is_accepted or facts.is_planned)
        self.check(sorted(listed) == accepted, 1, f"{listed} are listed, and {accepted} were accepted")

    def check_nothing_ran_again(self) -> None:
        """Check that no operation ran again, in a run in which no process dies and nothing is lost."""
        for (batch_id, operation_id), runs in self._truth.runs.items():
            asked_again = self.batches[batch_id].was_redriven
            last = next((run for run in runs if run.is_final), runs[-1])
            self.check(
                last is runs[-1] or asked_again, 7, f"{operation_id} finished as {last} and ran again as {runs[-1]}"
            )
            if last.is_final and not asked_again and self.batches[batch_id].is_accepted:
                self._check_kept(self.batches[batch_id], last)

    def _check_kept(self, facts: BatchFacts, run: Run) -> None:
        """Check that a finished run counts, also in a cancelled batch, unless a sweep had closed its group before."""
        index = index_of(run.operation_id)
        if facts.groups[facts.number_of(index)].closed is None:
            state = facts.state_of(index)
            self.check(state in {"succeeded", "failed"}, 7, f"{run} had finished, but its outcome is {state}")

    def _is_owed(self, kept: Kept) -> bool:
        """Return False for a chunk that the next consumer would drop. Perhaps none had time for it."""
        chunk = chunk_of(kept.body)
        if chunk is None:
            return not is_plan_request(kept.body)
        facts = self.batches[chunk.batch_id]
        if redriven_from(chunk.id) is not None:
            return chunk.id not in facts.groups[chunk.group].done
        return facts.state not in FINAL | {"abandoned"}

    def _check_ended(self, batch_id: str, facts: BatchFacts, lapsed: Counter[str]) -> None:
        self.check(facts.state in FINAL, 4, f"batch {batch_id} never ended: it is {facts.state} with {facts.counts}")
        missing = [index for index in range(facts.total) if facts.state_of(index) is None]
        self.check(not missing, 2, f"no outcome for {missing} of batch {batch_id}")
        state = final_state(facts.counts, facts.ending)
        self.check(facts.state == state, 3, f"batch {batch_id} is {facts.state} with {facts.counts}, not {state}")
        for number, group in facts.groups.items():
            tally = facts.tally(number)
            self.check(group.counts == tally, 3, f"group {number} of {batch_id} counts {group.counts}, not {tally}")
        for index in range(facts.total):
            self._check_outcome(batch_id, facts, index, lapsed)
        self.links.check_end(batch_id, facts, self._truth.submission_of(batch_id))
        self._check_was_stopped(batch_id, facts)

    def _check_was_stopped(self, batch_id: str, facts: BatchFacts) -> None:
        """Check that a batch was stopped if it has cost more processes than the limit says, and nothing else ended it.

        Only deaths of poison are sure to be noticed. After others, the next delivery may find a record. If the table
        has not noted enough deaths, and nothing of the batch started after the last one, nothing was left to stop.
        """
        noted, limit = len(self._noted_deaths[batch_id]), self.max_deaths
        if self.is_poison_alone and limit is not None and facts.state in {"completed", "failed"}:
            could_stop = batch_id in self._went_on or facts.over_limit_at < math.inf
            words = f"batch {batch_id} has cost {noted} processes, its limit is {limit}, and it was not stopped"
            self.check(noted <= limit or not could_stop or facts.ending is not None, 6, words)

    def _check_outcome(self, batch_id: str, facts: BatchFacts, index: int, lapsed: Counter[str]) -> None:
        """Check that the operation can have its outcome, and that a handler returned it."""
        submission = self._truth.submission_of(batch_id)
        found = facts.outcome(index, counted=True)
        where = f"{submission.toys[index].path} {index} of batch {batch_id}: {found}"
        if found is None:
            closed = facts.groups[facts.number_of(index)].closed
            self._check_ending(facts, submission, str(closed), where)
            return
        outcome, chunk_id = found
        toy = submission.toys[index]
        title = outcome.error["title"] if outcome.error else None
        if outcome.state is OutcomeState.SUCCEEDED:
            runs, result = self._truth.runs_of(batch_id, outcome.id), self.large_results.value_of(batch_id, outcome)
            spoke = [run for run in runs if run.is_final and run.number == result["run"]]
            self.check(bool(spoke) and toy.can_succeed, 2, f"{where}, but no handler returned it")
        elif outcome.state is not OutcomeState.FAILED or title == "Stopped":
            self._check_ending(facts, submission, outcome.state.value, where)
        elif title == "Poison":
            was_lost = any(is_same_letter(chunk_id, other) for other in lapsed)
            self.check(was_lost or self.has_parents, 6, f"{where}, but no delivery of it was lost")
            runs = self._truth.runs_of(batch_id, outcome.id)
            was_paused = any(run.process in self._truth.paused for run in runs)
            suspects = members(submission, index) if toy.group else [index]
            died = was_paused or any((batch_id, f"{submission.label}-{one}") in self._died_of for one in suspects)
            self.check(died, 6, f"{where}, but no process died while it ran")
            wrongly = toy.path not in POISON
            self.check(not (wrongly and self.is_poison_alone), 6, f"{where}, but other operations killed the consumer")
            self.excused["failed as poison, but was not"] += wrongly
        elif title == "Dependency failed":
            self.check(bool(toy.after) or toy.group is not None, 2, f"{where}, but it depends on nothing")
        elif title == "Rolled back":
            self.check(toy.group is not None, 2, f"{where}, but it is in no group")
        else:
            # If a batch ends early, none of its operations is tried again.
            over = facts.records[chunk_id].at > facts.first_deadline_at - self._truth.most_skew
            gave_up = toy.can_fail_once and (over or facts.ending is not None)
            # A pause of the process counts towards the time limit of its handlers.
            paused = title == "Timed out" and self._truth.longest_pause > DEFAULT_TIMEOUT_SECONDS - LONGEST_RUN_SECONDS
            self.excused["timed out while its process was paused"] += paused and not toy.can_fail
            self.check(toy.can_fail or gave_up or paused, 6, f"{where} cannot be")

    def _check_ending(self, facts: BatchFacts, submission: Submission, state: str, where: str) -> None:
        """Check that there is a reason for an operation that did not run."""
        if state == "cancelled":
            limit = submission.max_failures
            too_much = limit is not None and facts.most_failed > limit
            self.check(submission.is_cancelled or too_much, 2, f"{where} is cancelled, but nobody asked for it")
        elif state == "expired":
            self.check(self._now() > facts.first_deadline_at - self._truth.most_skew, 2, f"{where} is expired too soon")
        else:
            self.check(facts.ending == "failed", 6, f"{where} is stopped, but its batch was not")

    def _check_submissions(self) -> None:
        accepted: defaultdict[str, list[str]] = defaultdict(list)
        for batch_id, facts in self.batches.items():
            ran = [run for (of, _), runs in self._truth.runs.items() if of == batch_id for run in runs]
            if facts.is_accepted:
                accepted[self._truth.labels[batch_id]].append(batch_id)
            else:
                early = [run for run in ran if run.chunk_id is not None]
                self.check(not early, 1, f"batch {batch_id} is {facts.state}, but {early} ran")
        for submission in self._truth.submissions:
            self._check_submission(submission, accepted[submission.label])

    def _check_submission(self, submission: Submission, batch_ids: list[str]) -> None:
        words = f"{submission} became the batches {batch_ids}"
        unaccepted = {batch_id for batch_id in submission.batch_ids if self.batches[batch_id].is_planned}
        named = submission.batch_ids - unaccepted
        self.check(not named - set(batch_ids), 1, f"{words}, but the answers named others")
        statuses = submission.statuses
        if submission.key is None:
            most = sum(status in {ACCEPTED, *UNKNOWN} for status in statuses)
        else:
            most = 1
            self.check(self._can_have_answers(submission), 1, f"{words}, but was answered with 200 and with 202")
            self.check(len(self._truth.keys_of(submission)) <= len(submission.toys), 5, f"{words} with several keys")
        self.check(len(batch_ids) <= most, 1, words)

    def _can_have_answers(self, submission: Submission) -> bool:
        """Return False if a batch was accepted after an answer with all results was stored, or before there was one.

        If such an answer could not be stored, a repetition runs the batch again, and perhaps in the background.
        """
        answers = [status for status in submission.statuses if status in {ANSWERED, ACCEPTED}]
        is_stored = f"key#default#{submission.key}" in self._keys_with_answers
        return len(set(answers)) < 2 or (answers == sorted(answers) and not is_stored)

    def _check_dead_letters(self, messages: list[Kept]) -> None:
        """Check that the letters are all failures and all messages that are not chunks. A letter may exist twice."""
        dead: defaultdict[str, set[tuple[int, str]]] = defaultdict(set)
        for kept in messages:
            if kept.body in self._truth.garbage:
                self.check("reason" in kept.attributes, 7, f"a dead letter without a reason: {kept.body[:80]}")
                continue
            chunk = chunk_of(kept.body)
            assert chunk is not None, kept.body
            origin = redriven_from(chunk.id)
            self.check(origin is not None, 7, f"the chunk {words_of(kept.body)} is in the dead letter queue")
            dead[chunk.batch_id] |= {(operation.index, str(origin)) for operation in chunk.operations}
        for batch_id, facts in self.batches.items():
            self._check_dead(batch_id, facts, dead[batch_id])
        aside = {kept.body for kept in messages}
        self.check(self._truth.garbage <= aside, 7, f"not in the dead letter queue: {self._truth.garbage - aside}")

    def _check_dead(self, batch_id: str, facts: BatchFacts, dead: set[tuple[int, str]]) -> None:
        failed = set()
        for index in range(facts.total):
            found = facts.outcome(index, counted=True)
            if found is not None and found[0].state is OutcomeState.FAILED:
                failed.add((index, found[1]))
        ever = {(index, chunk_id) for index, chunk_ids in facts.chunks_of.items() for chunk_id in chunk_ids}
        # If a consumer dies between the count and the dead letters, the next delivery sends them. A lost message has no
        # next delivery. A retry of the batch still finds those failures in the record.
        nobodys = {(index, chunk_id) for index, chunk_id in failed - dead if (batch_id, chunk_id) in self._truth.lost}
        self.excused["not dead-lettered: the message was lost"] += len(nobodys)
        if facts.is_accepted:
            missing = failed - dead - nobodys
            self.check(not missing, 7, f"no dead letters for {missing} of batch {batch_id}")
        self.check(dead <= ever, 7, f"dead letters of batch {batch_id} for {dead - ever}, which have no outcomes there")


def final_state(counts: Counts, ending: str | None) -> str:
    if counts.cancelled:
        return "cancelled"
    if counts.expired:
        return "expired"
    is_stopped = ending == "failed" and counts.failed > 0
    return "failed" if is_stopped or not counts.succeeded else "completed"


def index_of(operation_id: str) -> int:
    return int(operation_id.rpartition("-")[2])


def chunk_of(body: str) -> Chunk | None:
    try:
        return decode_chunk(body)
    except UnreadableMessage:
        return None


def words_of(body: str) -> str:
    chunk = chunk_of(body)
    return body[:60] if chunk is None else f"{chunk.batch_id}/{chunk.id} attempt {chunk.attempt}"


def _chunk_id(key: Key) -> str:
    return chunk_of_item({"pk": {"S": key[0]}, "sk": {"S": key[1]}})[1]
