"""A console block of a page: its commands, the answers that the page shows, and how they compare with real ones."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PROMPT = "$ "
SERVER = "localhost:8080"
BATCH_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
EXACT = {"errorCount", "pointer", "status", "summary"}  # the rest is compared by its shape
_NUMBER = re.compile(r"\d+")
_HEAD = re.compile(r"\| head -(\d+)$")


@dataclass(frozen=True, slots=True)
class Step:
    """A command and the answer below it."""

    command: str
    answer: str

    @property
    def most_lines(self) -> int | None:
        """Return how many lines of the answer `| head` leaves, or None for all."""
        found = _HEAD.search(self.command)
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """The answer that a page shows. Status and headers are shown after `curl -i` only."""

    status: int | None
    headers: dict[str, str]
    values: list[Any]


def read_steps(block: str) -> Iterator[Step]:
    lines = block.splitlines()
    while lines:
        command = lines.pop(0).removeprefix(PROMPT)
        while command.endswith("\\") or not _is_whole(command):
            command = command.removesuffix("\\") + "\n" + lines.pop(0)
        answer = []
        while lines and not lines[0].startswith(PROMPT):
            answer.append(lines.pop(0))
        yield Step(command, "\n".join(answer))


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def read_request(command: str, files: dict[str, bytes]) -> Request:
    """Read a curl command. It fails on an option that no page uses so far."""
    words = shlex.split(_HEAD.sub("", command))[1:]
    method, headers, body, url = "GET", {}, None, ""
    while words:
        match words.pop(0):
            case "-s" | "-si":
                pass
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d" | "--data-binary":
                data = words.pop(0)
                method, body = "POST", files[data[1:]] if data.startswith("@") else data.encode()
            case word:
                assert word.startswith(SERVER), f"cannot read {word!r} in {command!r}"
                url = word
    return Request(method, url.removeprefix(SERVER), headers, body)


def read_shown(answer: str) -> Shown:
    if not answer.startswith("HTTP/"):
        return Shown(None, {}, read_values(answer))
    head, _, body = answer.partition("\n\n")
    status, *lines = head.splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    return Shown(int(status.split()[1]), headers, read_values(body))


def read_values(text: str) -> list[Any]:
    """Return the JSON values that follow one another: one of a document, many of NDJSON. Of CSV, return the lines."""
    if text and text[0] not in "{[":
        return text.splitlines()
    decoder, values, text = json.JSONDecoder(), [], text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].strip()
    return values


def assert_alike(shown: Any, real: Any, where: str = "") -> None:
    """Fail unless both have the same members, list lengths and types, and the same words. Numbers may differ."""
    if isinstance(shown, dict):
        assert isinstance(real, dict), where
        assert set(shown) == set(real), where
        for name, value in shown.items():
            is_exact = name in EXACT or (name == "id" and isinstance(value, str))
            assert not is_exact or value == real[name] or isinstance(value, list), f"{where}/{name}: {real[name]!r}"
            assert_alike(value, real[name], f"{where}/{name}")
    elif isinstance(shown, list):
        assert isinstance(real, list), where
        assert len(shown) == len(real), f"{where}: {real!r}"
        for index, (value, other) in enumerate(zip(shown, real, strict=True)):
            assert_alike(value, other, f"{where}/{index}")
    elif isinstance(shown, str):
        assert isinstance(real, str), f"{where}: {real!r}"
        assert _form(shown) == _form(real), f"{where}: {real!r}"
    else:
        assert type(shown) is type(real), f"{where}: {real!r}"


def _form(text: str) -> str:
    """Return the text without what differs from run to run: ids of batches, times and numbers."""
    return _NUMBER.sub("0", BATCH_ID.sub("ID", text))
