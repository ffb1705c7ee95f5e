"""The client for asyncio programs."""

import json
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from penstock.batch_id import check_batch_id
from penstock.client.async_batch import AsyncBatch
from penstock.client.content import (
    Content,
    Submitted,
    check_kind,
    content_of_file,
    content_of_operations,
    content_of_stream,
    upload_type,
)
from penstock.client.errors import ClientError
from penstock.client.options import Seconds, Time, batch_query, time_text
from penstock.client.outcome import Outcome
from penstock.client.patience import Patience, Repeat
from penstock.client.spool import Spool
from penstock.client.status import Status, Validation, read_status
from penstock.client.transport import CSV, SUBMIT_TIMEOUT, Answer, Call, Tell, Transport
from penstock.client.upload import UploadForm, check_size, send_form

LOG = logging.getLogger("penstock.client")
_LONGEST_KEY = 255
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class _Accepted(msgspec.Struct, rename="camel"):
    batch_id: str


class _Answered(msgspec.Struct):
    results: list[Outcome]


class _Listed(msgspec.Struct, rename="camel"):
    batches: list[dict[str, Any]]
    next_cursor: str | None = None


class AsyncClient:
    """A client of a Penstock server. Use it with `async with`.

    `api_key` is sent as `Authorization: Bearer`. `patience` says how long requests are repeated. `tell` gets a sentence
    each time that a request has to wait; without it, the sentence goes to the logger `penstock.client`.
    """

    def __init__(
        self, url: str, api_key: str | None = None, *, patience: Patience | None = None, tell: Tell = LOG.info
    ) -> None:
        self._transport = Transport(url, api_key, patience or Patience(), tell)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def submit(
        self,
        operations: Submitted | Content,
        *,
        method: str | None = None,
        path: str | None = None,
        delimiter: str | None = None,
        charset: str | None = None,
        columns: Mapping[str, str | None] | None = None,
        key: str | None = None,
        invalid_rows: Literal["reject", "fail"] = "reject",
        title: str | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: str | None = None,
        not_before: Time | None = None,
        deadline: Seconds | None = None,
        max_failures: int | None = None,
        max_failed_percent: float | None = None,
        callback_url: str | None = None,
        atomic: bool = False,
        wait: int | None = None,
        upload: bool = False,
        idempotency_key: str | None = None,
    ) -> AsyncBatch:
        """Submit operations as one batch, and return it.

        `operations` are dicts such as `{"method": "POST", "path": "/users", "body": {...}}`, or the name of a file: a
        `.csv`, `.ndjson` or `.json` file. The rows of a CSV file need a `method` and a `path`, such as `PUT` and
        `/users/{id}`: the cells that the path names fill it, and the other cells make the body. With `method` and
        `path`, `operations` may also be dicts that are rows, such as those of a `csv.DictReader`. A CSV file is UTF-8
        unless `charset` says otherwise, and its `delimiter` is found if it is not given. `columns` has new names for
        cells, or None for those to leave out. `key` is the column with the key of each operation. With
        `invalid_rows="fail"` invalid rows fail, and the others run.

        The batch runs in the background, unless it is `atomic`, or small and answered within `wait` seconds. `title` is
        the metadata of that name. `deadline` is a timedelta or a number of seconds. With `upload=True` a CSV or NDJSON
        file goes to the bucket of the server first, past its load balancer.

        The request has an `Idempotency-Key`, so it is sent again if its answer is lost, and the batch runs once. Pass
        your own key to do the same over restarts of your program. Raises InvalidBatch, whose `errors` say what to
        correct, or another ClientError.
        """
        options = batch_query(
            title=title,
            metadata=metadata,
            priority=priority,
            not_before=not_before,
            deadline=deadline,
            max_failures=max_failures,
            max_failed_percent=max_failed_percent,
            callback_url=callback_url,
            atomic=atomic,
        )
        with Spool() as spool:
            content = _uploaded(operations) if upload else await _content(operations, spool)
            rows = row_query(
                content,
                method=method,
                path=path,
                delimiter=delimiter,
                charset=charset,
                columns=columns,
                key=key,
                invalid_rows=invalid_rows,
            )
            query = {**content.query, **options, **rows}
            if upload:
                query["upload"] = await self.upload(_as_file(operations))
            return await self.post(content, query, wait=wait, idempotency_key=idempotency_key)

    async def post(
        self, content: Content, query: Mapping[str, str], *, wait: int | None = None, idempotency_key: str | None = None
    ) -> AsyncBatch:
        """Submit a content that is ready to be sent. `submit` is easier to use."""
        headers = {
            **content.headers,
            "Idempotency-Key": _quoted(str(uuid.uuid4()) if idempotency_key is None else idempotency_key),
            "Prefer": "respond-async" if wait is None else f"wait={wait}",
        }
        call = Call("POST", "batch", query, headers, body=content.body, timeout=SUBMIT_TIMEOUT)
        return self._batch_of(await self._transport.ask(call))

    async def validate(
        self,
        operations: Submitted | Content,
        *,
        method: str | None = None,
        path: str | None = None,
        delimiter: str | None = None,
        charset: str | None = None,
        columns: Mapping[str, str | None] | None = None,
        key: str | None = None,
        invalid_rows: Literal["reject", "fail"] = "reject",
    ) -> Validation:
        """Check operations as `submit` does, but run nothing. Return what the batch would be. Raises InvalidBatch."""
        with Spool() as spool:
            content = await _content(operations, spool)
            rows = row_query(
                content,
                method=method,
                path=path,
                delimiter=delimiter,
                charset=charset,
                columns=columns,
                key=key,
                invalid_rows=invalid_rows,
            )
            return await self.check(content, {**content.query, **rows})

    async def check(self, content: Content, query: Mapping[str, str]) -> Validation:
        """Check a content that is ready to be sent. `validate` is easier to use."""
        call = Call(
            "POST",
            "batch",
            {**query, "validateOnly": "true"},
            {**content.headers, "Prefer": "respond-async"},
            body=content.body,
            timeout=SUBMIT_TIMEOUT,
        )
        return (await self._transport.ask(call)).read(Validation)

    async def upload(self, file: str | Path) -> str:
        """Send a file to the bucket of the server, and return the id of the upload. `submit(upload=True)` uses it."""
        form = (await self._transport.ask(Call("POST", "uploads"))).read(UploadForm)
        check_size(Path(file), form.max_bytes)
        retrying = self._transport.retrying()
        while True:
            try:
                await send_form(form, Path(file))
                return form.upload_id
            except ClientError as error:
                await retrying.after(error)

    def _batch_of(self, answer: Answer) -> AsyncBatch:
        if answer.status == 200:
            return AsyncBatch(self._transport, "", answer.read(_Answered).results)
        return AsyncBatch(self._transport, answer.read(_Accepted).batch_id)

    def batch(self, batch_id: str) -> AsyncBatch:
        """Return the batch with this id. Nothing is read yet, so it need not exist.

        Raises ValueError if no batch can have this id.
        """
        return AsyncBatch(self._transport, check_batch_id(batch_id))

    async def batches(
        self,
        *,
        status: str | None = None,
        priority: str | None = None,
        metadata: Mapping[str, str] | None = None,
        created_after: Time | None = None,
        created_before: Time | None = None,
        tenant: str | None = None,
    ) -> AsyncGenerator[Status]:
        """Yield the statuses of the batches that match, the newest first. They are read page by page.

        `tenant` is for operators: another tenant, or "*" for all.
        """
        wanted = {
            "status": status,
            "priority": priority,
            "createdAfter": None if created_after is None else time_text(created_after),
            "createdBefore": None if created_before is None else time_text(created_before),
            "tenant": tenant,
            **{f"metadata.{name}": value for name, value in (metadata or {}).items()},
        }
        query = {name: value for name, value in wanted.items() if value is not None}
        while True:
            page = (await self.ask("GET", "batches", query=query)).read(_Listed)
            for document in page.batches:
                yield read_status(document)
            if page.next_cursor is None:
                return
            query["cursor"] = page.next_cursor

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        is_idempotent: bool = False,
    ) -> Answer:
        """Call the API directly, for what has no method here. Raises ClientError.

        If the answer to a POST or PATCH is lost, that is an error, because the server may have acted on it. With
        `is_idempotent=True` it is sent again, as the other methods are.
        """
        repeat = Repeat.ALWAYS if is_idempotent or method.upper() in _IDEMPOTENT else Repeat.IF_NOT_DONE
        return await self._transport.ask(Call(method, path, query or {}, json=json, repeat=repeat))


def row_query(
    content: Content,
    *,
    method: str | None,
    path: str | None,
    delimiter: str | None,
    charset: str | None,
    columns: Mapping[str, str | None] | None,
    key: str | None,
    invalid_rows: str = "reject",
) -> dict[str, str]:
    """Return the query that says what operation each row is. Raises ValueError if the method or the path is missing."""
    given = {
        "method": method and method.upper(),
        "path": path,
        "delimiter": delimiter,
        "charset": charset,
        "columns": json.dumps(columns) if columns else None,
        "key": key,
        "invalidRows": None if invalid_rows == "reject" else invalid_rows,
    }
    if (any(given.values()) or content.media_type == CSV) and not (method and path):
        raise ValueError("Rows need a method and a path, such as method='PUT', path='/users/{id}'.")
    return {name: value for name, value in given.items() if value}


def _as_file(operations: Submitted | Content) -> Path:
    """Return the path of what is uploaded. Raises TypeError if it is no file."""
    if not isinstance(operations, str | Path):
        raise TypeError("Only files can be uploaded. Pass the path of a .csv or .ndjson file.")
    return Path(operations)


def _uploaded(operations: Submitted | Content) -> Content:
    """Return the content of a request whose operations are in an upload."""
    return Content(upload_type(_as_file(operations)), None)


def _quoted(key: str) -> str:
    """Return a key as the header wants it. Raises ValueError if the header cannot carry it."""
    if not (1 <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise ValueError(f"idempotency_key is {key!r}. Use 1 to {_LONGEST_KEY} printable ASCII characters.")
    return '"' + key.replace("\\", r"\\").replace('"', r"\"") + '"'


async def _content(operations: Submitted | Content, spool: Spool) -> Content:
    check_kind(operations)
    if isinstance(operations, Content):
        return operations
    if isinstance(operations, str | Path):
        return content_of_file(Path(operations), spool)
    if isinstance(operations, AsyncIterable):
        return await content_of_stream(operations, spool)
    return content_of_operations(operations, spool)
