"""The HTTP program with webhooks, called by two tenants and an operator."""

from dataclasses import dataclass
from typing import Any

import pytest

from penstock import Operations
from penstock.api_key import Scope
from penstock.testing import FakeClock, MemoryParts
from penstock.testing.http import Answer
from tests.support.service import Serve, Service
from tests.unit.service.test_access import WEBHOOK_SECRET, add_key

operations = Operations()


@operations.post("/run")
async def run() -> str:
    return "done"


@dataclass(frozen=True, slots=True)
class Tenant:
    service: Service
    key: str

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {} if body is None else {"json": body}
        return await self.service.ask(method, path, headers={"Authorization": f"Bearer {self.key}", **headers}, **sent)

    async def make(self, **members: Any) -> Any:
        answer = await self.ask("POST", "/v1/webhook_endpoints", {"url": "https://receiver.example/a", **members})
        assert answer.status == 201, answer
        return answer.body


@pytest.fixture
async def service(serve: Serve, parts: MemoryParts, clock: FakeClock) -> Service:
    return await serve(
        operations, parts=parts, clock=clock, auth="keys", webhook_secret=WEBHOOK_SECRET, sync_max_operations=0
    )


async def tenant_of(service: Service, name: str, *scopes: Scope) -> Tenant:
    return Tenant(service, await add_key(service.parts.store, *scopes, tenant=name))


@pytest.fixture
async def acme(service: Service) -> Tenant:
    return await tenant_of(service, "acme", Scope.READ, Scope.WRITE)


@pytest.fixture
async def other(service: Service) -> Tenant:
    return await tenant_of(service, "other", Scope.READ, Scope.WRITE)


@pytest.fixture
async def operator(service: Service) -> Tenant:
    return await tenant_of(service, "operators", *Scope)
