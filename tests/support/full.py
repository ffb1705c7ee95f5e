"""Marks single cases of a parametrized test as `full`: `make test` leaves them out, `make test-full` runs them."""

from collections.abc import Iterable
from typing import Any

import pytest


def full(cases: Iterable[Any]) -> list[Any]:
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.full) for case in cases]
