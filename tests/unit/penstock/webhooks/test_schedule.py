"""A failed attempt is repeated for three days, with growing delays."""

from dataclasses import replace

import pytest

from penstock.webhooks.delivery import KEPT_SECONDS, DeliveryState, EventDelivery
from penstock.webhooks.schedule import DELAYS, JITTER, MOST_ATTEMPTS, Answer, Result, next_delay

NOW = 1_700_000_000.0
PENDING = EventDelivery("acme", "evt_1", "we_1", "batch.completed", b"{}", NOW, NOW, attempt=1, claim="c", due_at=NOW)


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Result.DELIVERED),
        (204, Result.DELIVERED),
        (299, Result.DELIVERED),
        (300, Result.FAILED),
        (302, Result.FAILED),
        (307, Result.FAILED),
        (400, Result.FAILED),
        (404, Result.FAILED),
        (410, Result.GONE),
        (429, Result.FAILED),
        (500, Result.FAILED),
        (None, Result.FAILED),
    ],
)
def test_only_a_2xx_means_that_the_event_has_arrived(status: int | None, result: Result) -> None:
    assert Answer(status).result is result


def test_delays_are_those_that_are_documented() -> None:
    delays = [next_delay(attempts, Answer(500), 0) for attempts in range(1, MOST_ATTEMPTS + 1)]
    assert delays == [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, None]
    assert next_delay(1, Answer(500), 1) == 5 * (1 + JITTER)
    assert sum(DELAYS) * (1 + JITTER) < KEPT_SECONDS


@pytest.mark.parametrize("status", [429, 502, 504])
def test_receiver_that_has_too_much_to_do_gets_a_pause(status: int) -> None:
    assert next_delay(1, Answer(status), 0) == 60
    assert next_delay(2, Answer(status), 0) == 300


def test_receiver_can_ask_for_a_longer_pause() -> None:
    assert next_delay(1, Answer(503, retry_after=120), 0) == 120
    assert next_delay(1, Answer(503, retry_after=10**9), 0) == 86_400
    assert next_delay(1, Answer(503, retry_after=1), 0) == 5


def test_result_of_an_attempt_decides_what_follows() -> None:
    done = PENDING.after(Answer(204), NOW + 1, 0)
    assert (done.state, done.due_at, done.status) == (DeliveryState.DELIVERED, None, 204)
    again = PENDING.after(Answer(error="There was no response."), NOW + 1, 0)
    assert (again.state, again.due_at, again.error) == (DeliveryState.PENDING, NOW + 6, "There was no response.")
    gone = PENDING.after(Answer(410), NOW + 1, 0)
    assert (gone.state, gone.due_at) == (DeliveryState.FAILED, None)
    last = replace(PENDING, attempt=MOST_ATTEMPTS).after(Answer(500), NOW + 1, 0)
    assert (last.state, last.due_at) == (DeliveryState.FAILED, None)
    replayed = replace(PENDING, attempt=MOST_ATTEMPTS + 1, replayed_after=MOST_ATTEMPTS).after(Answer(500), NOW + 1, 0)
    assert (replayed.state, replayed.due_at) == (DeliveryState.PENDING, NOW + 6)
