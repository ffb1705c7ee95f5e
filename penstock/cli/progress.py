"""Shows the progress of batches while somebody waits: a bar on a terminal, a line from time to time elsewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LINE_SECONDS = 5.0  # without a terminal, a line is printed for each tenth that is done, and at least this often


class Counts(Protocol):
    """What is shown: the status of a batch, or the sum over several batches."""

    @property
    def total(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def failed(self) -> int: ...


class Screen(Protocol):
    """Shows progress on standard error."""

    def show(self, counts: Counts) -> None:
        """Show the counts, which have changed."""

    def say(self, sentence: str) -> None:
        """Print a sentence for the user."""


def open_progress() -> "ProgressBar | ProgressLines":
    """Return what shows progress where this command prints its messages. Use it with `with`."""
    return ProgressBar() if sys.stderr.isatty() else ProgressLines()


class ProgressBar(Progress):
    """Shows the progress on a terminal, as one bar."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TextColumn("{task.fields[failed]:,} failed", style="red"),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console or Console(stderr=True),
        )
        self._bar = self.add_task("", total=1, failed=0, visible=False)

    def show(self, counts: Counts) -> None:
        self.update(self._bar, completed=counts.completed, total=counts.total, failed=counts.failed, visible=True)

    def say(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the rate of the last half minute, and at the end the rate of the whole run."""
        speed = task.completed / task.finished_time if task.finished_time else task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


class ProgressLines(AbstractContextManager["ProgressLines"]):
    """Shows the progress in a log, as a line from time to time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._printed_at = clock()
        self._printed = 0
        self._start: tuple[float, int] | None = None  # the time of the first counts, and what was completed then

    def __exit__(self, *_: object) -> None:
        """Nothing has to be closed."""

    def show(self, counts: Counts) -> None:
        now = self._clock()
        self._start = self._start or (now, counts.completed)
        new = counts.completed - self._printed
        is_due = new * 10 >= counts.total or now - self._printed_at >= _LINE_SECONDS
        if new and (is_due or counts.completed == counts.total):
            self._printed, self._printed_at = counts.completed, now
            self.say(_progress_line(counts, now - self._start[0], counts.completed - self._start[1]))

    def say(self, sentence: str) -> None:
        typer.echo(sentence, err=True)


def _progress_line(counts: Counts, elapsed_seconds: float, completed_since: int) -> str:
    done = f"{counts.completed / counts.total:4.0%}  {counts.completed:,} of {counts.total:,}"
    line = f"{done}, {counts.failed:,} failed"
    if not completed_since:
        return line
    rate, left = completed_since / max(elapsed_seconds, 0.001), counts.total - counts.completed
    return f"{line}, {rate:,.0f}/s{f', about {left / rate:,.0f} s left' if left else ''}"
