"""`"validateOnly": true`: a batch goes the way of every batch up to its charge. Then it is described, and forgotten.

Nothing is charged or written. So the Idempotency-Key of such a request is not remembered.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from penstock.cost import estimate_usd
from penstock.service.intake.draft import Draft
from penstock.service.keys import HANDLER_TIMES, SETTINGS
from penstock.service.limits.charging import check_charge
from penstock.service.limits.opening import check_room


async def describe_batch(request: web.Request, draft: Draft, *, is_immediate: bool, is_atomic: bool) -> dict[str, Any]:
    """Return what the batch would be. Raise what would be raised if it was run or accepted now."""
    if not is_atomic:
        await check_room(request, draft.total, is_started=True)
    await check_charge(request, draft.total)
    if not is_immediate:
        await draft.finish_plan()
    by_handler = draft.count_by_handler()
    known = await request.app[HANDLER_TIMES].read(by_handler)
    return {
        "valid": True,
        "total": draft.total,
        "chunks": draft.plan.chunk_count,
        "byHandler": by_handler,
        **({"invalidRows": draft.invalid_accepted} if draft.accepts_invalid else {}),
        "estimatedSeconds": _estimate_seconds(by_handler, known, request.app[SETTINGS].concurrency),
        "estimatedUsd": estimate_usd(draft.total, draft.plan.message_bytes),
    }


def _estimate_seconds(by_handler: Counter[str], known: Mapping[str, float], concurrency: int) -> float | None:
    """Return the time that one consumer needs, or None if one of the handlers has not been measured yet."""
    if not known.keys() >= by_handler.keys():
        return None
    seconds = sum(count * known[name] for name, count in by_handler.items())
    return round(seconds / concurrency, 3)
