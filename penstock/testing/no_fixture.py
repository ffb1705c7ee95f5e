"""The fixture of the pytest plugin, if nothing runs `async def` tests that it knows."""

from typing import Any

import pytest


@pytest.fixture
def penstock_bulk() -> Any:
    """Explain what is missing."""
    pytest.fail(
        "The fixture penstock_bulk needs pytest-asyncio. Install it, or use penstock.testing.TestBulk yourself."
    )
