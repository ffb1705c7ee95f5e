"""Two generated clients do the main job. Everything that a generator warns about is an error.

`.ci/run` installs the generators. Without them the tests are skipped, also in CI.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.generated.running import run, skip_without_node, start, tools_or_skip
from tests.acceptance.generated.tools import HERE, PYTHON, TYPESCRIPT
from tests.acceptance.installation import on_any_aws

TOTAL = 103
WARNING = "\N{WARNING SIGN}"  # openapi-typescript writes it before each warning of its own

pytestmark = [on_any_aws, pytest.mark.timeout(300)]


def job() -> str:
    """Return the operations. The last one has the address of another, so it fails."""
    return json.dumps([operation(number) for number in (*range(TOTAL - 1), 7)])


def operation(number: int) -> dict[str, Any]:
    body = {"email": f"user-{number}@example.com", "name": "Ada", "born_on": "1990-06-01", "country": "NO"}
    return {"method": "POST", "path": "/users", "body": body}


async def save_description(url: str, folder: Path) -> Path:
    file = folder / "openapi.json"
    async with aiohttp.ClientSession() as session, session.get(f"{url}/openapi.json") as answer:
        file.write_bytes(await answer.read())
    return file


def check(output: str) -> None:
    done = json.loads(output)
    failed = done.pop("failed")
    assert len(failed) == 1
    assert done == {
        "status": "completed",
        "total": TOTAL,
        "email": "user-0@example.com",
        "causes": [[409, 1]],
    }


async def test_generated_typescript_client_does_the_job(install: Install, tmp_path: Path) -> None:
    skip_without_node()
    tools = tools_or_skip(TYPESCRIPT)
    (tmp_path / "node_modules").symlink_to(tools / "node_modules")
    for name in ("package.json", "tsconfig.json", "job.ts"):
        shutil.copy(HERE / name, tmp_path)
    url = await start(install)
    binaries = tools / "node_modules" / ".bin"
    said = await run(
        binaries / "openapi-typescript",
        await save_description(url, tmp_path),
        "-o",
        "schema.d.ts",
        folder=tmp_path,
        NODE_NO_WARNINGS="1",
    )
    assert WARNING not in said
    assert await run(binaries / "tsc", folder=tmp_path) == ""
    check(await run("node", "job.js", url, job(), folder=tmp_path))


async def test_generated_python_client_does_the_job(install: Install, tmp_path: Path) -> None:
    tools = str(tools_or_skip(PYTHON))
    url = await start(install)
    description = await save_description(url, tmp_path)
    options = ("--path", description, "--output-path", "bulk_client", "--meta", "none")
    config = ("--config", HERE / "generator.yaml", "--fail-on-warning")
    generator = (sys.executable, "-m", "openapi_python_client", "generate")
    await run(*generator, *options, *config, folder=tmp_path, PYTHONPATH=tools)
    path = os.pathsep.join([str(tmp_path), tools])
    check(await run(sys.executable, HERE / "job.py", url, job(), folder=tmp_path, PYTHONPATH=path))
