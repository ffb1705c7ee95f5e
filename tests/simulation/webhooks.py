"""A receiver of events, and the checks of webhooks: one event for each final state, and none is lost or made up."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.webhooks.event import FinalEvent
from penstock.webhooks.schedule import Answer
from tests.simulation.dynamodb import Key, Table
from tests.simulation.expressions import Item
from tests.simulation.truth import FINAL, Truth

SECRET = "the secret of the simulated webhooks"
CALLBACK_URL = "https://receiver.example/hook"
DUE = "webhook"


@dataclass
class Receiver:
    """Answers requests with events. In a storm many attempts fail, some of them after the event has arrived."""

    chance: random.Random
    failures: float = 0.0
    arrived: list[tuple[str, str, bytes]] = field(default_factory=list)  # the URL, the event's id, and the body

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, _tenant: str) -> Answer:
        await asyncio.sleep(self.chance.uniform(0.01, 0.3))
        failure = self.chance.choice(["busy", "error", "silent", "lost"]) if self._fails() else None
        if failure not in {"busy", "silent"}:
            self.arrived.append((url, headers["webhook-id"], body))
        if failure in {"silent", "lost"}:
            await asyncio.sleep(15)
            return Answer(error="There was no response within 15 s.")
        status = {"busy": 429, "error": 500, None: 204}[failure]
        return Answer(status, retry_after=self.chance.uniform(1, 10) if failure == "busy" else None)

    def _fails(self) -> bool:
        return self.failures > 0 and self.chance.random() < self.failures


@dataclass
class WebhookChecks:
    truth: Truth
    check: Callable[[bool, int, str], None]
    receiver: Receiver | None = None
    table: Table | None = None
    on_event: Callable[[dict[str, Any]], None] = lambda _data: None  # what an event tells of its batch
    events: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))  # states, by batch, id
    has_callback: dict[str, bool] = field(default_factory=dict)
    has_webhooks: dict[str, bool] = field(default_factory=dict)
    endpoints: dict[str, float] = field(default_factory=dict)  # when their tenant got the answer, by id
    due: set[Key] = field(default_factory=set)

    def on_batch(self, key: Key, before: Item, after: Item) -> None:
        """Check that an event is added exactly when a batch with receivers moves to a final state."""
        batch_id = key[0].split("#")[1]
        self.has_callback[batch_id], self.has_webhooks[batch_id] = "callback_url" in after, "webhooks" in after
        events_before, events = _events(before), _events(after)
        added = [FinalEvent.decode(text) for text in events - events_before]
        new = [event for event in added if event.id not in self.events[batch_id]]
        state_before, state = before.get("state", {"S": "?"})["S"], after["state"]["S"]
        is_told = self.has_callback[batch_id] or self.has_webhooks[batch_id]
        expected = [state] if is_told and state in FINAL and state != state_before else []
        words = f"batch {batch_id} was {state_before} and is {state}, and has the new events {new}"
        self.check([event.state for event in new] == expected, 10, words)
        self.events[batch_id] |= {event.id: event.state for event in new}
        if state in FINAL:
            is_due = after.get("open", {"S": ""})["S"] == DUE
            self.check(is_due == bool(events), 10, f"{words}, and is {'' if is_due else 'not '}in the index")
        for text in events_before - events:
            self._check_expanded(batch_id, FinalEvent.decode(text).id)
        self._note_due(key, after)

    def on_delivery(self, key: Key, before: Item, after: Item) -> None:
        event_id = key[1].partition(".")[0]
        self.check(any(event_id in of_batch for of_batch in self.events.values()), 10, f"{key} has no event")
        attempts = int(after["attempt"]["N"]) - int(before.get("attempt", {"N": "0"})["N"])
        self.check(attempts in {0, 1}, 10, f"{attempts} attempts of {key} were counted together")
        was_delivered = before.get("state", {"S": ""})["S"] == "delivered"
        self.check(not was_delivered or after["state"]["S"] == "delivered", 10, f"{key} was delivered, and is {after}")
        if after["state"]["S"] == "delivered" and not was_delivered:
            self.check(self._has_arrived(event_id), 10, f"{key} is delivered, and has not arrived")
        self._note_due(key, after)

    def check_end(self, accepted: Mapping[str, float]) -> None:
        """Check that every event has arrived. `accepted` has the times at which the batches were first sent."""
        assert self.receiver is not None
        for batch_id, sent_at in accepted.items():
            known = [one for one, answered_at in self.endpoints.items() if answered_at < sent_at]
            is_flagged = not known or self.has_webhooks[batch_id]
            self.check(is_flagged, 10, f"batch {batch_id} was sent after {known} were made, and does not know of them")
            for event_id in self.events[batch_id]:
                self._check_expanded(batch_id, event_id)
                for endpoint_id in known:
                    self._check_delivered(event_id, endpoint_id)
                if self.has_callback[batch_id]:
                    self._check_delivered(event_id, "callback")
        bodies: defaultdict[str, set[bytes]] = defaultdict(set)
        told: Counter[str] = Counter()
        for _, event_id, body in self.receiver.arrived:
            bodies[event_id].add(body)
        for event_id, versions in bodies.items():
            self.check(len(versions) == 1, 10, f"{event_id} arrived as {versions!r}")
            event: dict[str, Any] = json.loads(next(iter(versions)))
            told[event["data"]["batchId"]] += 1
            self.on_event(event["data"])
            state = self.events[event["data"]["batchId"]].get(event_id)
            self.check(event["type"] == f"batch.{state}", 10, f"{event_id} of the state {state} is told as {event}")
        for batch_id, count in told.items():
            self.check(count <= len(self.events[batch_id]), 10, f"batch {batch_id} has {count} events")

    def _check_expanded(self, batch_id: str, event_id: str) -> None:
        if self.has_callback[batch_id]:
            exists = self._delivery(event_id, "callback") is not None
            self.check(exists, 10, f"the event {event_id} of batch {batch_id} is gone, and has no delivery")

    def _check_delivered(self, event_id: str, receiver: str) -> None:
        delivery = self._delivery(event_id, receiver)
        is_delivered = delivery is not None and delivery["state"]["S"] == "delivered"
        self.check(is_delivered, 10, f"{event_id} for {receiver} is {delivery}")

    def _delivery(self, event_id: str, receiver: str) -> Item | None:
        assert self.table is not None
        return self.table.item(("deliveries#default", f"{event_id}.{receiver}"))

    def _has_arrived(self, event_id: str) -> bool:
        return self.receiver is not None and any(one == event_id for _, one, _ in self.receiver.arrived)

    def _note_due(self, key: Key, after: Item) -> None:
        if after.get("open", {"S": ""})["S"] == DUE:
            self.due.add(key)
        else:
            self.due.discard(key)


def _events(item: Item) -> set[str]:
    return set(item.get("events", {"SS": []})["SS"])
