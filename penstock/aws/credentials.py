"""Reads rotated credentials again, without a restart.

AWS's client library reads credentials from a file, a profile or the environment once. Those of a role have an expiry
time, and the library refreshes them shortly before it, but not if somebody revokes them. So if AWS rejects the
credentials, they are read again before the next call, through AWS's usual chain.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials

FEWEST_SECONDS = 1.0  # between two readings, since a chain may ask other services

Load = Callable[[], Awaitable[AioCredentials | None]]


class Rotating:
    """Takes the place of the credentials of a session, for all its clients. `reject` lets it read them again."""

    def __init__(self, loaded: AioCredentials, load: Load, now: Callable[[], float] = time.monotonic) -> None:
        self._loaded = loaded
        self._load = load
        self._now = now
        self._read_at = float("-inf")
        self._is_rejected = False
        self._lock = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)

    def reject(self) -> None:
        """Note that AWS rejected these credentials."""
        self._is_rejected = True

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        if self._is_rejected:
            async with self._lock:
                await self._read_again()
        frozen: ReadOnlyCredentials = await self._loaded.get_frozen_credentials()
        return frozen

    async def _read_again(self) -> None:
        """Read them again if no other call has done so. If there are none now, keep the old ones."""
        if not self._is_rejected or self._now() < self._read_at + FEWEST_SECONDS:
            return
        self._read_at = self._now()
        self._loaded = await self._load() or self._loaded
        self._is_rejected = False


class RotatingProvider:
    """The credential provider of a session: wraps what `load` reads."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._rotating: Rotating | None = None

    async def load_credentials(self) -> Rotating | None:
        loaded = await self._load()
        self._rotating = None if loaded is None else Rotating(loaded, self._load)
        return self._rotating

    def reject(self) -> None:
        if self._rotating is not None:
            self._rotating.reject()


def rotate(session: AioSession, new_session: Callable[[], AioSession], is_rejection: Callable[[str], bool]) -> None:
    """Let a session read its credentials again if AWS answers a call with a code that rejects them.

    Each reading uses a new session, because a session keeps what it has read of its files.
    """

    async def load() -> AioCredentials | None:
        loaded: AioCredentials | None = await new_session().get_credentials()
        return loaded

    provider = RotatingProvider(load)

    def look(parsed: dict[str, Any], **_: Any) -> None:
        if is_rejection(str(parsed.get("Error", {}).get("Code", ""))):
            provider.reject()

    session.register_component("credential_provider", provider)
    session.register("after-call", look)
