"""Penstock turns Python functions into a bulk API. This package exports the names that an application imports.

The names are imported when they are first used. So the command line starts without loading the whole library, and
`python -m penstock` can correct the module search path before anything else is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.context import Context, Reject, Retry, Throttled
    from penstock.limit import Limit
    from penstock.operations import Operations
    from penstock.surroundings import CallNext

__all__ = ["CallNext", "Context", "Limit", "Operations", "Reject", "Retry", "Throttled"]

_MODULES = {
    "CallNext": "penstock.surroundings",
    "Context": "penstock.context",
    "Limit": "penstock.limit",
    "Operations": "penstock.operations",
    "Reject": "penstock.context",
    "Retry": "penstock.context",
    "Throttled": "penstock.context",
}


if not TYPE_CHECKING:  # otherwise a type checker would accept every name that is imported from here

    def __getattr__(name: str) -> Any:
        """Import a name of `__all__` on its first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
