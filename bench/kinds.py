"""`python -m bench --kinds`: measure the same work in handlers of each kind (loop, thread, process, bulk).

See bench/kinds.md.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from bench.installation import FRONT_END, open_installation
from bench.measure import wait
from bench.servers import EMBEDDED, start_servers

WORKS = {"wait": "waits 5 ms", "compute": "computes 5 ms"}
KINDS = ("loop", "thread", "process", "bulk")
AT_ONCE, IN_BACKGROUND = 100, 1_000  # operations in a batch
ASK_SECONDS = 0.01
COLORS = {"at once": "#0b6e99", "in the background": "#d9730d"}


class Sample(BaseModel):
    """The figures of one kind for one work: operations/s, and how long other clients of the front end wait."""

    work: str
    kind: str
    at_once: float
    in_background: float
    others_seconds: float  # the 99th percentile

    @property
    def speeds(self) -> dict[str, float]:
        return {"at once": self.at_once, "in the background": self.in_background}


def run_kinds(folder: Path, repeat: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples = asyncio.run(_measure_all(folder.resolve(), repeat))
    Console().print(_table(samples))
    _draw(samples, folder / "kinds.png")
    Console(stderr=True).print(f"Plot: {folder / 'kinds.png'}")


async def _measure_all(folder: Path, repeat: int) -> list[Sample]:
    application = "bench.kinds_application:operations"
    with start_servers(EMBEDDED) as servers:
        async with (
            open_installation(servers, folder, 1, application=application) as installation,
            aiohttp.ClientSession(installation.urls[FRONT_END]) as http,
        ):
            for work in WORKS:
                for kind in KINDS:  # a warm-up: it starts the processes, and Penstock measures the handler times
                    await _run_in_background(http, f"/{work}/{kind}")
                    await _run_at_once(http, f"/{work}/{kind}")
            return [await _measure(http, work, kind, repeat) for work in WORKS for kind in KINDS]


async def _measure(http: aiohttp.ClientSession, work: str, kind: str, repeat: int) -> Sample:
    path = f"/{work}/{kind}"
    async with _asking(http) as waits:
        at_once = [await _run_at_once(http, path) for _ in range(repeat)]
    in_background = [await _run_in_background(http, path) for _ in range(repeat)]
    return Sample(
        work=work,
        kind=kind,
        at_once=AT_ONCE / statistics.median(at_once),
        in_background=IN_BACKGROUND / statistics.median(in_background),
        others_seconds=statistics.quantiles(waits, n=100)[-1] if len(waits) > 1 else waits[0],
    )


async def _run_at_once(http: aiohttp.ClientSession, path: str) -> float:
    began = time.perf_counter()
    answer = await _post(http, path, AT_ONCE, {})
    if answer["summary"]["succeeded"] != AT_ONCE:
        raise RuntimeError(f"{path} failed: {answer['results'][0]}")
    return time.perf_counter() - began


async def _run_in_background(http: aiohttp.ClientSession, path: str) -> float:
    began = time.perf_counter()
    accepted = await _post(http, path, IN_BACKGROUND, {"Prefer": "respond-async"})
    await wait(http, accepted["statusUrl"])
    return time.perf_counter() - began


async def _post(http: aiohttp.ClientSession, path: str, count: int, headers: dict[str, str]) -> Any:
    operations = [{"method": "POST", "path": path, "body": {"n": number}} for number in range(count)]
    async with http.post("/batch", json={"operations": operations}, headers=headers) as answer:
        content = await answer.json(content_type=None)
        if answer.status not in {200, 202} or (answer.status == 202) != bool(headers):
            raise RuntimeError(f"The front end answered {answer.status}: {content}")
        return content


@asynccontextmanager
async def _asking(http: aiohttp.ClientSession) -> AsyncIterator[list[float]]:
    """Measure how long another client waits for small requests, which it repeats; there is at least one."""
    waits: list[float] = []

    async def ask() -> None:
        began = time.perf_counter()
        async with http.get("/health/live") as answer:
            await answer.read()
        waits.append(time.perf_counter() - began)

    async def ask_on() -> None:
        while True:
            await ask()
            await asyncio.sleep(ASK_SECONDS)

    asking = asyncio.create_task(ask_on())
    try:
        yield waits
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    if not waits:
        await ask()


def _table(samples: list[Sample]) -> Table:
    table = Table("work", "kind", title="Handlers of every kind", title_justify="left")
    for column in (
        f"{AT_ONCE} at once,\nops/s",
        f"{IN_BACKGROUND:,} in the background,\nops/s",
        "others wait,\np99 ms",
    ):
        table.add_column(column, justify="right")
    for sample in samples:
        table.add_row(
            WORKS[sample.work],
            sample.kind,
            f"{sample.at_once:,.0f}",
            f"{sample.in_background:,.0f}",
            f"{1_000 * sample.others_seconds:,.0f}",
        )
    return table


def _draw(samples: list[Sample], path: Path) -> None:
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    *speeds, others = figure.subplots(1, len(WORKS) + 1)
    for axes, work in zip(speeds, WORKS, strict=True):
        _draw_speeds(axes, [sample for sample in samples if sample.work == work])
        axes.set_title(f"A handler that {WORKS[work]}")
    _draw_others(others, samples)
    figure.savefig(path, dpi=130)


def _draw_speeds(axes: Axes, samples: list[Sample]) -> None:
    for number, (name, color) in enumerate(COLORS.items()):
        places = [place + 0.4 * number for place in range(len(samples))]
        bars = axes.bar(places, [sample.speeds[name] for sample in samples], 0.38, color=color, label=name)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    axes.set_xticks([place + 0.2 for place in range(len(samples))], [sample.kind for sample in samples])
    axes.set(ylabel="operations/s")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.margins(y=0.15)
    axes.legend(fontsize=8, frameon=False)


def _draw_others(axes: Axes, samples: list[Sample]) -> None:
    places = range(len(samples))
    bars = axes.barh(places, [1_000 * sample.others_seconds for sample in samples], color="#888888")
    axes.bar_label(bars, fmt=" {:,.0f}", fontsize=8)
    axes.set_yticks(places, [f"{WORKS[sample.work]}, {sample.kind}" for sample in samples])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1, 3_000 * max(sample.others_seconds for sample in samples))
    axes.set(title="Waiting time of other clients", xlabel="ms, 99th percentile")
