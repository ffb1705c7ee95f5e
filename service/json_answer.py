"""Writes answers as JSON. Numbers that JSON cannot express, such as infinity, become null."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic_core import to_json


def json_answer(
    body: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> web.Response:
    return web.Response(body=encode(body), status=status, headers=headers, content_type=content_type)


def encode(body: Any) -> bytes:
    return to_json(body, inf_nan_mode="null")
