"""Final batches: what a client was told about one stays true, and agrees with all that it asks next.

A front end may know that a batch is final before the table says so. No other answer may contradict it.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.testing.http import Answer
from tests.simulation.truth import FINAL, Submission, Truth

if TYPE_CHECKING:
    from tests.simulation.clients import Client
    from tests.simulation.promises import BatchFacts, Promises

Check = Callable[[bool, int, str], None]
Status = dict[str, Any]

OK, ACCEPTED, BAD_REQUEST, CONFLICT, UNAVAILABLE = 200, 202, 400, 409, 503
CHANGING = {"cost"}  # what a process has spent is known once it reports it
KEPT_BY_A_RETRY = ("total", "completed", "cancelled", "expired", "startedAt", "finishedAt")


class FinalChecks:
    """The checks. `facts_of` returns what the table has of a batch, as `BatchFacts`."""

    def __init__(self, truth: Truth, check: Check, facts_of: Callable[[str], "BatchFacts"]) -> None:
        self.told: dict[str, Status] = {}  # the first final status of each batch
        self._truth = truth
        self._check = check
        self._facts_of = facts_of

    def on_status(self, status: Status) -> None:
        """Check that a final status has its times, and that it stays as it is, unless failures run again."""
        before = self.told.get(status["batchId"])
        is_final = status["status"] in FINAL
        self._check(is_final == (status["finishedAt"] is not None), 3, f"the status says {status}")
        if before is not None:
            self._check_kept(before, status)
        elif is_final:
            self.told[status["batchId"]] = status
            started_at = status["startedAt"] or ""
            in_order = self._truth.most_skew > 0 or started_at <= status["finishedAt"]
            self._check(in_order, 3, f"the batch has ended before it started: {status}")

    def _check_kept(self, before: Status, status: Status) -> None:
        is_redriven = self._facts_of(status["batchId"]).was_redriven
        names = KEPT_BY_A_RETRY if is_redriven else sorted(status.keys() - CHANGING)
        changed = {name: (before[name], status[name]) for name in names if before[name] != status[name]}
        is_right = not changed and status["status"] in FINAL and status["failed"] <= before["failed"]
        self._check(is_right, 3, f"the batch was final, and these have changed: {changed}. It was {before}")

    def on_results(self, batch_id: str, lines: Sequence[Any]) -> None:
        """Check that there are as many results, and as many good ones, as the status has told."""
        told, facts = self.told[batch_id], self._facts_of(batch_id)
        if facts.is_accepted:
            good = sum(line["status"] < BAD_REQUEST for line in lines)
            is_right = len(lines) == told["total"] and (good == told["succeeded"] or facts.was_redriven)
            self._check(is_right, 2, f"batch {batch_id} has {len(lines)} results, {good} are good, and it is {told}")

    def on_cancel(self, submission: Submission, batch_id: str, answer: Answer) -> None:
        """Check that it is too late to cancel a final batch. Only a repeated cancel gets the same answer again."""
        told = self.told[batch_id]
        expected = {ACCEPTED} if told["status"] == "cancelled" else {CONFLICT}
        if submission.is_cancelled:
            expected |= {ACCEPTED}
        self._check(answer.status in expected, 2, f"to cancel {told} is answered with {answer}")
        if answer.status == ACCEPTED:
            self.on_status(answer.body)

    def on_change(self, batch_id: str, answer: Answer) -> None:
        self._check(answer.status == CONFLICT, 2, f"to change {self.told[batch_id]} is answered with {answer}")

    def on_retry(self, batch_id: str, answer: Answer, *, most: int, is_everything: bool) -> None:
        """Check the answer to a retry of `most` failures. If some run again already, there may be fewer."""
        facts, told = self._facts_of(batch_id), self.told.get(batch_id)
        words = f"to retry {most} of {told or batch_id} is answered with {answer}"
        if answer.status == ACCEPTED:
            retried = answer.body["retried"]
            self._check(retried >= most or facts.was_redriven, 7, words)
            self._check(retried <= facts.total, 7, words)
        else:
            nothing_left = not is_everything and (not most or facts.was_redriven)
            self._check(answer.status == CONFLICT and nothing_left, 7, words)

    def on_export(self, batch_id: str, answer: Answer) -> None:
        told = self.told[batch_id]
        self._check(answer.status in {OK, ACCEPTED}, 2, f"to export {told} is answered with {answer}")
        if answer.status in {OK, ACCEPTED}:
            self._check(answer.body["total"] == told["total"], 2, f"the export of {told} is {answer.body}")

    def on_event(self, data: Status) -> None:
        """Check that an event has told the same as the status, unless failures have run again."""
        told = self.told.get(data["batchId"])
        if told is not None and not self._facts_of(data["batchId"]).was_redriven:
            changed = {name: (told[name], data[name]) for name in told.keys() & data.keys() if told[name] != data[name]}
            self._check(not changed, 10, f"the event of {told} tells something else: {changed}")


@dataclass(frozen=True, slots=True)
class SecondLook:
    """Asks everything about a batch that was told as final a moment ago."""

    client: "Client"
    promises: "Promises"
    submission: Submission
    batch_id: str
    has_bucket: bool = False

    async def take(self) -> None:
        """Ask one thing after the other, or everything at the same time."""
        chance = random.Random(f"second look at {self.batch_id}")
        asks = [self._status, self._results, self._cancel, self._change, *([self._export] if self.has_bucket else [])]
        chance.shuffle(asks)
        if chance.random() < 0.5:
            await asyncio.gather(*(ask() for ask in asks))
            return
        for ask in asks:
            await ask()

    async def _status(self) -> None:
        await self.client.status(self.batch_id)

    async def _results(self) -> None:
        answer = await self._ask("GET", "/results", headers={"Accept": "application/x-ndjson"})
        if answer is None:
            return
        self.promises.final.on_results(self.batch_id, answer.lines)
        facts = self.promises.batches[self.batch_id]
        if facts.is_accepted and not facts.was_redriven:
            self.promises.check_results(self.batch_id, answer.lines)

    async def _cancel(self) -> None:
        answer = await self._ask("POST", "/cancel")
        if answer is not None:
            self.promises.final.on_cancel(self.submission, self.batch_id, answer)

    async def _change(self) -> None:
        answer = await self._ask("PATCH", "", {"priority": "high"})
        if answer is not None:
            self.promises.final.on_change(self.batch_id, answer)

    async def _export(self) -> None:
        answer = await self._ask("POST", "/export")
        if answer is not None:
            self.promises.final.on_export(self.batch_id, answer)

    async def _ask(
        self, method: str, what: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer | None:
        """Return the answer, or None if the connection broke or AWS did not answer."""
        answer = await self.client.ask(method, f"/batch/{self.batch_id}{what}", body, headers)
        return None if answer is None or answer.status == UNAVAILABLE else answer
