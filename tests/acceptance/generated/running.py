"""Runs clients in other programs against an installation with the users example."""

import os
import re
import shutil
import subprocess
from asyncio.subprocess import PIPE, STDOUT, create_subprocess_exec
from pathlib import Path

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.generated.tools import Generator
from tests.acceptance.installation import USERS

OLDEST_NODE = 18


def skip_without_node() -> None:
    """Skip the test if there is no Node that is new enough."""
    path = shutil.which("node")
    said = (
        "" if path is None else subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    )
    version = re.match(r"v(\d+)\.", said)
    if version is None or int(version[1]) < OLDEST_NODE:
        pytest.skip(f"Node {OLDEST_NODE} or newer is not installed")


def tools_or_skip(generator: Generator) -> Path:
    """Return the folder of an installed generator."""
    if not generator.folder.exists():
        pytest.skip(f"no {generator.name} generator: install it with `python -m tests.acceptance.generated.tools`")
    return generator.folder


async def start(install: Install) -> str:
    """Return the URL of a front end with the users example, which has a consumer."""
    penstock = await install(APP=USERS)
    await penstock.serve()
    await penstock.consume()
    return f"http://127.0.0.1:{penstock.port}"


async def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Return what a command writes. Fail if it does not end well."""
    process = await create_subprocess_exec(
        *command, cwd=folder, stdout=PIPE, stderr=STDOUT, env={**os.environ, **environment}
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
