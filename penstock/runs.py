"""Cuts a sequence into runs, each as long as its limits allow. Pure."""

import sys
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def in_runs(
    items: Iterable[T], cost: Callable[[T], int], most: int, most_items: int = sys.maxsize
) -> Generator[list[T]]:
    """Yield neighbouring items in runs, each as long as possible.

    The costs of a run add up to `most` at most, unless it has only one item.
    """
    run: list[T] = []
    total = 0
    for item in items:
        added = cost(item)
        if run and (len(run) == most_items or total + added > most):
            yield run
            run, total = [], 0
        run.append(item)
        total += added
    if run:
        yield run
