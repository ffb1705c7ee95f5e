"""The application of a run: three operations with nearly empty handlers, so that the cost of Penstock is measured."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from penstock import Operations

WAIT_SECONDS = 0.005
RESULT_BYTES = 200

operations = Operations()


class Order(BaseModel):
    order_id: str
    email: str
    name: str
    country: str
    price: float
    quantity: int
    note: str


@operations.post("/noop")
async def do_nothing(order: Order) -> None:  # noqa: ARG001 - the parameter makes Penstock validate the body
    return


@operations.post("/wait")
async def wait(order: Order) -> None:  # noqa: ARG001 - the parameter makes Penstock validate the body
    await asyncio.sleep(WAIT_SECONDS)


@operations.post("/order", status=201)
async def place_order(order: Order) -> dict[str, Any]:
    """Return a result of 200 bytes, partly different for each operation, as real results are."""
    result = {
        "reference": hashlib.sha256(order.order_id.encode()).hexdigest()[:24],
        "email": order.email,
        "total": round(order.price * order.quantity, 2),
        "message": "",
    }
    words = f"Thank you, {order.name}. You asked: {order.note}".encode()
    room = RESULT_BYTES - len(to_json(result))
    return {**result, "message": words[:room].decode(errors="ignore")}


HANDLERS: dict[str, Callable[[Order], Awaitable[Any]]] = {"noop": do_nothing, "wait": wait, "order": place_order}
