"""Keeps the asynchronous generators that a method makes, to see whether their users close them."""

from collections.abc import Iterable
from types import AsyncGeneratorType
from typing import Any

import pytest

Generators = list[AsyncGeneratorType[Any, Any]]


def kept_generators(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> Generators:
    """Return a list, to which each generator that the method makes is added, so that none is closed as garbage."""
    make = getattr(owner, name)
    kept: Generators = []

    def keep(*args: Any, **more: Any) -> AsyncGeneratorType[Any, Any]:
        kept.append(make(*args, **more))
        return kept[-1]

    monkeypatch.setattr(owner, name, keep)
    return kept


def are_closed(generators: Iterable[AsyncGeneratorType[Any, Any]]) -> list[bool]:
    return [generator.ag_frame is None for generator in generators]
