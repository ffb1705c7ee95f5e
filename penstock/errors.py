"""Every exception that Penstock raises on purpose.

PenstockError
├── Misconfigured                 a setting, the application or AWS access is not usable as given
├── Refused                       a request that is not taken; nothing of it runs
│   ├── MalformedRequest
│   ├── TooSlow
│   ├── UnsupportedContent
│   ├── NotAcceptable
│   ├── LimitPassed
│   ├── InvalidRequest
│   ├── UnknownBatch
│   ├── NotPossibleNow
│   ├── KeyInUse
│   └── KeyReused
├── UnreadableMessage             a message that is not a chunk of ours
├── AcceptanceLost                the batch was abandoned before it could be accepted
├── AcceptanceUnknown             whether the batch was accepted could not be learnt
├── ThreadsStuck                  handlers past their time hold every thread
└── Unavailable                   AWS does not answer or asks to slow down: the same call may work later

What an application raises (`Reject`, `Retry`) is not here: see `operations.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class PenstockError(Exception):
    """The root of the tree; never raised itself."""


class Misconfigured(PenstockError):
    """A setting, the application or the access to AWS is not usable as given; the first sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong with a request: where (a JSON pointer, RFC 6901; in a stream, also the line) and what."""

    pointer: str
    detail: str
    line: int | None = None


class Refused(PenstockError):
    """A request that is not taken. Nothing of it runs, nothing of it is kept."""


class MalformedRequest(Refused):
    """The body is not JSON."""


class TooSlow(Refused):
    """The body did not come to its end in time."""


class UnsupportedContent(Refused):
    """The body is of a type that is not taken here."""


class NotAcceptable(Refused):
    """The answer cannot be given in any of the types the client accepts."""


class LimitPassed(Refused):
    """The request is larger than a limit, which it names: `limit` is the problem's extra member and its value."""

    def __init__(
        self, detail: str, *, limit: dict[str, int], flaws: Sequence[Flaw] = (), count: int | None = None
    ) -> None:
        super().__init__(detail)
        self.limit = limit
        self.flaws = tuple(flaws)
        self.count = len(flaws) if count is None else count


class InvalidRequest(Refused):
    """The request can be read and is wrong: `flaws` are its errors, not just the first; `count` says how many."""

    def __init__(self, flaws: Sequence[Flaw], count: int | None = None) -> None:
        self.flaws = tuple(flaws)
        self.count = len(flaws) if count is None else count
        things = "thing is" if self.count == 1 else "things are"
        super().__init__(f"{self.count} {things} wrong with this request; nothing was run.")


class UnknownBatch(Refused):
    """No batch of this id, or not one of this tenant's."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"There is no batch {batch_id!r}; it may have been kept past its retention.")


class NotPossibleNow(Refused):
    """The batch is in a state in which this cannot be done to it."""


class KeyInUse(Refused):
    """The first request of this Idempotency-Key is still being answered."""


class KeyReused(Refused):
    """This Idempotency-Key was used for another request."""


class UnreadableMessage(PenstockError):
    """A message that is not a chunk of ours, of a newer version, or damaged."""


class AcceptanceLost(PenstockError):
    """The batch was not accepted within its acceptance lease: nothing of it will ever run."""


class AcceptanceUnknown(PenstockError):
    """AWS fell silent at the very step that accepts a batch: it runs whole or not at all, and its status will tell."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"AWS fell silent while batch {batch_id} was being accepted: it runs whole or not at all.")
        self.batch_id = batch_id


class ThreadsStuck(PenstockError):
    """Handlers that do not return hold up all that needs a thread: only another process helps."""

    def __init__(self, count: int) -> None:
        handlers = "handler has" if count == 1 else "handlers have"
        super().__init__(
            f"Let `def` handlers return in time, by time limits in what they call: {count} {handlers} not returned "
            "long after their timeout_seconds, and a thread cannot be stopped. This process has to be started anew."
        )


class Unavailable(PenstockError):
    """AWS does not answer, fails or asks to slow down. The call may have taken effect; it may be repeated."""
