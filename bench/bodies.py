"""Generate the operations of a run as a file with one operation per line, and the body of a request from it.

The same seed gives the same bytes. An operation has names, addresses, prices and numbers, and a note that fills it up
to its size. No text is constant, so the data compresses like real data: to about a third.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import IO, Any

from bench.application import FAILING_DOMAIN
from examples.users.make_data import DOMAINS, NAMES

FOLDER = Path(".run") / "bench"
SEED = 20_261_123
ONE_FAILS_IN = 100
SMALL_BYTES = 200
LARGE_BYTES = 1_024 + 50  # a body of 1 KB and the other members of the operation

# The words of a note are combined from syllables, which gives a few hundred words.
_WORDS = [
    a + b
    for a in ["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "wen", "stra", "plo"]
    for b in ["den", "mar", "lin", "to", "ska", "re", "nd", "ry"]
]


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request."""

    content_type: str
    data: IO[bytes]


def operation_bytes(handler: str) -> int:
    return LARGE_BYTES if handler == "order" else SMALL_BYTES


def operations_file(handler: str, operations: int, *, fails: bool) -> Path:
    """Return the file with the operations. It is generated at the first call."""
    path = FOLDER / f"{handler}-{operation_bytes(handler)}-{operations}{'-failing' * fails}.ndjson"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            file.writelines(islice(draw_operations(handler, operation_bytes(handler), fails=fails), operations))
        unfinished.rename(path)
    return path


def failing(operations: int) -> int:
    """Return how many of the first operations of a file fail, if any do."""
    return (operations + ONE_FAILS_IN // 2 - 1) // ONE_FAILS_IN


def draw_operations(handler: str, size: int, *, fails: bool) -> Iterator[bytes]:
    """Yield lines of `size` bytes without the line end, for ever. If `fails`, the handler rejects one in a hundred."""
    random = Random(SEED)  # noqa: S311 - a fixed seed, so that every run has the same data
    people = [(country, *map(str.split, names)) for country, names in NAMES.items()]
    for number in count():
        country, given_names, family_names = random.choice(people)
        domain = random.choice(DOMAINS)
        if fails and number % ONE_FAILS_IN == ONE_FAILS_IN // 2:
            domain = FAILING_DOMAIN
        given, family = random.choice(given_names).split("=")[0], random.choice(family_names).split("=")[0]
        order = {
            "order_id": f"{random.getrandbits(48):012x}",
            "email": f"user{random.randrange(10**6)}@{domain}",
            "name": f"{given} {family}",
            "country": country,
            "price": random.randrange(10**6) / 100,
            "quantity": random.randrange(1, 20),
            "note": "",
        }
        line = _to_json({"method": "POST", "path": f"/{handler}", "body": order})
        note = _draw_note(random, size - len(line))
        yield line.replace(b'"note":""', b'"note":"%b"' % note) + b"\n"


def _draw_note(random: Random, size: int) -> bytes:
    words = " ".join(
        str(random.randrange(10_000)) if random.random() < 0.1 else random.choice(_WORDS) for _ in range(size // 4 + 1)
    )
    return words.encode()[: max(size, 0)]


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def request_body(file: Path, *, as_lines: bool) -> Body:
    """Return the request: a JSON document, or a stream of lines."""
    if as_lines:
        return Body("application/x-ndjson", file.open("rb"))
    return Body("application/json", io.BytesIO(json_body(file)))


def json_body(file: Path) -> bytes:
    return b'{"operations":[%b]}' % b",".join(file.read_bytes().splitlines())
