"""The client for scripts and notebooks. It runs the asynchronous client on a loop in a thread of its own."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from penstock.client.async_client import LOG, AsyncClient
from penstock.client.background_loop import BackgroundLoop
from penstock.client.closing import Closing
from penstock.client.content import Content, Operation, check_kind, content_of_file, content_of_operations
from penstock.client.options import Seconds, Time
from penstock.client.patience import Patience
from penstock.client.spool import Spool
from penstock.client.status import Status, Validation
from penstock.client.sync_batch import Batch
from penstock.client.transport import Answer, Tell


class Client(Closing):
    """A client of a Penstock server. Use it with `with`, or call `close` when you have finished.

    `api_key` is sent as `Authorization: Bearer`. `patience` says how long requests are repeated. `tell` gets a sentence
    each time that a request has to wait; without it, the sentence goes to the logger `penstock.client`.
    """

    def __init__(
        self, url: str, api_key: str | None = None, *, patience: Patience | None = None, tell: Tell = LOG.info
    ) -> None:
        self._client = AsyncClient(url, api_key, patience=patience, tell=tell)
        self._loop = BackgroundLoop(partial(self._client.__aexit__, None, None, None))
        self._loop.run(self._client.__aenter__())

    def close(self) -> None:
        """Close all connections. Afterwards the client and its batches cannot be used. It may be called again."""
        self._loop.close()

    def submit(
        self,
        operations: Iterable[Operation] | str | Path,
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
    ) -> Batch:
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
        with Spool() as spool:
            submitting = self._client.submit(
                operations if upload else _content(operations, spool),
                method=method,
                path=path,
                delimiter=delimiter,
                charset=charset,
                columns=columns,
                key=key,
                invalid_rows=invalid_rows,
                title=title,
                metadata=metadata,
                priority=priority,
                not_before=not_before,
                deadline=deadline,
                max_failures=max_failures,
                max_failed_percent=max_failed_percent,
                callback_url=callback_url,
                atomic=atomic,
                wait=wait,
                upload=upload,
                idempotency_key=idempotency_key,
            )
            return Batch(self._loop.run(submitting), self._loop)

    def validate(
        self,
        operations: Iterable[Operation] | str | Path,
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
            validating = self._client.validate(
                _content(operations, spool),
                method=method,
                path=path,
                delimiter=delimiter,
                charset=charset,
                columns=columns,
                key=key,
                invalid_rows=invalid_rows,
            )
            return self._loop.run(validating)

    def upload(self, file: str | Path) -> str:
        """Send a file to the bucket of the server, and return the id of the upload. `submit(upload=True)` uses it."""
        return self._loop.run(self._client.upload(file))

    def batch(self, batch_id: str) -> Batch:
        """Return the batch with this id. Nothing is read yet, so it need not exist.

        Raises ValueError if no batch can have this id.
        """
        return Batch(self._client.batch(batch_id), self._loop)

    def batches(
        self,
        *,
        status: str | None = None,
        priority: str | None = None,
        metadata: Mapping[str, str] | None = None,
        created_after: Time | None = None,
        created_before: Time | None = None,
        tenant: str | None = None,
    ) -> Iterator[Status]:
        """Yield the statuses of the batches that match, the newest first. They are read page by page.

        `tenant` is for operators: another tenant, or "*" for all.
        """
        return self._loop.iterate(
            self._client.batches(
                status=status,
                priority=priority,
                metadata=metadata,
                created_after=created_after,
                created_before=created_before,
                tenant=tenant,
            )
        )

    def ask(
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
        return self._loop.run(self._client.ask(method, path, query=query, json=json, is_idempotent=is_idempotent))


def _content(operations: Iterable[Operation] | str | Path, spool: Spool) -> Content:
    """Read the operations in the thread of the caller: a cursor of a database may not be used in another one."""
    check_kind(operations)
    if isinstance(operations, str | Path):
        return content_of_file(Path(operations), spool)
    return content_of_operations(operations, spool)
