"""What a front end remembers of the accounts of its requests."""

import pytest

from penstock.errors import Unavailable
from penstock.quota import Account
from penstock.service import accounts as accounts_module
from penstock.service.accounts import Accounts, Seen
from penstock.testing import FakeClock


async def test_accounts_that_have_no_requests_are_forgotten(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_module, "MOST_ACCOUNTS", 2)
    accounts = Accounts[Seen[int]](clock, Seen)
    for name in ("a", "b", "a", "c"):
        accounts.note(accounts.find(Account(name)), 1)
    assert [accounts.find(Account(name)).value for name in ("c", "a", "b")] == [1, 1, None]


async def test_a_table_that_does_not_answer_is_asked_again_after_some_time(clock: FakeClock) -> None:
    accounts, reads = Accounts[Seen[int]](clock, Seen), list[str]()
    seen = accounts.find(Account("a"))

    async def read() -> None:
        reads.append("")
        raise Unavailable("The table does not answer.")

    for _ in range(3):
        assert await accounts.refresh(seen, 5, read) is None
    assert len(reads) == 1
    clock.advance(5.1)
    assert await accounts.refresh(seen, 5, read) is None
    assert len(reads) == 2
