"""Clients: they submit batches, follow them, and check every answer against the promises."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from penstock.priority import Priority
from penstock.testing.http import Answer
from penstock.webhooks.endpoint import MOST_ENDPOINTS
from tests.simulation.final_batches import SecondLook
from tests.simulation.links import DEPENDENCY_FAILED, draw_groups, draw_links, draw_references
from tests.simulation.mixes import Mix
from tests.simulation.process import EPOCH
from tests.simulation.programs import ServiceProgram
from tests.simulation.promises import ACCEPTED, ANSWERED
from tests.simulation.truth import DRAWN_POISON, FINAL, MAX_ATTEMPTS, POISON, TOLD, Plan, Submission, Toy, key_given_to
from tests.simulation.uploads import FAULTS, FORMS, TEMPLATE, content_of, key_of, upload_id_of
from tests.simulation.webhooks import CALLBACK_URL
from tests.simulation.world import World

CREATED, BAD_REQUEST, CONFLICT, TOO_MANY, UNAVAILABLE = 201, 400, 409, 429, 503
PATIENCE_SECONDS = 4 * 3600.0
MOST_TRIES = 15
MOST_STEERS = 6
LOOKS_AGAIN_SECONDS = 30.0
REPLACED = 0.1  # how often a client replaces its file
ORDINARY = (
    ["/succeed"] * 12
    + ["/once"] * 2
    + ["/flaky"] * 4
    + ["/later"] * 2
    + ["/bulk"] * 6
    + ["/reject", "/break", "/hang", "/exit", "/cancel-itself"]
)


def draw_submission(
    label: str, chance: random.Random, mix: Mix, sizes: tuple[int, int], *, lease: float, now: float
) -> Submission:
    toys = [_draw_toy(chance, mix, lease) for _ in range(chance.randint(*sizes))]
    linked = draw_links(label, toys, mix.links) if mix.links else toys
    linked = draw_references(label, linked) if mix.links else linked
    submission = Submission(label, draw_groups(label, linked, mix.groups) if mix.groups else linked)
    if chance.random() < mix.keys:
        submission.key = f"key of {label}"
    if chance.random() < 0.3:
        submission.prefer = chance.choice(["respond-async", "wait=1", "wait=3"])
    submission.priority = chance.choice(list(Priority))
    if chance.random() < mix.later:
        submission.not_before = now + chance.choice([-60.0, 5.0, 60.0, 2_000.0])  # longer than SQS delays, too
    if chance.random() < mix.deadlines:
        submission.deadline_seconds = chance.choice([3.0, 30.0, 120.0])
    if mix.has_webhooks and chance.random() < 0.7:
        submission.callback_url = CALLBACK_URL
    if chance.random() < mix.limits:
        submission.max_failures = chance.randint(0, 3)
    if mix.uploads and chance.random() < mix.uploads:
        submission.is_upload, submission.form = True, chance.choice(FORMS)
        submission.fault = chance.choice([*range(len(FAULTS)), *[None] * 9])
    return submission


def _draw_toy(chance: random.Random, mix: Mix, lease: float) -> Toy:
    path = chance.choice(sorted(DRAWN_POISON) if chance.random() < mix.poison else ORDINARY)
    seconds = chance.choice([1.0, 5.0, 20.0] if mix.is_large else [0.0, 0.01, 0.1, 1.0, 5.0])
    if path == "/succeed" and chance.random() < 0.05:
        path, seconds = chance.choice([("/succeed", 1.5 * lease), ("/large", 0.1), ("/stubborn", 4.0)])
    if mix.poison_seconds and path in DRAWN_POISON:
        seconds = chance.choice(mix.poison_seconds)
    if mix.endless and chance.random() < mix.endless:
        path = "/never-end"
    after = 2_000.0 if chance.random() < 0.02 else chance.choice([None, 0, 7, 30])  # longer than SQS delays
    filling = chance.choice([0, 300, 1_000, 5_000]) if mix.has_little_memory else 0
    return Toy(path, Plan(seconds=seconds, times=chance.randint(0, MAX_ATTEMPTS), after=after, filling=filling))


class Client:
    """Sends requests to any front end that listens."""

    def __init__(self, world: World, front_end: Callable[[], Awaitable[ServiceProgram]]) -> None:
        self._world = world
        self._front_end = front_end
        self._chance = world.chance
        self._told: dict[tuple[str, str], dict[str, Any]] = {}
        self._numbers = itertools.count(1)  # of the requests

    async def live(self, submission: Submission, mix: Mix) -> None:
        """Submit, follow the batches to their ends, and sometimes cancel or retry them. Then look at them again."""
        self._world.truth.submissions.append(submission)
        if submission.is_upload:
            self.upload(submission)
        await self.submit_until_answered(submission)
        if submission.is_upload and self._chance.random() < REPLACED:
            await self._replace(submission)
        await asyncio.gather(*(self._watch(submission, batch_id, mix) for batch_id in sorted(submission.batch_ids)))

    def upload(self, submission: Submission) -> None:
        """Put the file of a submission into the bucket."""
        content = content_of(submission, _body(submission)["operations"], self._chance)
        self._world.files.put(key_of(submission.label), content)

    async def _replace(self, submission: Submission) -> None:
        """Replace the file of a submission by one that has the same size, and other operations."""
        await asyncio.sleep(self._chance.uniform(0, 3))
        submission.is_replaced = True
        key = key_of(submission.label)
        content = self._world.files.contents[key]
        self._world.files.put(key, content.replace(f"{submission.label}-".encode(), b"x9-"))

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer | None:
        """Send one request. Return its answer, or None if the connection broke."""
        front_end = await self._front_end()
        named = {"X-Request-Id": f"r{next(self._numbers)}", **(headers or {})}
        try:
            answer = await front_end.ask(method, path, body, named)
        except ConnectionResetError:
            answer = None
        self._world.note("client", f"{method} {path}", "broke off" if answer is None else answer.status)
        return answer

    async def results(self, batch_id: str) -> list[dict[str, Any]]:
        """Ask for the results until there is an answer. Results must not change, unless failures were redriven."""
        while True:
            answer = await self.ask("GET", f"/batch/{batch_id}/results", headers={"Accept": "application/x-ndjson"})
            if answer is not None and answer.status == ANSWERED:
                self._check_told(batch_id, answer.lines)
                return answer.lines
            await asyncio.sleep(1)

    async def listed(self) -> list[str]:
        """Return the ids of all batches that are listed, page by page."""
        found: list[str] = []
        cursor = ""
        while True:
            answer = await self.ask("GET", f"/batches?limit=2{cursor}")
            if answer is None or answer.status != ANSWERED:
                await asyncio.sleep(1)
                continue
            found += [batch["batchId"] for batch in answer.body["batches"]]
            if answer.body["nextCursor"] is None:
                return found
            cursor = f"&cursor={answer.body['nextCursor']}"

    def _check_told(self, batch_id: str, lines: list[dict[str, Any]]) -> None:
        redriven = self._world.promises.batches[batch_id].was_redriven
        for line in lines:
            before = self._told.setdefault((batch_id, line["id"]), line)
            changed = before != line and not (redriven and before["status"] >= BAD_REQUEST)
            self._world.promises.check(not changed, 2, f"the results of {batch_id} had {before}, and now have {line}")

    async def submit_until_answered(self, submission: Submission) -> None:
        """Submit, and repeat if there is a key, which makes that safe; sometimes without waiting for the answer."""
        if submission.key is not None and self._chance.random() < 0.3:
            await asyncio.gather(self.submit(submission), self.submit(submission))
        for _ in range(MOST_TRIES):
            status = await self.submit(submission)
            if submission.key is None or status in {ANSWERED, ACCEPTED}:
                return
            await asyncio.sleep(self._chance.uniform(0.1, 20))

    async def make_endpoint(self) -> None:
        """Make a webhook endpoint. It may exist even if there was no answer."""
        for _ in range(MOST_ENDPOINTS):
            answer = await self.ask("POST", "/v1/webhook_endpoints", {"url": "https://receiver.example/all"})
            if answer is not None and answer.status == CREATED:
                self._world.promises.webhooks.endpoints[answer.body["id"]] = self._world.loop.time()
                return
            expected = answer is None or answer.status == UNAVAILABLE
            self._world.promises.check(expected, 10, f"an endpoint could not be made: {answer}")
            await asyncio.sleep(self._chance.uniform(0.1, 5))

    async def submit(self, submission: Submission) -> int | None:
        if submission.sent_at is None:
            submission.sent_at = self._world.loop.time()
        headers = {}
        if submission.key is not None:
            headers["Idempotency-Key"] = f'"{submission.key}"'
        if submission.prefer is not None:
            headers["Prefer"] = submission.prefer
        if submission.is_upload:
            headers["Content-Type"] = "text/csv" if submission.form == "rows" else "application/x-ndjson"
            answer = await self.ask("POST", f"/batch?{_query(submission)}", headers=headers)
        else:
            answer = await self.ask("POST", "/batch", _body(submission), headers)
        submission.statuses.append(None if answer is None else answer.status)
        if answer is None:
            return None
        if answer.status == ACCEPTED:
            submission.batch_ids.add(answer.body["batchId"])
        elif answer.status == ANSWERED:
            self._check_answer(submission, answer.body)
            self._world.promises.quotas.on_answered(submission.label, len(submission.toys))
        elif answer.status == TOO_MANY and "open" in answer.body["violated-policies"]:
            self._world.promises.check(self._world.promises.open.most is not None, 8, "there is no limit")
        elif answer.status == TOO_MANY and self._world.promises.quotas.quota is not None:
            self._world.promises.quotas.on_rejected()
        else:
            expected = answer.status in {503, 504} or (answer.status == CONFLICT and submission.key is not None)
            self._world.promises.check(
                expected, 1, f"{submission.label} is answered {answer.status} {answer.content!r}"
            )
        return answer.status

    def _check_answer(self, submission: Submission, body: dict[str, Any]) -> None:
        """Check a synchronous answer: each operation has an outcome, and it is a possible one."""
        check = self._world.promises.check
        told = [result["id"] for result in body["results"]]
        check(told == [f"{submission.label}-{index}" for index in range(len(submission.toys))], 2, f"answered {told}")
        for result, toy in zip(body["results"], submission.toys, strict=True):
            can = toy.can_succeed if "result" in result else toy.can_fail or toy.can_fail_once or toy.path in POISON
            is_blocked = bool(toy.after or toy.group) and result["status"] == DEPENDENCY_FAILED
            check(can or is_blocked, 2, f"{toy} is answered {result}")
        self._world.promises.links.check_answer(submission, [result["status"] for result in body["results"]])

    async def _watch(self, submission: Submission, batch_id: str, mix: Mix) -> None:
        cancels = self._chance.random() < mix.cancels
        completed, interval = 0, self._chance.choice([0.1, 1.0, 10.0])
        steers = MOST_STEERS if mix.steers else 0
        while self._world.loop.time() < PATIENCE_SECONDS:
            await asyncio.sleep(interval * self._chance.random())
            interval *= 1.3
            status = await self.status(batch_id, completed)
            if status is None:
                continue
            completed = status["completed"]
            if mix.steers:
                interval = min(interval, LOOKS_AGAIN_SECONDS)
                steers -= await self._steer(submission, status, steers, mix)
            if status["status"] in FINAL:
                await self._go_on(submission, batch_id, mix)
                break
            if self._chance.random() < 0.1:
                await self.results(batch_id)
            if cancels and self._chance.random() < 0.3:
                submission.is_cancelled = True
                await self.ask("POST", f"/batch/{batch_id}/cancel")

    async def _go_on(self, submission: Submission, batch_id: str, mix: Mix) -> None:
        """Look again at a batch that was told as final a moment ago, and sometimes retry it at the same time."""
        look = SecondLook(self, self._world.promises, submission, batch_id, has_bucket=mix.has_bucket)
        if self._chance.random() < mix.retries:
            await asyncio.gather(look.take(), self._retry(batch_id, len(submission.toys)))
        else:
            await look.take()

    async def _retry(self, batch_id: str, operations: int) -> None:
        """Retry all failures, or let two requests choose some of them at the same time. They may choose the same."""
        chance = random.Random(f"retry {batch_id}")
        if chance.random() < 0.5:
            await self.retry(batch_id)
            return
        choices = [chance.sample(range(operations), chance.randint(1, operations)) for _ in range(2)]
        await asyncio.gather(*(self.retry(batch_id, indexes) for indexes in choices))

    async def retry(self, batch_id: str, indexes: Sequence[int] | None = None) -> None:
        """Retry all failures of a final batch, or choose operations, of which some may have failed."""
        promises = self._world.promises
        facts, label = promises.batches[batch_id], self._world.truth.labels[batch_id]
        chosen = promises.retries.failures(batch_id, facts, range(facts.total) if indexes is None else indexes)
        body = None if indexes is None else {"ids": [f"{label}-{index}" for index in indexes]}
        answer = await self.ask("POST", f"/batch/{batch_id}/retry", body)
        if answer is None or answer.status == UNAVAILABLE:
            return
        promises.final.on_retry(batch_id, answer, most=len(chosen), is_everything=indexes is None)
        if answer.status == ACCEPTED:
            promises.retries.chosen |= chosen

    async def _steer(self, submission: Submission, status: dict[str, Any], left: int, mix: Mix) -> bool:
        """Sometimes change a batch. One that is paused is resumed in the end. Return True if it was changed."""
        if status["status"] == "paused" and (left <= 0 or self._chance.random() < 0.15):
            await self.steer(submission, status["batchId"], {"paused": False})
            return False
        if left <= 0 or self._chance.random() >= mix.steers:
            return False
        await self.steer(submission, status["batchId"], self._draw_changes())
        return True

    def _draw_changes(self) -> dict[str, Any]:
        chance = self._chance
        later = EPOCH + self._world.loop.time() + chance.choice([3.0, 60.0, 1_000.0, 1_000.0])
        changes: dict[str, Any] = {
            "priority": chance.choice(list(Priority)),
            "maxFailures": chance.choice([None, 0, 3]),
            "maxFailedPercent": chance.choice([None, 50]),
            "deadlineAt": datetime.fromtimestamp(later, UTC).isoformat(),
        }
        drawn = {name: changes[name] for name in chance.sample(sorted(changes), chance.randint(0, 2))}
        return drawn | ({"paused": chance.random() < 0.9} if not drawn or chance.random() < 0.5 else {})

    async def steer(self, submission: Submission, batch_id: str, changes: dict[str, Any]) -> Answer | None:
        limits = [submission.max_failures, changes.get("maxFailures")]
        if changes.get("maxFailedPercent") is not None:
            limits.append(int(len(submission.toys) * changes["maxFailedPercent"] / 100))
        submission.max_failures = min((limit for limit in limits if limit is not None), default=None)
        answer = await self.ask("PATCH", f"/batch/{batch_id}", changes)
        expected = answer is None or answer.status in {ANSWERED, CONFLICT, 422, 503}
        self._world.promises.check(expected, 1, f"the change {changes} of {batch_id} is answered {answer}")
        return answer

    async def status(self, batch_id: str, completed_before: int = 0) -> dict[str, Any] | None:
        """Return the status of a batch, or None if there is no answer. `completed_before` is what was told before."""
        answer = await self.ask("GET", f"/batch/{batch_id}/status")
        if answer is None or answer.status != ANSWERED:
            self._world.promises.check(answer is None or answer.status == 503, 3, f"the status of {batch_id}: {answer}")
            return None
        body: dict[str, Any] = answer.body
        self._check_status(body, completed_before)
        return body

    async def status_until_answered(self, batch_id: str) -> None:
        while await self.status(batch_id) is None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)

    def _check_status(self, status: dict[str, Any], completed_before: int) -> None:
        ended = sum(status[state] for state in ("succeeded", "failed", "cancelled", "expired"))
        exact = ended == status["completed"] <= status["total"] and status["completed"] >= completed_before
        whole = status["status"] not in FINAL or ended == status["total"]
        begun = status["status"] != "queued" or status["completed"] < status["total"]
        begun = begun and (status["status"] != "completed" or status["startedAt"] is not None)
        self._world.promises.check(exact and whole and begun, 3, f"the status says {status}, before {completed_before}")
        self._world.promises.final.on_status(status)


def _query(submission: Submission) -> str:
    """Return the query that makes a batch of an uploaded file."""
    options = {name: value for name, value in _body(submission).items() if name != "operations"}
    options |= TEMPLATE if submission.form == "rows" else {}
    return urlencode({**options, "upload": upload_id_of(submission.label)})


def _body(submission: Submission) -> dict[str, Any]:
    operations: list[dict[str, Any]] = [
        {"id": f"{submission.label}-{index}", "method": "POST", "path": toy.path, "body": toy.plan.model_dump()}
        for index, toy in enumerate(submission.toys)
    ]
    for operation in operations:
        if (key := key_given_to(operation["id"])) is not None:
            operation["key"] = key
    _link(operations, submission.toys)
    body: dict[str, Any] = {"operations": operations, "priority": submission.priority}
    if submission.not_before is not None:
        body["notBefore"] = datetime.fromtimestamp(EPOCH + submission.not_before, UTC).isoformat()
    if submission.deadline_seconds is not None:
        body["deadlineSeconds"] = submission.deadline_seconds
    if submission.callback_url is not None:
        body["callbackUrl"] = submission.callback_url
    if submission.max_failures is not None:
        body["maxFailures"] = submission.max_failures
    return body


def _link(operations: list[dict[str, Any]], toys: Sequence[Toy]) -> None:
    for operation, toy in zip(operations, toys, strict=True):
        if toy.group is not None:
            operation["group"] = toy.group
        if depends_on := [operations[index]["id"] for index in toy.after if index != toy.refers_to]:
            operation["dependsOn"] = depends_on
        if toy.refers_to is not None:
            operation["path"] = f"{TOLD}/{{run}}{toy.path}"
            operation["references"] = {"run": {"operation": operations[toy.refers_to]["id"], "member": toy.member}}
