"""Events are read as they were written, by a client that follows the HTML standard."""

import pytest

from penstock.service.events.framing import PING, RETRY, end_id, ended_version, frame, frame_outcome, version_of
from tests.support.event_source import EventParser, ServerEvent


@pytest.mark.parametrize("data", ["{}", "", "a\nb", "a\r\nb\rc", " indented", "\n", "id: 1", ":", "ü\u2028\u0085"])
def test_data_arrives_as_it_is_except_for_the_kind_of_line_ends(data: str) -> None:
    [event] = EventParser().feed(frame("progress", data.encode(), "7"))
    assert event == ServerEvent("progress", data.replace("\r\n", "\n").replace("\r", "\n"), "7")


def test_event_without_an_id_keeps_the_id_before_it() -> None:
    events = EventParser().feed(frame_outcome(3, 14, b'{"id":"14"}') + PING + RETRY + frame("progress", b"{}"))
    assert events == [ServerEvent("outcome", '{"id":"14"}', "3.14"), ServerEvent("progress", "{}", "3.14")]


def test_version_is_the_same_in_every_process_and_changes_with_everything_but_estimates() -> None:
    status = {"completed": 1, "eta": None, "etaEarliest": None, "etaLatest": None}
    assert version_of(status) == "aa44e3469f20fc1b"
    assert version_of({**status, "eta": "x", "etaEarliest": "x", "etaLatest": "x", "cost": 1}) == version_of(status)
    assert version_of({**status, "completed": 2}) != version_of(status)


def test_end_id_tells_the_final_version() -> None:
    assert ended_version(end_id("abc")) == "abc"
    assert ended_version("abc") is None
    assert ended_version("") is None
