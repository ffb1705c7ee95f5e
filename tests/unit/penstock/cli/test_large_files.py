"""Memory does not grow with a file that is submitted."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.full import full
from tests.support.programs import free_port

PROGRAM = """
import resource, sys
import typer
from penstock.cli.submit import submit

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
try:
    typer.run(submit)
finally:
    sys.stderr.write(f"more: {peak() - before}")
"""


def write_csv(folder: Path, count: int) -> list[str]:
    with (folder / "big.csv").open("w", encoding="cp1252") as file:
        file.write("email;name;city;note\n")
        file.writelines(f"user{number}@mail.example;Zoë {number};Köln;some words about it\n" for number in range(count))
    return ["big.csv", "--method", "POST", "--path", "/users", "--charset", "cp1252"]


def write_ndjson(folder: Path, count: int) -> list[str]:
    with (folder / "big.ndjson").open("w") as file:
        file.writelines(
            f'{{"method": "POST", "path": "/users", "body": {{"email": "user{number}@mail.example"}}}}\n'
            for number in range(count)
        )
    return ["big.ndjson"]


class Sink:
    """Accepts one batch, and counts its lines without keeping them."""

    def __init__(self) -> None:
        self.batches = self.lines = 0

    async def post(self, request: web.Request) -> web.Response:
        assert "Content-Encoding" in request.headers
        async for piece in request.content.iter_any():
            self.lines += piece.count(b"\n")
        self.batches += 1
        return web.json_response({"batchId": "0"}, status=202)


@pytest.mark.parametrize(("write", "count", "mebibytes"), full([(write_csv, 500_000, 60), (write_ndjson, 100_000, 20)]))
async def test_large_file_is_one_batch_in_little_memory(
    tmp_path: Path, write: Callable[[Path, int], list[str]], count: int, mebibytes: int
) -> None:
    words, sink, app = write(tmp_path, count), Sink(), web.Application()
    app.router.add_post("/batch", sink.post)
    async with TestServer(app, port=free_port()) as server:
        command = [sys.executable, "-c", PROGRAM, *words, "--no-wait", "--url", str(server.make_url(""))]
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=subprocess.PIPE)
        _, stderr = await process.communicate()
    assert process.returncode == 0, stderr
    assert sink.batches == 1
    assert sink.lines >= count
    assert int(stderr.decode().rpartition("more: ")[2]) < mebibytes
