"""The services of compose.yaml as processes on loopback: commands, variables, secret and health checks.

Other than in containers are the addresses of AWS and of the database, the path of the secret, and the ports.
"""

import asyncio
import re
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.acceptance.installation import USERS, USERS_DATABASE, endpoint, on_any_aws
from tests.support.aws import Aws, scrubbed_environment
from tests.support.programs import Program, Programs, free_port, programs
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
FILE = ROOT / "compose.yaml"
IMAGE = ROOT / "examples" / "users" / "Dockerfile"
SECRET = "/run/secrets/operator-key"
APPLICATION = re.compile(r"^ENV PENSTOCK_APP=(\S+)$", re.MULTILINE)
FINAL = {"completed", "failed"}


@dataclass
class Service:
    """A service of the file. `replacing` has what is another word here than in its container."""

    described: dict[str, Any]
    replacing: dict[str, str]

    async def start(self, running: Programs, *options: str) -> Program:
        command, *arguments = self._adapt(self.described["command"])
        names, values = zip(*self.described["environment"].items(), strict=True)
        environment = dict(zip(names, self._adapt(values), strict=True))
        return await running.penstock(command, *arguments, *options, **environment)

    async def is_healthy(self) -> bool:
        kind, program, *arguments = self._adapt(self.described["healthcheck"]["test"])
        assert (kind, program) == ("CMD", "python")
        check = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL)
        return await check.wait() == 0

    def _adapt(self, words: Iterable[str]) -> list[str]:
        adapted = list(words)
        for word, other in self.replacing.items():
            adapted = [one.replace(word, other) for one in adapted]
        return adapted


@on_any_aws
async def test_services_work_together(aws: Aws, tmp_path: Path) -> None:
    key, file, port = secrets.token_hex(24), tmp_path / "operator-key", str(free_port())
    file.write_text(f"{key}\n")
    services = yaml.safe_load(FILE.read_text())["services"]
    places = {
        services["front-end"]["environment"][f"AWS_ENDPOINT_URL_{name}"]: endpoint(aws.environment, name)
        for name in ("SQS", "DYNAMODB")
    }
    database = services["front-end"]["environment"]["USERS_DATABASE_URL"]
    places[database] = f"sqlite:///{tmp_path / USERS_DATABASE}"
    others = {**places, SECRET: str(file), "0.0.0.0": "127.0.0.1", "8080": port}
    provision, front_end, *consumers = (
        Service(services[name], {**others, "8081": str(free_port())})
        for name in ("provision", "front-end", *["consumer"] * services["consumer"]["deploy"]["replicas"])
    )
    environment = {**scrubbed_environment(), "PENSTOCK_NAME": f"test-{secrets.token_hex(4)}", "PENSTOCK_APP": USERS}
    assert APPLICATION.findall(IMAGE.read_text()) == [USERS]
    async with programs(environment, tmp_path) as running:
        provisioning = await provision.start(running)
        assert await provisioning.ended() == 0, provisioning.output()
        started = [await front_end.start(running, "--port", port)]
        started += [await consumer.start(running) for consumer in consumers]
        for service in (front_end, *consumers):
            await eventually(service.is_healthy, units=60, poll_seconds=0.5)
        await submit_with_a_new_key(f"http://127.0.0.1:{port}", key)
        for program in started:
            assert key not in program.output()


def new_user(number: int) -> dict[str, Any]:
    body = {"email": f"user-{number}@example.org", "name": "Ada", "born_on": "1990-06-01", "country": "NO"}
    return {"method": "POST", "path": "/users", "body": body}


async def submit_with_a_new_key(url: str, operator_key: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, key: str | None = None, **body: Any) -> Any:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            async with session.request(method, f"{url}{path}", headers=headers, json=body or None) as answer:
                return {"http": answer.status, **await answer.json(content_type=None)}

        assert (await ask("GET", "/keys"))["http"] == 401
        made = await ask("POST", "/keys", operator_key, tenant="acme", scopes=["read", "write"])
        accepted = await ask(
            "POST", "/batch", made["key"], operations=[new_user(number) for number in range(101)]
        )  # too many for a synchronous answer

        async def is_final() -> Any:
            status = await ask("GET", accepted["statusUrl"], made["key"])
            return status if status["status"] in FINAL else None

        assert (await eventually(is_final))["succeeded"] == 101
