"""A patient port repeats a call until AWS answers, and changes nothing else about it."""

import pytest

from penstock.consumer.patience import REJECTED_TRIES, patient
from penstock.errors import AcceptanceLost, Misconfigured, PenstockError, RejectedCall, TooLargeForAws, Unavailable
from penstock.testing import FakeClock


class Port:
    """Raises the given errors, one in each call, and answers after that."""

    def __init__(self, *errors: PenstockError) -> None:
        self.errors = list(errors)
        self.calls: list[tuple[int, str]] = []

    async def add(self, number: int, *, name: str) -> str:
        self.calls.append((number, name))
        if self.errors:
            raise self.errors.pop(0)
        return f"{name}: {number}"

    def forget(self) -> None:
        self.calls.clear()


async def test_call_is_repeated_with_the_same_arguments_until_aws_answers() -> None:
    port = Port(Unavailable("No answer."), Misconfigured("No permission."))
    assert await patient(port, FakeClock()).add(7, name="a") == "a: 7"
    assert port.calls == [(7, "a")] * 3


async def test_other_errors_are_raised_at_once() -> None:
    port = Port(AcceptanceLost("Too late."))
    with pytest.raises(AcceptanceLost):
        await patient(port, FakeClock()).add(7, name="a")
    assert port.calls == [(7, "a")]


@pytest.mark.parametrize("rejections", range(REJECTED_TRIES))
async def test_call_that_aws_rejects_is_repeated_a_few_times(rejections: int) -> None:
    port = Port(*[RejectedCall("Invalid.")] * rejections)
    assert await patient(port, FakeClock()).add(7, name="a") == "a: 7"


@pytest.mark.parametrize(
    ("error", "tries"), [(RejectedCall("Invalid."), REJECTED_TRIES), (TooLargeForAws("400 KB."), 1)]
)
async def test_call_that_aws_rejects_each_time_is_not_repeated_for_ever(error: PenstockError, tries: int) -> None:
    port = Port(*[error] * 100)
    with pytest.raises(type(error)):
        await patient(port, FakeClock()).add(7, name="a")
    assert len(port.calls) == tries


async def test_plain_methods_stay_as_they_are() -> None:
    port = Port()
    await patient(port, FakeClock()).add(7, name="a")
    patient(port, FakeClock()).forget()
    assert port.calls == []
