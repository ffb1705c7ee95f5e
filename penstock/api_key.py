"""API keys: what they look like, and what is known about one. Pure, except that a new key is random.

A key is `pk_<environment>_<id><secret><checksum>`. The environment is 1 to 16 lower-case letters and digits. The rest
is base 62: 12 characters of the id, 32 of the secret (190 bits), and 6 of a CRC-32 of everything before it. With this
form, scanners find keys that were published by mistake, and a key with a typing error is rejected without a call to the
table.

Only the SHA-256 of a key is stored. A slow hash would not add anything, because the secret is random.
"""

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Protocol
from urllib.parse import quote

DAY_SECONDS = 24 * 3600
HOUR_SECONDS = 3600
KEPT_DAYS = 30  # a key is listed for this long after its end
LONGEST_ENVIRONMENT = 16
DEFAULT_TENANT = "default"  # the only tenant of an installation that distinguishes none

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID, _SECRET, _CHECKSUM = 12, 32, 6
_KEY = re.compile(rf"pk_[a-z0-9]{{1,{LONGEST_ENVIRONMENT}}}_[0-9A-Za-z]{{{_ID + _SECRET + _CHECKSUM}}}")
_ANYWHERE = re.compile(rf"(pk_[a-z0-9]{{1,{LONGEST_ENVIRONMENT}}}_[0-9A-Za-z]{{{_ID}}})[0-9A-Za-z]+")


class Scope(StrEnum):
    """What a key allows: to submit, cancel and retry; to read; to operate, which includes all tenants."""

    WRITE = "write"
    READ = "read"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. Only its holder may see the text."""

    id: str
    text: str = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What the table has about a key. `digest` is the SHA-256 of the key, in hexadecimal digits.

    `limit` and `max_open` are the limits of the key as its maker wrote them. `replaced_by` is the id of the key that
    replaces it. `used_at` is the start of the last hour in which the key was used.
    """

    id: str
    digest: str
    tenant: str
    scopes: frozenset[Scope]
    created_at: float
    name: str | None = None
    limit: str | None = None
    max_open: int | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    replaced_by: str | None = None
    used_at: float | None = None

    @property
    def forgotten_at(self) -> float | None:
        """Return the time from which the key is no longer listed, or None if the key has no end."""
        ends = [end for end in (self.expires_at, self.revoked_at) if end is not None]
        return min(ends) + KEPT_DAYS * DAY_SECONDS if ends else None

    def has_expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def is_unused_since(self, now: float) -> bool:
        """Return True if the use of the key in the present hour is not noted yet."""
        return self.used_at is None or self.used_at < hour_of(now)


@dataclass(frozen=True, slots=True)
class Redaction:
    """Cuts the keys out of texts that are logged, traced or answered: every API key, and the operator key."""

    operator_key: str | None = field(default=None, repr=False)

    def cut(self, text: str) -> str:
        """Return a text in which every API key is cut after its id, and the operator key is `***`."""
        if self.operator_key is not None:
            for form in _forms(self.operator_key):
                text = text.replace(form, "***")
        return without_keys(text)

    def finds_key(self, text: str) -> bool:
        return self.cut(text) != text


@cache
def _forms(operator_key: str) -> frozenset[str]:
    """Return the operator key as it is, in a JSON pointer, and in a URL. API keys are the same in all of them."""
    return frozenset({operator_key, operator_key.replace("~", "~0").replace("/", "~1"), quote(operator_key, safe="")})


class ApiKeyStore(Protocol):
    """The port to the keys in the table. Every call may be repeated, and may raise Unavailable."""

    async def create_api_key(self, key: ApiKey) -> None:
        """Write a new key."""

    async def find_api_key(self, digest: str) -> ApiKey | None:
        """Return the key with this digest, also if it has expired or was revoked."""

    async def read_api_key(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, also if it has expired or was revoked."""

    async def list_api_keys(self) -> list[ApiKey]:
        """Return all keys in the order of their ids, with those whose end is not long ago."""

    async def replace_api_key(self, key: ApiKey, new_id: str, until: float) -> None:
        """Note that another key replaces a key, which expires at `until`. Change nothing if it expires before."""

    async def revoke_api_key(self, key: ApiKey, at: float) -> None:
        """Revoke a key. If it is revoked already, the time of that stays."""

    async def note_api_key_use(self, key: ApiKey, hour: float) -> None:
        """Note that a key was used in the hour that starts at `hour`."""


def make_key(environment: str, choose: Callable[[str], str] = secrets.choice) -> NewKey:
    """Make a new key with a random id and a random secret."""
    key_id = "".join(choose(_ALPHABET) for _ in range(_ID))
    secret = "".join(choose(_ALPHABET) for _ in range(_SECRET))
    start = f"pk_{environment}_{key_id}{secret}"
    text = start + _checksum(start)
    return NewKey(key_id, text, digest_of(text))


def environment_of(name: str) -> str:
    """Return the environment for the keys of an installation: the letters and digits of its name."""
    plain = "".join(character for character in name.lower() if character.isascii() and character.isalnum())
    return plain[:LONGEST_ENVIRONMENT] or "key"


def is_key(text: str) -> bool:
    """Return True if a text has the form of a key, and its checksum is right."""
    return _KEY.fullmatch(text) is not None and secrets.compare_digest(_checksum(text[:-_CHECKSUM]), text[-_CHECKSUM:])


def id_in(text: str) -> str:
    """Return the id in a key, or an empty text if this is no key."""
    return text.rpartition("_")[2][:_ID] if is_key(text) else ""


def is_key_id(text: str) -> bool:
    return len(text) == _ID and all(character in _ALPHABET for character in text)


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def without_keys(text: str) -> str:
    """Return a text in which every key, or a part of one, is cut after its id."""
    return _ANYWHERE.sub(r"\1...", text) if "pk_" in text else text


def hour_of(now: float) -> float:
    """Return the start of an hour."""
    return now // HOUR_SECONDS * HOUR_SECONDS


def _checksum(start: str) -> str:
    number, digits = zlib.crc32(start.encode()), ""
    for _ in range(_CHECKSUM):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
