"""An installation that needs keys, from the first key to the revoked one. No program shows a key anywhere."""

import aiohttp

from tests.acceptance.conftest import Install
from tests.acceptance.installation import on_any_aws
from tests.support.programs import Program

OPERATOR_KEY = "the-operator-key-0123456789abcdef"
SUM = {"method": "POST", "path": "/sums", "body": {"a": 1, "b": 2}}


@on_any_aws
async def test_keys_from_the_first_to_the_revoked_one(install: Install) -> None:
    penstock = await install(AUTH="keys", OPERATOR_KEY=OPERATOR_KEY, LEAVE_SECONDS="0")
    front_end = await penstock.serve()
    consumer = await penstock.consume()
    url = f"http://127.0.0.1:{penstock.port}"

    async def keys(*words: str) -> Program:
        environment = {"PENSTOCK_URL": url, "PENSTOCK_API_KEY": OPERATOR_KEY}
        program = await penstock.programs.penstock("keys", *words, **environment)
        assert await program.ended() == 0, program.output()
        return program

    async def ask(method: str, path: str, key: str, **options: object) -> tuple[int, dict[str, str]]:
        headers = {"Authorization": f"Bearer {key}", "Prefer": "respond-async"}
        async with session.request(method, f"{url}{path}", headers=headers, **options) as answer:  # type: ignore[arg-type]
            return answer.status, await answer.json(content_type=None)

    made = await keys("create", "--tenant", "acme", "--scope", "read", "--scope", "write")
    key = made.output().split()[0]
    other = (await keys("create", "--tenant", "other", "--scope", "read")).output().split()[0]
    async with aiohttp.ClientSession() as session:
        status, accepted = await ask("POST", "/batch", key, json={"operations": [SUM]})
        assert status == 202
        assert (await ask("GET", accepted["statusUrl"], key))[0] == 200
        assert (await ask("GET", accepted["statusUrl"], other))[0] == 404
        assert (await ask("GET", accepted["statusUrl"], OPERATOR_KEY))[0] == 200
        assert (await ask("POST", "/batch", other, json={"operations": [SUM]}))[0] == 403
        assert (await ask("GET", f"/{key}?key={key}", key))[0] == 404
        await penstock.until_queue_is_empty()

    key_id = key.split("_")[2][:12]
    new = (await keys("rotate", key_id)).output().split()[0]
    await keys("revoke", key_id)
    assert key_id in (await keys("list")).output()

    front_end.terminate()
    assert await front_end.ended() == 0
    second = await penstock.serve()  # it remembers no key
    async with aiohttp.ClientSession() as session:
        assert (await ask("GET", accepted["statusUrl"], key))[0] == 401
        assert (await ask("GET", accepted["statusUrl"], new))[0] == 200

    for program in (front_end, second, consumer):
        for secret in (OPERATOR_KEY, key[21:], other[21:], new[21:]):
            assert secret not in program.output()
    assert key_id in front_end.output()
