"""What the items of API keys look like in the table. Pure.

item            pk                    sk
API key         apikey#<SHA-256>      key
its place in    apikeys               <key id>
the list

A request brings a key, so the item of the key is found by the SHA-256 of that. The list has the SHA-256 of each key id.
"""

from penstock.api_key import ApiKey, Scope
from penstock.aws.attributes import (
    Item,
    Value,
    number,
    read_number,
    read_optional_seconds,
    read_optional_text,
    read_seconds,
    read_text,
    read_texts,
    seconds,
    text,
    texts,
    whole_seconds,
)
from penstock.errors import known_member

LIST = "apikeys"
LIST_RANGE = "0", "~"  # every key id


def api_key_key(digest: str) -> dict[str, Value]:
    return {"pk": text(f"apikey#{digest}"), "sk": text("key")}


def listed_key(key_id: str) -> dict[str, Value]:
    return {"pk": text(LIST), "sk": text(key_id)}


def api_key_to_item(key: ApiKey) -> dict[str, Value]:
    """Encode a key. It ends at `valid_until`; `expires_at` is when DynamoDB deletes the item."""
    return {
        **api_key_key(key.digest),
        "key_id": text(key.id),
        "tenant": text(key.tenant),
        "scopes": texts(sorted(key.scopes)),
        "created_at": seconds(key.created_at),
        **({} if key.name is None else {"name": text(key.name)}),
        **({} if key.limit is None else {"limit": text(key.limit)}),
        **({} if key.max_open is None else {"max_open": number(key.max_open)}),
        **({} if key.expires_at is None else {"valid_until": seconds(key.expires_at)}),
        **_deletion(key),
    }


def listed_to_item(key: ApiKey) -> dict[str, Value]:
    return {**listed_key(key.id), "digest": text(key.digest), **_deletion(key)}


def digest_of_listed(item: Item) -> str:
    return read_text(item, "digest")


def api_key_from_item(item: Item) -> ApiKey:
    return ApiKey(
        id=read_text(item, "key_id"),
        digest=read_text(item, "pk").removeprefix("apikey#"),
        tenant=read_text(item, "tenant"),
        scopes=frozenset(known_member(Scope, "scope", scope) for scope in read_texts(item, "scopes")),
        created_at=read_seconds(item, "created_at"),
        name=read_optional_text(item, "name"),
        limit=read_optional_text(item, "limit"),
        max_open=read_number(item, "max_open") if "max_open" in item else None,
        expires_at=read_optional_seconds(item, "valid_until"),
        revoked_at=read_optional_seconds(item, "revoked_at"),
        replaced_by=read_optional_text(item, "replaced_by"),
        used_at=read_optional_seconds(item, "used_at"),
    )


def _deletion(key: ApiKey) -> dict[str, Value]:
    return {} if key.forgotten_at is None else {"expires_at": whole_seconds(key.forgotten_at)}
