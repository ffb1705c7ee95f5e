"""Streams an answer in blocks, each of which is in memory only until it is written."""

from codecs import BOM_UTF8
from collections.abc import AsyncIterable, AsyncIterator, Mapping

from aiohttp import hdrs, web

from penstock.service.content import CSV
from penstock.service.json_answer import writing
from penstock.service.keys import SHARE, TURNS
from penstock.service.request_ids import request_id
from penstock.telemetry import Event, get_log

BLOCK_BYTES = 65_536  # what is streamed is encoded and written in blocks of this size
CSV_UTF_8 = f"{CSV}; charset=utf-8"

Blocks = AsyncIterator[tuple[bytes, int]]  # each with about the memory that is in use while it is written

# Set for a person who opens the file in a spreadsheet. Without a byte order mark, Excel does not read it as UTF-8.
FOR_SPREADSHEET = web.RequestKey("for_spreadsheet", bool)


async def stream(
    request: web.Request, content_type: str, blocks: Blocks, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
    await answer.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return answer
    try:
        async for block, memory_bytes in blocks:
            request[SHARE].take(memory_bytes)
            async with writing(request, len(block)):
                await answer.write(block)
            await request.app[TURNS].next()  # a write does not wait while the client reads fast
    except ConnectionResetError:
        return answer  # the client closed the connection, or does not read
    except Exception as error:  # noqa: BLE001 - any error: the middleware cannot answer it any more
        # The 200 has already been sent. Only a broken connection can show the client that something is missing.
        get_log().error(Event.REQUEST_BROKE, request_id=request_id(request), path=request.path, exc_info=error)
        if request.transport is not None:
            request.transport.abort()
        return answer
    await answer.write_eof()
    return answer


async def stream_csv(request: web.Request, blocks: Blocks, *, needs_mark: bool = False) -> web.StreamResponse:
    is_marked = needs_mark or request.get(FOR_SPREADSHEET, False)
    return await stream(request, CSV_UTF_8, _with_mark(blocks) if is_marked else blocks)


async def _with_mark(blocks: Blocks) -> Blocks:
    mark = BOM_UTF8
    async for block, memory_bytes in blocks:
        yield mark + block, memory_bytes
        mark = b""


async def in_blocks(lines: AsyncIterable[tuple[bytes, int]]) -> Blocks:
    """Join lines, each with the memory that is in use besides it, to blocks."""
    block: list[bytes] = []
    size = memory_bytes = 0
    async for line, memory_bytes in lines:
        block.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield b"".join(block), memory_bytes + size
            block, size = [], 0
    if block:
        yield b"".join(block), memory_bytes + size
