"""The application of a run: operations with nearly empty handlers, so that the cost of Penstock is measured."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from bench.counting import note_end
from penstock import Operations, Reject

WAIT_SECONDS = 0.005
SLOW_SECONDS = 0.5
RESULT_BYTES = 200
FAILING_DOMAIN = "fail.invalid"

operations = Operations()


class Order(BaseModel):
    order_id: str
    email: str
    name: str
    country: str
    price: float
    quantity: int
    note: str


def check(order: Order) -> Order:
    """Return the order, or reject it if its address was made to fail."""
    if order.email.endswith(FAILING_DOMAIN):
        raise Reject(422, "The mail domain does not exist.")
    return order


@operations.post("/noop")
async def do_nothing(order: Order) -> Order:
    return check(order)


@operations.post("/wait")
async def wait(order: Order) -> Order:
    await asyncio.sleep(WAIT_SECONDS)
    return check(order)


@operations.post("/slow")
async def wait_long(order: Order) -> Order:
    try:
        await asyncio.sleep(SLOW_SECONDS)
        return check(order)
    finally:
        note_end()


@operations.post("/tiny")
async def return_nothing(order: Order) -> None:
    check(order)


@operations.post("/order", status=201)
async def place_order(order: Order) -> dict[str, Any]:
    """Return a result of 200 bytes, partly different for each operation, as real results are."""
    check(order)
    result = {
        "reference": hashlib.sha256(order.order_id.encode()).hexdigest()[:24],
        "email": order.email,
        "total": round(order.price * order.quantity, 2),
        "message": "",
    }
    words = f"Thank you, {order.name}. You asked: {order.note}".encode()
    room = RESULT_BYTES - len(to_json(result))
    return {**result, "message": words[:room].decode(errors="ignore")}


HANDLERS: dict[str, Callable[[Order], Awaitable[Any]]] = {"/noop": do_nothing, "/wait": wait}
