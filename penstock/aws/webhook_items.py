"""What the items of webhooks look like in the table. Pure.

item            pk                     sk
endpoints       webhooks#<tenant>      endpoints      all of a tenant
marks           webhooks               marks          of the tenants that may have endpoints
delivery        deliveries#<tenant>    <event id>.<endpoint id>

A delivery that is pending is in the index `due`, in the partition `webhook`, and so is a batch with events that wait.
A consumer of an earlier version does not read this partition.
"""

from collections.abc import Iterable
from urllib.parse import quote, unquote

from pydantic_core import from_json, to_json

from penstock.aws.attributes import (
    Item,
    Value,
    binary,
    number,
    read_binary,
    read_count,
    read_enum,
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
from penstock.webhooks.delivery import DeliveryKey, DeliveryState, EventDelivery
from penstock.webhooks.endpoint import Endpoint, Endpoints
from penstock.webhooks.event import FinalEvent

DUE = "webhook"  # the partition of the index `due`
DELIVERIES_BEGIN = "evt_"
DELIVERIES_END = "evt`"  # "`" comes right after "_"
_DELIVERIES = "deliveries#"


def endpoints_key(tenant: str) -> dict[str, Value]:
    return {"pk": text(f"webhooks#{quote(tenant, safe='')}"), "sk": text("endpoints")}


def endpoints_to_item(endpoints: Endpoints, revision: str) -> dict[str, Value]:
    return {
        **endpoints_key(endpoints.tenant),
        "revision": text(revision),
        "endpoints": binary(to_json([endpoint.encode() for endpoint in endpoints.all])),
    }


def endpoints_from_item(tenant: str, item: Item | None) -> Endpoints:
    """Decode the endpoints of a tenant, of which the table may have no item yet."""
    if not item:
        return Endpoints(tenant)
    stored = from_json(read_binary(item, "endpoints"))
    return Endpoints(tenant, tuple(map(Endpoint.decode, stored)), read_text(item, "revision"))


def marks_key() -> dict[str, Value]:
    return {"pk": text("webhooks"), "sk": text("marks")}


def marks_from_item(item: Item | None) -> frozenset[str]:
    return read_texts(item or {}, "marks")


def events_value(events: Iterable[FinalEvent]) -> Value:
    return texts(event.encode() for event in events)


def events_from_item(item: Item) -> tuple[FinalEvent, ...]:
    return tuple(map(FinalEvent.decode, sorted(read_texts(item, "events"))))


def deliveries_pk(tenant: str) -> str:
    return f"{_DELIVERIES}{quote(tenant, safe='')}"


def delivery_key(key: DeliveryKey) -> dict[str, Value]:
    return {"pk": text(deliveries_pk(key.tenant)), "sk": text(key.id)}


def due_from_item(item: Item) -> str | DeliveryKey:
    """Return the batch id or the delivery that an entry of the index names."""
    pk = read_text(item, "pk")
    if not pk.startswith(_DELIVERIES):
        return pk.split("#")[1]
    return DeliveryKey(unquote(pk.removeprefix(_DELIVERIES)), read_text(item, "sk"))


def delivery_to_item(delivery: EventDelivery) -> dict[str, Value]:
    """Encode a new delivery, which is due."""
    assert delivery.due_at is not None
    return {
        **delivery_key(DeliveryKey(delivery.tenant, delivery.id)),
        "type": text(delivery.type),
        "body": binary(delivery.body),
        "created_at": seconds(delivery.created_at),
        "expires_at": whole_seconds(delivery.expires_at),
        "state": text(delivery.state),
        "open": text(DUE),
        "due_at": seconds(delivery.due_at),
        "attempt": number(delivery.attempt),
        **({} if delivery.batch_id is None else {"batch_id": text(delivery.batch_id)}),
        **({} if delivery.url is None else {"url": text(delivery.url)}),
    }


def delivery_from_item(item: Item) -> EventDelivery:
    event_id, endpoint_id = read_text(item, "sk").rsplit(".", 1)
    return EventDelivery(
        tenant=unquote(read_text(item, "pk").removeprefix(_DELIVERIES)),
        event_id=event_id,
        endpoint_id=endpoint_id,
        type=read_text(item, "type"),
        body=read_binary(item, "body"),
        created_at=read_seconds(item, "created_at"),
        expires_at=read_seconds(item, "expires_at"),
        batch_id=read_optional_text(item, "batch_id"),
        url=read_optional_text(item, "url"),
        state=read_enum(item, "state", DeliveryState),
        due_at=read_optional_seconds(item, "due_at"),
        attempt=read_number(item, "attempt"),
        replayed_after=read_count(item, "replayed_after"),
        claim=read_optional_text(item, "claim"),
        attempted_at=read_optional_seconds(item, "attempted_at"),
        status=read_number(item, "answered") if "answered" in item else None,
        error=read_optional_text(item, "error"),
        response=read_optional_text(item, "response") or "",
    )


def results_of(delivery: EventDelivery) -> dict[str, Value]:
    """Return the attributes that an attempt changes. Those that are missing must be removed from the item."""
    return {
        "state": text(delivery.state),
        "expires_at": whole_seconds(delivery.expires_at),
        **({} if delivery.due_at is None else {"due_at": seconds(delivery.due_at), "open": text(DUE)}),
        **({} if delivery.attempted_at is None else {"attempted_at": seconds(delivery.attempted_at)}),
        **({} if delivery.status is None else {"answered": number(delivery.status)}),
        **({} if delivery.error is None else {"error": text(delivery.error)}),
        **({"response": text(delivery.response)} if delivery.response else {}),
    }


RESULTS = ("state", "due_at", "open", "attempted_at", "answered", "error", "response")
