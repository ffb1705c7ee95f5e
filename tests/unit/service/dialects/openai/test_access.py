"""Who may use the endpoints of OpenAI's dialect: each row of its table, with every kind of key."""

import pytest

from penstock.api_key import ApiKey, Scope, make_key
from penstock.service.dialects.openai.dialect import OPENAI
from penstock.service.route import Route
from penstock.testing import FakeClock, MemoryParts
from tests.support.builders import NOW
from tests.support.service import Serve
from tests.unit.service.dialects.openai.conftest import assert_error, operations


@pytest.mark.parametrize("route", OPENAI.routes, ids=lambda route: f"{route.method} {route.path}")
async def test_endpoint_needs_a_key_with_its_scope(
    serve: Serve, parts: MemoryParts, clock: FakeClock, route: Route
) -> None:
    service = await serve(operations, parts=parts, clock=clock, auth="keys")
    assert route.scope in {Scope.READ, Scope.WRITE}
    path = route.path.format(file_id="file-none", batch_id="batch_none")
    for scopes, status in ((None, 401), ({Scope.READ, Scope.WRITE} - {route.scope}, 403), ({route.scope}, None)):
        key = make_key("test")
        if scopes is not None:
            await parts.store.create_api_key(ApiKey(key.id, key.digest, "acme", frozenset(scopes), NOW))
        headers = {"Authorization": f"Bearer {key.text}"}
        answer = await service.ask(route.method, path, headers=headers)
        if status is not None:
            assert_error(answer, status)
        else:
            assert answer.status not in {401, 403}
