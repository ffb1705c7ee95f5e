"""How the commands reach the server: its URL, the key that they send, and what an error tells the user to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from penstock.cli.api_key import read_client_key
from penstock.cli.terminal import one_line, print_error
from penstock.client import (
    AnswerLost,
    Client,
    ClientError,
    InvalidBatch,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Patience,
    Problem,
    ServerUnreachable,
    Unavailable,
)
from penstock.client.errors import NO_TYPE
from penstock.client.transport import read_url
from penstock.errors import PenstockError

DEFAULT_URL = "http://127.0.0.1:8080"
_PATIENCE = Patience(seconds=20, quota_seconds=60)  # somebody waits for the command
_LISTED = 10
_UNKNOWN_KEY = "urn:penstock:problem:unknown-key"


def _url(text: str) -> str:
    try:
        return str(read_url(text)).rstrip("/")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Url = Annotated[str, typer.Option(envvar="PENSTOCK_URL", parser=_url, metavar="URL", help="The URL of Penstock.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


class CallFailed(PenstockError):
    """The server did not answer as it should. The message says what to do."""


@contextmanager
def connected(url: str, *, for_operators: bool = False, if_unknown: str = "") -> Iterator[Client]:
    """Return a client of the server. What it raises becomes CallFailed, with what to do.

    `if_unknown` says what to do if it is not known whether the server has acted on the request.
    """
    try:
        with Client(url, read_client_key(), patience=_PATIENCE, tell=print_error) as client:
            yield client
    except ClientError as error:
        unknown = f"\n{if_unknown}" if if_unknown and _is_unknown(error) else ""
        raise CallFailed(explain(error, url, for_operators=for_operators) + unknown) from error


def call(
    url: str, method: str, path: str, body: Any = None, *, is_idempotent: bool = False, if_unknown: str = ""
) -> Any:
    """Call the API for operators, and return its answer. Raises CallFailed."""
    with connected(url, for_operators=True, if_unknown=if_unknown) as client:
        return client.ask(method, path, json=body, is_idempotent=is_idempotent).document


def _is_unknown(error: ClientError) -> bool:
    """Return True if the server has perhaps acted on the request, or AWS has, although it did not answer the server."""
    return isinstance(error, AnswerLost | Unavailable)


def explain(error: ClientError, url: str, *, for_operators: bool = False) -> str:
    """Return what has happened and what to do."""
    match error:
        case ServerUnreachable():
            return f"{one_line(str(error))} Start Penstock with `penstock up`, or name its URL with --url."
        case Problem():
            return f"{_sentence(error)}{_errors(error)}{_advice(error, url, for_operators=for_operators)}"
        case _:
            return one_line(str(error))


def _sentence(error: Problem) -> str:
    return f"The server answered {error.status}: {one_line(error.detail or error.title).rstrip('.')}."


def _errors(error: Problem) -> str:
    if not isinstance(error, InvalidBatch):
        return ""
    return "".join(f"\n  {one_line(one.pointer)}: {one_line(one.detail)}" for one in error.errors[:_LISTED])


def _advice(error: Problem, url: str, *, for_operators: bool) -> str:
    advice = ""
    match error:
        case NotAuthenticated():
            which = "a key with the scope operate" if for_operators else "a key that your operators gave you"
            advice = f"Set the variable PENSTOCK_API_KEY to {which}."
        case NotAllowed() if error.scope is not None:
            advice = f"Use a key with the scope {error.scope} in PENSTOCK_API_KEY."
        case NotFound() if error.type == NO_TYPE and for_operators:
            advice = "If requests need no key, use the address for operators: --url http://127.0.0.1:8081."
        case NotFound() if error.type == _UNKNOWN_KEY:
            advice = "`penstock keys list` shows all keys."
        case NotFound() if error.type != NO_TYPE:
            advice = "`penstock list` shows your batches."
        case _ if _is_something_else(error):
            for_whom = "" if for_operators else " for clients"  # the one for operators has no batches
            advice = f"Is {url} the URL of Penstock{for_whom}? Name that URL with --url."
    return advice and f"\n{advice}"


def _is_something_else(error: Problem) -> bool:
    """Return True if what has answered is perhaps not Penstock."""
    return error.type == NO_TYPE and error.status in {301, 302, 303, 307, 308, 404, 405}
