"""The servers that stand in for AWS during a run. Each installation starts new ones."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.infra.local.servers import DYNAMODB, ELASTICMQ, Server, missing_tools, running_servers
from penstock.process import programs

EMBEDDED = "embedded AWS"
REAL = f"{ELASTICMQ.name} + {DYNAMODB.name}"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": "us-east-1"}
HEAP = "-Xmx4g"  # the 512 MB of the tests are too little for a million operations


@dataclass(frozen=True, slots=True)
class Servers:
    """Running servers. `environment` has all variables that a program needs to use them."""

    environment: Mapping[str, str]
    pids: Mapping[str, int]


def available_servers() -> list[str]:
    return [EMBEDDED] if missing_tools() else [EMBEDDED, REAL]


@contextmanager
def start_servers(name: str) -> Iterator[Servers]:
    with _start_embedded() if name == EMBEDDED else _start_real() as servers:
        yield servers


@contextmanager
def _start_embedded() -> Iterator[Servers]:
    command = programs.command("penstock.infra.embedded", "--exit-with-parent", str(os.getpid()))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            yield Servers(_environment(url, url), {EMBEDDED: process.pid})
        finally:
            process.terminate()


@contextmanager
def _start_real() -> Iterator[Servers]:
    os.environ["_JAVA_OPTIONS"] = HEAP  # it overrides the option on the command line
    with running_servers() as started:
        elasticmq, dynamodb = started
        pids = {server.spec.name: _pid_of(server) for server in started}
        yield Servers(_environment(elasticmq.url, dynamodb.url), pids)


def _pid_of(server: Server) -> int:
    """Return the process id of Java, which is a child of the shell script that the server runs in."""
    words = (server.spec.main, str(server.port))
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program, *arguments = file.read_text().split("\0")
        except (OSError, ValueError):
            continue  # the process has ended, or belongs to another user
        if program.endswith("java") and all(any(word in one for one in arguments) for word in words):
            return int(file.parent.name)
    raise ProcessLookupError(f"{server.spec.name} has no process.")


def _environment(sqs_url: str, dynamodb_url: str) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL_SQS": sqs_url, "AWS_ENDPOINT_URL_DYNAMODB": dynamodb_url, **CREDENTIALS}
