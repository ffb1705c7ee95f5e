"""GET /console/dead-letters, POST /console/dead-letters/redrive: what finally failed, by its cause."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic_core import to_json

from penstock.service.console.forms import read_choice_field
from penstock.service.console.rendering import back_to, page
from penstock.service.operators import dead_letters

READ = 50  # letters. Each can be as large as a message
SHOWN = 3  # operations of a cause
LONGEST_BODY = 1_000
HOME = "/console/dead-letters"


@dataclass(slots=True)
class Cause:
    """Dead operations that failed in the same way."""

    status: int | None
    title: str
    count: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)


async def show(request: web.Request) -> web.Response:
    letters = await dead_letters.read_dead_letters(request.app, READ)
    shown = letters["deadLetters"]
    readable = [letter for letter in shown if "unreadable" not in letter]
    return page(
        request,
        "dead_letters.html",
        count=letters["approximateCount"],
        shown=len(shown),
        causes=by_cause(readable),
        batches=by_batch(readable),
        unreadable=[letter for letter in shown if "unreadable" in letter],
    )


async def redrive(request: web.Request) -> web.Response:
    batch_id = await read_choice_field(request, "batch")
    moved, is_complete = await dead_letters.redrive(request, batch_id)
    return back_to(HOME, "redriven" if is_complete else "redriven-in-part", moved)


def by_cause(letters: Iterable[Mapping[str, Any]]) -> list[Cause]:
    """Return the causes of these letters, the most frequent first."""
    causes: dict[tuple[Any, str], Cause] = {}
    for letter in letters:
        for operation in letter["operations"]:
            status, title = operation.get("status"), (operation.get("error") or {}).get("title", "Unknown")
            cause = causes.setdefault((status, title), Cause(status, title))
            cause.count += 1
            if len(cause.samples) < SHOWN:
                cause.samples.append({**operation, "batchId": letter["batchId"], "text": _text(operation["body"])})
    return sorted(causes.values(), key=lambda cause: -cause.count)


def by_batch(letters: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Return how many dead operations each batch has in these letters."""
    batches: Counter[str] = Counter()
    for letter in letters:
        batches[letter["batchId"]] += len(letter["operations"])
    return batches


def _text(body: Any) -> str:
    text = to_json(body).decode()
    return f"{text[:LONGEST_BODY]} …" if len(text) > LONGEST_BODY else text
