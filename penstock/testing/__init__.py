"""What applications use in their own tests: a whole bulk API in memory, its ports, and a clock that a test controls.

The names are imported when they are first used, because pytest loads the plugin of this package in every test run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.testing.bulk import Answer, Outcome, TestBulk
    from penstock.testing.memory import FakeClock, MemoryBucket, MemoryParts, MemoryQueue, MemoryStore, memory_parts

__all__ = [
    "Answer",
    "FakeClock",
    "MemoryBucket",
    "MemoryParts",
    "MemoryQueue",
    "MemoryStore",
    "Outcome",
    "TestBulk",
    "memory_parts",
]

_IN_BULK = {"Answer", "Outcome", "TestBulk"}


if not TYPE_CHECKING:  # otherwise a type checker would accept every name that is imported from here

    def __getattr__(name: str) -> Any:
        """Import a name of `__all__` on its first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = "bulk" if name in _IN_BULK else "memory"
        value = getattr(import_module(f"penstock.testing.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
