"""Who calls: a tenant with scopes. The callers with API keys are read from the table and cached.

A key is found by its SHA-256, in the cache and in the table. So the time of a lookup says nothing about other keys.
"""

import hmac
from contextlib import suppress
from dataclasses import dataclass

from penstock.api_key import DEFAULT_TENANT, ApiKey, ApiKeyStore, Scope, digest_of, hour_of, is_key
from penstock.clock import Clock
from penstock.errors import NotAuthenticated, PenstockError
from penstock.latest import Latest

FOUND_SECONDS = 60  # a key that is revoked works for so long in the front ends that know it
NOT_FOUND_SECONDS = 5
MOST_CACHED = 10_000  # keys that were found, and as many that were not
OPERATOR_KEY_ID = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `key_id` is None if the request needed no key.

    `limit` and `max_open` are the limits of the caller's key.
    """

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    limit: str | None = None
    max_open: int | None = None

    def may_see(self, tenant: str) -> bool:
        """Return True if the work of this tenant exists for the caller. Operators see all tenants."""
        return tenant == self.tenant or Scope.OPERATE in self.scopes


OPERATOR = Caller(DEFAULT_TENANT, frozenset({Scope.OPERATE}))  # on the listener for operators, if it needs no key


class Callers:
    """Finds the callers of requests by their keys."""

    def __init__(self, store: ApiKeyStore, clock: Clock, operator_key: str | None) -> None:
        self._store = store
        self._clock = clock
        self._operator_digest = None if operator_key is None else digest_of(operator_key)
        self._found = _Cache(FOUND_SECONDS)
        self._not_found = _Cache(NOT_FOUND_SECONDS)

    def _is_operator_key(self, token: str) -> bool:
        """Return True if the token is PENSTOCK_OPERATOR_KEY."""
        return self._operator_digest is not None and hmac.compare_digest(digest_of(token), self._operator_digest)

    async def find(self, token: str, *, fresh_seconds: float = 0) -> Caller:
        """Return the caller with this key. Raises NotAuthenticated if the key is not valid.

        What the cache would forget in the next `fresh_seconds` does not count.
        """
        if self._is_operator_key(token):
            return Caller(DEFAULT_TENANT, frozenset(Scope), OPERATOR_KEY_ID)
        if not is_key(token):
            raise NotAuthenticated("This is not a complete key of Penstock. Send the key as you got it.", has_key=True)
        key = await self._find(digest_of(token), fresh_seconds)
        if key is None:
            raise NotAuthenticated("There is no such key.", has_key=True)
        if key.revoked_at is not None:
            raise NotAuthenticated(f"The key {key.id} was revoked.", has_key=True)
        if key.has_expired(self._clock.now()):
            raise NotAuthenticated(f"The key {key.id} has expired.", has_key=True)
        return Caller(key.tenant, key.scopes, key.id, key.limit, key.max_open)

    async def _find(self, digest: str, fresh_seconds: float) -> ApiKey | None:
        at = self._clock.monotonic()
        if (key := self._found.get(digest, at + fresh_seconds)) is not None:
            return key
        if self._not_found.has(digest, at + fresh_seconds):
            return None
        key = await self._store.find_api_key(digest)
        (self._not_found if key is None else self._found).put(digest, key, at)
        if key is not None:
            await self._note_use(key)
        return key

    async def _note_use(self, key: ApiKey) -> None:
        now = self._clock.now()
        if key.revoked_at is None and not key.has_expired(now) and key.is_unused_since(now):
            with suppress(PenstockError):  # the time of the last use is worth no failed request
                await self._store.note_api_key_use(key, hour_of(now))


class _Cache:
    """Remembers keys for some seconds. If there are too many, the one that was put in first is forgotten."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept = Latest[str, tuple[float, ApiKey | None]](MOST_CACHED)

    def has(self, digest: str, at: float) -> bool:
        kept = self._kept.get(digest)
        return kept is not None and kept[0] > at

    def get(self, digest: str, at: float) -> ApiKey | None:
        return self._kept[digest][1] if self.has(digest, at) else None

    def put(self, digest: str, key: ApiKey | None, at: float) -> None:
        self._kept.put(digest, (at + self._seconds, key))
