"""The fixture of the pytest plugin, if pytest-asyncio runs the tests."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from penstock.operations import Operations
    from penstock.testing.bulk import TestBulk


@pytest_asyncio.fixture
async def penstock_bulk(operations: "Operations[Any]") -> "AsyncIterator[TestBulk]":
    """Yield a bulk API in memory for the application that your fixture `operations` returns."""
    from penstock.testing.bulk import TestBulk  # noqa: PLC0415 - it loads the programs

    async with TestBulk(operations) as bulk:
        yield bulk
