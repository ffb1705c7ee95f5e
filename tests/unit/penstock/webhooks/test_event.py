"""The body of an event has a summary of its batch, and is never long."""

import json
from dataclasses import replace

from penstock.webhooks.event import FinalEvent, body_of_batch, body_of_test, event_id
from tests.support.builders import build_batch

NOW = 1_700_000_000.5
EVENT = FinalEvent("evt_1", "cancelled", NOW, (("succeeded", 3), ("failed", 1), ("cancelled", 6), ("expired", 0)))


def test_event_is_read_as_it_was_written() -> None:
    assert FinalEvent.decode(EVENT.encode()) == EVENT


def test_ids_sort_by_time() -> None:
    assert event_id(NOW, "f" * 20) < event_id(NOW + 0.01, "0" * 20) < event_id(NOW + 1e9, "0" * 20)


def test_body_has_the_members_of_standard_webhooks_and_a_summary() -> None:
    batch = replace(build_batch(10), id="b1", created_at=NOW - 60, finished_at=NOW, reason="Cancelled on request.")
    body = json.loads(body_of_batch(EVENT, batch, {"team": "a"}))
    data = body.pop("data")
    assert body == {
        "id": "evt_1",
        "object": "event",
        "type": "batch.cancelled",
        "created_at": 1_700_000_000,
        "timestamp": "2023-11-14T22:13:20.500Z",
    }
    assert data == {
        "id": "b1",
        "batchId": "b1",
        "status": "cancelled",
        "total": 10,
        "completed": 10,
        "succeeded": 3,
        "failed": 1,
        "cancelled": 6,
        "expired": 0,
        "createdAt": "2023-11-14T22:12:20.500Z",
        "acceptedAt": "2023-11-14T22:13:20.000Z",
        "startedAt": None,
        "finishedAt": "2023-11-14T22:13:20.500Z",
        "reason": "Cancelled on request.",
        "statusUrl": "/batch/b1/status",
        "resultsUrl": "/batch/b1/results",
        "metadata": {"team": "a"},
    }


def test_urls_start_with_the_public_url_also_if_the_metadata_is_left_out() -> None:
    too_long = {chr(1) * 60 + f"{number:04}": chr(1) * 512 for number in range(16)}
    for metadata in ({}, too_long):
        batch = replace(build_batch(10), id="b1")
        data = json.loads(body_of_batch(EVENT, batch, metadata, "https://api.example/bulk"))["data"]
        assert data["statusUrl"] == "https://api.example/bulk/batch/b1/status"
        assert data["resultsUrl"] == "https://api.example/bulk/batch/b1/results"


def test_metadata_that_makes_the_body_too_long_is_left_out() -> None:
    longest = {chr(1) * 60 + f"{number:04}": chr(1) * 512 for number in range(16)}
    body = body_of_batch(EVENT, build_batch(10), longest)
    assert len(body) < 20_000
    assert json.loads(body)["data"]["metadata"] is None
    ascii_only = {f"{number:064}": "a" * 512 for number in range(16)}
    assert json.loads(body_of_batch(EVENT, build_batch(10), ascii_only))["data"]["metadata"] == ascii_only


def test_event_of_a_test_has_no_batch() -> None:
    body = json.loads(body_of_test("evt_2", NOW))
    assert (body["id"], body["type"], body["data"]) == ("evt_2", "webhook.test", {})
