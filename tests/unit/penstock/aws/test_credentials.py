"""Credentials that AWS rejects are read again, without a restart."""

import asyncio
from pathlib import Path

import pytest
from aiobotocore.credentials import AioCredentials
from aiohttp import web

from penstock.aws import clients as aws
from penstock.aws import credentials
from penstock.aws.clients import explained, open_clients, rejects_credentials
from penstock.aws.credentials import Rotating
from penstock.errors import NoAccess
from penstock.settings import read_settings


class Chain:
    """A fake chain of providers: each reading gives the next of these keys."""

    def __init__(self, *keys: str | None) -> None:
        self.keys = list(keys)
        self.readings = 0

    async def load(self) -> AioCredentials | None:
        self.readings += 1
        await asyncio.sleep(0)
        key = self.keys.pop(0)
        return None if key is None else AioCredentials(key, "secret")


def rotating(chain: Chain) -> Rotating:
    return Rotating(AioCredentials("first", "secret"), chain.load, now=lambda: 0.0)


async def key_of(one: Rotating) -> str | None:
    return (await one.get_frozen_credentials()).access_key


async def test_credentials_are_kept_while_aws_accepts_them() -> None:
    chain = Chain("second")
    one = rotating(chain)
    assert [await key_of(one), await key_of(one)] == ["first", "first"]
    assert one.access_key == "first"
    assert chain.readings == 0


async def test_rejected_ones_are_read_again_once_for_all_calls() -> None:
    chain = Chain("second")
    one = rotating(chain)
    one.reject()
    assert await asyncio.gather(*(key_of(one) for _ in range(20))) == ["second"] * 20
    assert chain.readings == 1


async def test_chain_is_not_asked_again_and_again() -> None:
    chain = Chain("second", "third")
    one = rotating(chain)
    for _ in range(20):
        one.reject()
        assert await key_of(one) == "second"
    assert chain.readings == 1


async def test_old_ones_are_kept_while_there_are_no_new_ones() -> None:
    one = rotating(Chain(None))
    one.reject()
    assert await key_of(one) == "first"


@pytest.mark.parametrize(
    ("code", "rejects"),
    [
        ("ExpiredToken", True),
        ("ExpiredTokenException", True),
        ("InvalidClientTokenId", True),
        ("UnrecognizedClientException", True),
        ("SignatureDoesNotMatch", True),
        ("IncompleteSignature", True),
        ("AccessDeniedException", False),
        ("KMS.AccessDeniedException", False),
        ("ThrottlingException", False),
        ("", False),
    ],
)
def test_only_what_other_credentials_may_cure_makes_them_read_again(code: str, rejects: bool) -> None:
    assert rejects_credentials(code) is rejects


async def test_keys_that_are_rotated_in_the_file_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file is rewritten while the program runs, as by `aws sso`, Vault or a sidecar."""
    file = tmp_path / "credentials"

    def write(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")

    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        key = request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        seen.append(key)
        if key == "NEW":
            return web.Response(text="{}")
        return web.Response(status=400, text='{"__type": "x#UnrecognizedClientException", "message": "no"}')

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{runner.addresses[0][1]}")
        monkeypatch.setattr(aws, "_TRIES", 1)
        monkeypatch.setattr(credentials, "FEWEST_SECONDS", 0)
        write("OLD")
        async with open_clients(read_settings()) as clients:

            async def call() -> None:
                with explained():
                    await clients.sqs.get_queue_url(QueueName="chunks")

            with pytest.raises(NoAccess):
                await call()
            write("NEW")
            await call()
            with explained():
                await clients.dynamodb.get_item(TableName="t", Key={"pk": {"S": "a"}})
    finally:
        await runner.cleanup()
    assert seen == ["OLD", "NEW", "NEW"]
