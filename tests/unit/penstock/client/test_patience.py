"""Which errors are repeated, and how long the client waits."""

import pytest

from penstock.client.errors import AnswerLost, ClientError, NotPenstock, Problem, ServerUnreachable, problem_of
from penstock.client.patience import Patience, Repeat

PATIENCE = Patience(seconds=60, quota_seconds=600, backoff_seconds=1, longest_backoff_seconds=8)


def answer(status: int, retry_after: str | None = None) -> Problem:
    return problem_of(status, {} if retry_after is None else {"Retry-After": retry_after}, b"")


@pytest.mark.parametrize(
    ("error", "always", "if_not_done"),
    [
        (ServerUnreachable("http://x"), True, True),
        (AnswerLost("lost"), True, False),
        (NotPenstock("?"), False, False),
        (answer(400), False, False),
        (answer(404), False, False),
        (answer(408), True, False),
        (answer(409), False, False),
        (answer(409, "2"), True, True),  # the first request with the same key is in progress
        (answer(422), False, False),
        (answer(429), True, True),
        (answer(500), False, False),
        (answer(502), True, False),
        (answer(503), True, False),
        (answer(503, "2"), True, True),  # nothing was done, says the server
        (answer(504), True, False),
    ],
)
def test_request_is_repeated_if_that_can_help(error: ClientError, always: bool, if_not_done: bool) -> None:
    assert (PATIENCE.pause(error, Repeat.ALWAYS, 1, 0) is not None) == always
    assert (PATIENCE.pause(error, Repeat.IF_NOT_DONE, 1, 0) is not None) == if_not_done


@pytest.mark.parametrize(("failures", "longest"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)])
def test_pause_doubles_up_to_a_limit_with_jitter(failures: int, longest: float) -> None:
    pauses = [PATIENCE.pause(AnswerLost("lost"), Repeat.ALWAYS, failures, 0) or 0 for _ in range(50)]
    assert all(longest / 2 <= pause <= longest for pause in pauses)
    assert len(set(pauses)) > 1


@pytest.mark.parametrize(
    ("error", "waited", "pause"),
    [
        (answer(503, "7"), 0, 7),
        (answer(503, "7"), 53, 7),
        (answer(503, "7"), 54, None),
        (answer(429, "500"), 0, 500),
        (answer(429, "500"), 101, None),
        (answer(429, "3600"), 0, None),
    ],
)
def test_server_decides_how_long_the_client_waits(error: ClientError, waited: float, pause: float | None) -> None:
    assert PATIENCE.pause(error, Repeat.ALWAYS, 1, waited) == pause
