"""The pytest plugin. It does nothing until a test asks for the fixture `penstock_bulk`."""

import pytest

_PYTEST_ASYNCIO = ("asyncio", "pytest_asyncio.plugin")  # its name depends on how it was loaded


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixture for the plugin that runs `async def` tests."""
    from penstock.testing import fixture, no_fixture  # noqa: PLC0415

    has_asyncio = any(map(config.pluginmanager.hasplugin, _PYTEST_ASYNCIO))
    config.pluginmanager.register(fixture if has_asyncio else no_fixture, "penstock_fixture")
