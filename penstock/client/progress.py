"""Shows the progress of a batch while somebody waits for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.client.status import Status

Progress = bool | Callable[[Status], object]
"""True for a progress bar, or a function that gets each status that is read."""


@contextmanager
def showing(progress: Progress) -> Iterator[Callable[[Status], object]]:
    """Return what each status is passed to. Raises ImportError if a bar is wanted and `rich` is not installed."""
    if progress is False:
        yield _ignore
    elif progress is True:
        with _bar() as show:
            yield show
    else:
        yield progress


def _ignore(status: Status) -> None:
    """Show nothing."""


@contextmanager
def _bar() -> Iterator[Callable[[Status], object]]:
    try:
        from rich.progress import (  # noqa: PLC0415 - only a program that wants a bar needs it
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
    except ImportError as error:
        raise ImportError("progress=True needs the package rich. Install it: pip install rich") from error
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[failed]:,} failed", style="red"),
        TimeRemainingColumn(elapsed_when_finished=True),
    ) as shown:
        task = shown.add_task("", total=None, failed=0, visible=False)

        def show(status: Status) -> None:
            shown.update(
                task,
                description=status.status,
                completed=status.completed,
                total=status.total,
                failed=status.failed,
                visible=True,
            )

        yield show
