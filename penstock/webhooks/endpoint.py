"""The webhook endpoints of a tenant: where its events go, and with which secrets they are signed. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.webhooks.event import EventType
from penstock.webhooks.signature import derive_secret

CALLBACK = "callback"  # the endpoint that stands for the `callbackUrl` of all batches of a tenant
MOST_ENDPOINTS = 10
MOST_ROTATIONS = 5  # in ROTATION_SECONDS, because each of them adds a signature to each event
ROTATION_SECONDS = 24 * 3600  # how long events are signed with the old secret, too
GONE = "The receiver answered 410."
_MARK_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL that gets the events of a tenant's batches. `version` is that of its secret.

    `replaced` has the versions that were replaced in the last day, with the times of their rotations.
    """

    id: str
    url: str
    created_at: float
    types: frozenset[str] = frozenset(EventType)
    description: str | None = None
    version: int = 1
    rotated_at: float | None = None
    disabled_at: float | None = None
    disabled_reason: str | None = None  # None if the tenant has disabled it
    replaced: tuple[tuple[int, float], ...] = ()

    @property
    def is_enabled(self) -> bool:
        return self.disabled_at is None

    def wants(self, kind: str) -> bool:
        return self.is_enabled and kind in self.types

    def rotated(self, now: float) -> "Endpoint":
        replaced = (*self.still_valid(now), (self.version, now))
        return replace(self, version=self.version + 1, rotated_at=now, replaced=replaced)

    def still_valid(self, now: float) -> list[tuple[int, float]]:
        """Return the replaced versions with which events are still signed."""
        return [(version, at) for version, at in self.replaced if now < at + ROTATION_SECONDS]

    def disabled(self, now: float, reason: str | None = None) -> "Endpoint":
        return replace(self, disabled_at=now, disabled_reason=reason)

    def enabled(self) -> "Endpoint":
        return replace(self, disabled_at=None, disabled_reason=None)

    def encode(self) -> dict[str, Any]:
        """Return the endpoint for the table. A later version may add members."""
        return {
            "id": self.id,
            "url": self.url,
            "created_at": self.created_at,
            "types": sorted(self.types),
            "description": self.description,
            "version": self.version,
            "rotated_at": self.rotated_at,
            "replaced": self.replaced,
            "disabled_at": self.disabled_at,
            "disabled_reason": self.disabled_reason,
        }

    @classmethod
    def decode(cls, members: dict[str, Any]) -> "Endpoint":
        known = {name: members[name] for name in cls.__slots__ if name in members}
        replaced = tuple((version, at) for version, at in members.get("replaced", ()))
        return cls(**(known | {"types": frozenset(members["types"]), "replaced": replaced}))


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All endpoints of a tenant, as the table has them. `revision` changes with each write."""

    tenant: str
    all: tuple[Endpoint, ...] = ()
    revision: str = ""

    @property
    def own(self) -> list[Endpoint]:
        """Return the endpoints that the tenant has made, in the order of their making."""
        return [endpoint for endpoint in self.all if endpoint.id != CALLBACK]

    def find(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint. The one for callbacks always exists."""
        stored = next((one for one in self.all if one.id == endpoint_id), None)
        return Endpoint(CALLBACK, "", 0.0) if stored is None and endpoint_id == CALLBACK else stored

    def with_endpoint(self, endpoint: Endpoint) -> "Endpoints":
        """Return the endpoints with this one added, or in the place of the one with its id."""
        if any(one.id == endpoint.id for one in self.all):
            return replace(self, all=tuple(endpoint if one.id == endpoint.id else one for one in self.all))
        return replace(self, all=(*self.all, endpoint))

    def without(self, endpoint_id: str) -> "Endpoints":
        return replace(self, all=tuple(one for one in self.all if one.id != endpoint_id))


@dataclass(frozen=True, slots=True)
class Secrets:
    """Derives the secrets of all endpoints from PENSTOCK_WEBHOOK_SECRET."""

    master: str = field(repr=False)

    def current(self, tenant: str, endpoint: Endpoint) -> str:
        return derive_secret(self.master, _owner(tenant, endpoint), endpoint.version)

    def valid(self, tenant: str, endpoint: Endpoint, now: float) -> list[str]:
        """Return the secrets with which an event is signed now: also the old ones, for a day after their rotation."""
        versions = [endpoint.version, *(version for version, _ in reversed(endpoint.still_valid(now)))]
        return [derive_secret(self.master, _owner(tenant, endpoint), version) for version in versions]


def _owner(tenant: str, endpoint: Endpoint) -> str:
    return f"{CALLBACK} {tenant}" if endpoint.id == CALLBACK else endpoint.id


def mark_of(tenant: str) -> str:
    """Return a short mark of a tenant. Several tenants may have the same one.

    The table has the marks of all tenants with endpoints in one small item. A tenant whose mark is not there has no
    endpoint. For any other the endpoints must be read.
    """
    return hashlib.sha256(tenant.encode()).hexdigest()[:_MARK_DIGITS]


def has_mark(marks: Iterable[str], tenant: str) -> bool:
    return mark_of(tenant) in marks
