"""The pytest plugin: it costs nothing unless it is used, and its fixture is a bulk API in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.full import full

ROOT = Path(__file__).parents[4]
LOADED = """
import sys
import penstock.testing.plugin
print(*sorted(name for name in sys.modules if name.split(".")[0] in {"penstock", "aiohttp", "pydantic", "structlog"}))
"""
TEST = """
import pytest
from penstock import Operations

@pytest.fixture
def operations():
    operations = Operations()

    @operations.post("/double/{number}")
    async def double(number: int) -> int:
        return 2 * number

    return operations

async def test_double(penstock_bulk):
    answer = await penstock_bulk.post([{"method": "POST", "path": "/double/4"}])
    assert answer.results == [8]
"""


def test_plugin_loads_nothing_of_the_programs() -> None:
    command = [sys.executable, "-c", LOADED]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert loaded == ["penstock", "penstock.testing", "penstock.testing.plugin"]


@pytest.mark.parametrize(("plugins", "passes"), full([(("-p", "pytest_asyncio.plugin"), True), ((), False)]))
def test_fixture_is_found_by_a_test(tmp_path: Path, plugins: tuple[str, ...], *, passes: bool) -> None:
    (tmp_path / "test_double.py").write_text(TEST)
    options = ["-q", "-p", "no:cacheprovider", "-p", "penstock.testing.plugin", *plugins, "-o", "asyncio_mode=auto"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)},
    )
    assert (run.returncode == 0) is passes, run.stdout
