"""Measure one batch of a contender as its client sees it: POST, poll the status, and download all results."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from pydantic import BaseModel
from pydantic_core import from_json

from bench.bodies import Body, failing, operations_file, request_body
from bench.cases import WAYS, Case, Step, Way
from bench.counting import Tallies, Usage, total
from bench.installation import BARE_FRONT_END, BARE_PROGRAMS, CONSUMER, FRONT_END, PROGRAMS, Installation

JSON_OPERATIONS = 100_000  # Penstock gets larger batches as NDJSON
SHORTEST_POLL, LONGEST_POLL = 0.005, 0.25
RUNNING = {"validating", "queued", "processing", "running"}
SETTLE_SECONDS = 0.2  # time for the last deletes
NDJSON = {"Accept": "application/x-ndjson"}


class Used(BaseModel):
    """The usage of one program for one batch. Memory is the peak so far minus the memory when it was ready."""

    cpu_seconds: float  # until the batch is finished
    download_cpu_seconds: float = 0
    memory_bytes: int
    calls: Tallies = {}


class Sample(BaseModel):
    case: Case
    contender: str
    accepted_seconds: float  # from the start of the POST to the 202
    finished_seconds: float  # from the start of the POST to the status that says so
    download_seconds: float
    polls: int = 0
    spread_seconds: float = 0  # between the last slow operations of the first and of the last consumer
    programs: dict[str, Used]

    @property
    def seconds(self) -> float:
        return self.finished_seconds + self.download_seconds

    @property
    def calls(self) -> Tallies:
        return total(*(used.calls for used in self.programs.values()))


class Times(NamedTuple):
    accepted: float
    finished: float
    results_url: str
    polls: int
    failed: int


async def measure(installation: Installation, http: aiohttp.ClientSession, step: Step) -> Sample:
    """Run a batch and check its results. Reading the usage and checking are not part of the times."""
    case, way = step.case, WAYS[step.contender]
    url = installation.urls[BARE_FRONT_END if way.is_bare else FRONT_END]
    body = _body(case, way)
    async with _limit(step):
        start, began_at = await installation.usage(), time.time()
        times = await _run(http, url, body)
        await asyncio.sleep(SETTLE_SECONDS)
        end = await installation.usage()
        results, download_seconds = await _download(http, url + times.results_url)
        last = await installation.usage()
    check_results(results, times, case.size, failing(case.size) if way.fails else 0)
    programs = (*(BARE_PROGRAMS if way.is_bare else PROGRAMS), *case.server_programs)
    return Sample(
        case=case,
        contender=step.contender,
        accepted_seconds=times.accepted,
        finished_seconds=times.finished,
        download_seconds=download_seconds,
        polls=times.polls,
        spread_seconds=spread_seconds(end, began_at),
        programs={
            name: _used(installation.idle[name], start[name], end[name], last[name])
            for name in end
            if name.startswith(programs)
        },
    )


@asynccontextmanager
async def _limit(step: Step) -> AsyncIterator[None]:
    seconds = 120 + step.case.size / 100
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        name = f"{step.contender}, {step.case.size:,} operations of {step.case.handler}"
        raise RuntimeError(f"{name}: the batch has not finished after {seconds:.0f} s.") from error


def _body(case: Case, way: Way) -> Body:
    file = operations_file(case.handler, case.size, fails=way.fails)
    return request_body(file, as_lines=is_sent_as_lines(case, way))


def is_sent_as_lines(case: Case, way: Way) -> bool:
    """Return True if the batch is an NDJSON stream. The bare calls accept only a document, of any size."""
    return way.as_lines or (case.size > JSON_OPERATIONS and not way.is_bare)


async def _run(http: aiohttp.ClientSession, url: str, body: Body) -> Times:
    began = time.perf_counter()
    headers = {"Content-Type": body.content_type, "Prefer": "respond-async"}
    async with http.post(f"{url}/batch", data=body.data, headers=headers) as answer:
        batch = await answer.json(content_type=None)
        if answer.status != 202:
            raise RuntimeError(f"The front end answered {answer.status}: {batch}")
    accepted = time.perf_counter()
    polls, status = await wait(http, url + batch["statusUrl"])
    return Times(accepted - began, time.perf_counter() - began, batch["resultsUrl"], polls, status["failed"])


async def wait(http: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    """Poll until the batch is final. Return the number of polls and the status."""
    for polls, seconds in enumerate(_pauses(), 1):
        await asyncio.sleep(seconds)
        async with http.get(url) as answer:
            status: dict[str, Any] = await answer.json(content_type=None)
            answer.raise_for_status()
        if status["status"] not in RUNNING:
            return polls, status
    raise AssertionError("unreachable")


def _pauses() -> Iterator[float]:
    """Yield the pauses between polls: a tenth of the time that has passed, so that a short batch is measured finely."""
    began = time.perf_counter()
    while True:
        yield min(LONGEST_POLL, max(SHORTEST_POLL, (time.perf_counter() - began) / 10))


async def _download(http: aiohttp.ClientSession, url: str) -> tuple[bytes, float]:
    began = time.perf_counter()
    async with http.get(url, headers=NDJSON) as answer:
        results = await answer.read()
        answer.raise_for_status()
    return results, time.perf_counter() - began


def check_results(results: bytes, times: Times, size: int, failed: int) -> None:
    """Raise an error unless each operation has one result and exactly the expected ones failed."""
    lines = [from_json(line) for line in results.splitlines()]
    found = len({line["id"] for line in lines}), len(lines), sum(line["status"] >= 400 for line in lines), times.failed
    if found != (size, size, failed, failed):
        raise RuntimeError(
            f"{size} results were expected, {failed} of them failed. Found: {found[1]} results of {found[0]} "
            f"operations, {found[2]} of them failed; the status says {found[3]}."
        )


def spread_seconds(usages: Mapping[str, Usage], began_at: float) -> float:
    """Return how much later the last consumer ended than the first. One without operations ended at the start."""
    ends = [max(usage.last_end_at, began_at) for name, usage in usages.items() if name.startswith(CONSUMER)]
    return max(ends) - min(ends)


def _used(idle: Usage, start: Usage, end: Usage, last: Usage) -> Used:
    calls = total(last.calls, {name: tally.times(-1) for name, tally in start.calls.items()})
    return Used(
        cpu_seconds=end.cpu_seconds - start.cpu_seconds,
        download_cpu_seconds=last.cpu_seconds - end.cpu_seconds,
        memory_bytes=last.peak_bytes - idle.memory_bytes,
        calls={name: tally for name, tally in calls.items() if tally.requests},
    )
