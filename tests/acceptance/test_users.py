"""The users example in the real programs: its promises about the database hold there, too."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.installation import USERS, Installation, on_any_aws
from tests.support.api import Operation


def new_user(number: int) -> Operation:
    email = f"user-{number}@example.org"
    body = {"email": email, "name": f"User {number}", "born_on": "1990-06-01", "country": "NO"}
    return {"method": "POST", "path": "/users", "body": body}


def emails(*numbers: int) -> list[str]:
    return [f"user-{number}@example.org" for number in numbers]


def emails_in_database(penstock: Installation) -> list[str]:
    """Return the addresses of the users that the test created. The example has some of its own."""
    with closing(sqlite3.connect(penstock.users_database)) as connection:
        rows = connection.execute("SELECT email FROM users WHERE email LIKE 'user-%' ORDER BY id")
        return [email for (email,) in rows]


@on_any_aws
async def test_duplicate_in_a_small_batch_fails_alone(install: Install) -> None:
    penstock = await install(APP=USERS)
    await penstock.serve()

    answer = await penstock.api.post([new_user(1), new_user(2), new_user(1), new_user(3)])

    assert answer.status == 200
    assert answer.body["summary"] == {"total": 4, "succeeded": 3, "failed": 1}
    assert [outcome["status"] for outcome in answer.body["results"]] == [201, 201, 409, 201]
    assert emails_in_database(penstock) == emails(1, 2, 3)


@on_any_aws
async def test_atomic_batch_is_all_or_nothing(install: Install) -> None:
    penstock = await install(APP=USERS)
    await penstock.serve()

    refused = await penstock.api.post([new_user(1), new_user(2), new_user(1)], atomic=True)
    left_by_refused = emails_in_database(penstock)
    taken = await penstock.api.post([new_user(1), new_user(2)], atomic=True)

    assert (refused.status, taken.status) == (200, 200)
    assert [outcome["status"] for outcome in refused.body["results"]] == [424, 424, 409]
    assert refused.body["summary"] == {"total": 3, "succeeded": 0, "failed": 3}
    assert left_by_refused == []
    assert [outcome["status"] for outcome in taken.body["results"]] == [201, 201]
    assert emails_in_database(penstock) == emails(1, 2)


@on_any_aws
async def test_atomic_batches_at_the_same_time_do_not_mix(install: Install) -> None:
    penstock = await install(APP=USERS)
    await penstock.serve()

    batches = [[new_user(10 * batch + number) for number in range(5)] for batch in range(6)]
    batches[2].append(new_user(20))
    batches[4].append(new_user(40))
    answers = await asyncio.gather(*(penstock.api.post(batch, atomic=True) for batch in batches))

    assert [answer.body["summary"]["failed"] for answer in answers] == [0, 0, 6, 0, 6, 0]
    kept = [10 * batch + number for batch in (0, 1, 3, 5) for number in range(5)]
    assert sorted(emails_in_database(penstock)) == sorted(emails(*kept))


@on_any_aws
async def test_atomic_batch_is_refused_where_it_cannot_be_kept(install: Install) -> None:
    penstock, without_transaction = await install(APP=USERS, SYNC_MAX_OPERATIONS="10"), await install()
    await asyncio.gather(penstock.serve(), without_transaction.serve())

    too_large = await penstock.api.post([new_user(number) for number in range(11)], atomic=True)
    impossible = await without_transaction.api.post([{"method": "POST", "path": "/notes"}], atomic=True)

    assert (too_large.status, too_large.body["maxAtomicOperations"]) == (413, 10)
    assert (impossible.status, impossible.body["errors"][0]["pointer"]) == (422, "/atomic")
    assert without_transaction.journal.entries() == []


@on_any_aws
async def test_killed_consumers_leave_every_user_once_and_refuse_nobody(install: Install) -> None:
    """A handler that runs again finds its own row. The stored key shows that it is not a duplicate."""
    penstock = await install(APP=USERS, VISIBILITY_SECONDS="2", CHUNK_OPERATIONS="20")
    await penstock.serve()
    batch_id = await penstock.api.submit([new_user(number) for number in range(600)])

    for share in (20, 100, 200):
        doomed = await penstock.consume()
        await penstock.api.completed(batch_id, share)
        doomed.kill()
        await doomed.ended()
    await asyncio.gather(penstock.consume(), penstock.consume())
    status = await penstock.api.ended(batch_id)

    assert (status.status, status.succeeded) == ("completed", 600)
    assert sorted(emails_in_database(penstock)) == sorted(emails(*range(600)))


@pytest.mark.timeout(400)
async def test_four_thousand_users_in_one_batch(install: Install) -> None:
    """Every hundredth user is a duplicate of the one before, whichever is created first."""
    penstock = await install(APP=USERS, MAX_OPERATIONS="4000")
    await asyncio.gather(penstock.serve(), penstock.consume(), penstock.consume())
    operations = [new_user(number - 1 if number % 100 == 99 else number) for number in range(4_000)]

    batch_id = await penstock.api.submit(operations)
    status = await penstock.api.ended(batch_id, units=300)
    results = await penstock.api.results(batch_id)
    failed = await penstock.api.results(batch_id, "?status=failed")

    assert (status.status, status.succeeded, status.failed) == ("completed", 3_960, 40)
    assert [outcome["id"] for outcome in results] == [str(number) for number in range(4_000)]
    assert [int(outcome["id"]) // 100 for outcome in failed] == list(range(40))
    assert {outcome["status"] for outcome in failed} == {409}
    assert len(emails_in_database(penstock)) == len(set(emails_in_database(penstock))) == 3_960
    made = [outcome["result"]["email"] for outcome in results if outcome["status"] == 201]
    assert sorted(made) == sorted(emails_in_database(penstock))
