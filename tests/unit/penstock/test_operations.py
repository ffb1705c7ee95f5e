"""The registry: which handler an operation finds, and which applications are refused."""

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from penstock import Context, Operations, Reject, Retry, Throttled
from penstock.application import load_application
from penstock.context import LONGEST_WAIT_SECONDS
from penstock.errors import Flaw, Misconfigured
from penstock.route import InvalidOperation


async def first() -> None: ...
async def second() -> None: ...
async def by_id(id: str) -> None: ...  # noqa: A002 - what applications write
async def by_name(name: str) -> None: ...


# --- Finding the handler


def test_exact_path_goes_before_one_with_parameters_whatever_comes_first() -> None:
    operations = Operations()
    operations.get("/users/{id}")(by_id)
    operations.get("/users/me")(first)
    assert operations.match("GET", "/users/me").handler is first
    assert operations.match("GET", "/users/you").handler is by_id


def test_of_two_paths_with_parameters_the_first_registered_is_taken() -> None:
    async def by_kind(kind: str, id: str) -> None: ...  # noqa: A002

    operations = Operations()
    operations.get("/users/{id}")(by_id)
    operations.get("/{kind}/{id}")(by_kind)
    assert operations.match("GET", "/users/7").handler is by_id
    assert operations.match("GET", "/teams/7").handler is by_kind


def test_rest_of_a_path_is_matched_after_single_segments() -> None:
    async def rest(id: str) -> None: ...  # noqa: A002

    operations = Operations()
    operations.get("/users/{id:path}")(rest)
    operations.get("/users/{id}")(by_id)
    operations.get("/users/me")(first)
    assert operations.match("GET", "/users/me").handler is first
    assert operations.match("GET", "/users/7").handler is by_id
    assert operations.match("GET", "/users/7/8").handler is rest
    assert operations.match("GET", "/users/7/").handler is rest


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_each_method_has_its_own_handler(method: str) -> None:
    operations = Operations()
    for handler, register in [(first, operations.put), (second, getattr(operations, method.lower()))]:
        register(f"/{handler.__name__}")(handler)
    assert operations.match(method, "/second").handler is second
    assert operations.match("PUT", "/first").handler is first


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/users"),  # another method
        ("GET", "/user"),
        ("GET", "/users/"),
        ("GET", "/users/7"),
        ("GET", "/users?page=1"),
        ("GET", ""),
        ("get", "/users"),
        ("DELETE", "/teams/"),  # a parameter is not empty
        ("DELETE", "/teams/7/8"),  # and has no slash
        ("OPTIONS", "/users"),
    ],
)
def test_operation_that_nothing_handles_is_told_what_is_offered(method: str, path: str) -> None:
    operations = Operations()
    operations.get("/users")(first)
    operations.delete("/teams/{id}")(by_id)
    with pytest.raises(InvalidOperation) as refused:
        operations.match(method, path)
    (flaw,) = refused.value.flaws
    assert flaw.pointer == "/path"
    assert (
        flaw.detail == f"There is no operation {method} {path}. Available operations: DELETE /teams/{{id}}, GET /users."
    )


def test_long_list_of_what_is_offered_is_cut() -> None:
    operations = Operations()
    for number in range(100):
        operations.get(f"/{number:03}")(first)
    with pytest.raises(InvalidOperation, match=r"GET /019, \.\.\.\.$"):
        operations.match("GET", "/x")


# --- Registering


def test_decorator_gives_the_handler_back_as_it_was() -> None:
    assert Operations().get("/x")(first) is first


def test_one_handler_may_serve_several_paths() -> None:
    operations = Operations()
    operations.get("/a")(first)
    operations.post("/a", status=201)(first)
    operations.get("/b")(first)
    assert [route.name for route in operations.routes] == ["GET /a", "POST /a", "GET /b"]
    assert operations.match("POST", "/a").policy.status == 201


@pytest.mark.parametrize(
    ("known", "twin"),
    [
        ("/users", "/users"),
        ("/users/{id}", "/users/{id}"),
        ("/users/{id}", "/users/{name}"),
        ("/users/{id:path}", "/users/{name:path}"),
    ],
)
def test_second_handler_for_the_same_operations_is_refused(known: str, twin: str) -> None:
    async def either(id: str = "", name: str = "") -> None: ...  # noqa: A002

    handlers: dict[str, Any] = {
        "/users": first,
        "/users/{id}": by_id,
        "/users/{name}": by_name,
        "/users/{id:path}": by_id,
        "/users/{name:path}": by_name,
    }
    operations = Operations()
    operations.get(known)(handlers[known])
    with pytest.raises(
        Misconfigured,
        match=r"^GET /users.* is registered twice: GET /users.* already has a handler\. Register it once\.$",
    ):
        operations.get(twin)(handlers[twin])
    operations.put(twin)(handlers[twin])


def test_decorator_without_its_parentheses_is_refused() -> None:
    register: Any = Operations().post
    with pytest.raises(
        Misconfigured, match=r"^The decorator has no path\. Write @operations\.post\(path\), with parentheses\.$"
    ):
        register(first)


def test_application_without_begin_nested_is_told_to_name_its_savepoint() -> None:
    with pytest.raises(Misconfigured, match=r"yields a dict.*Operations\(transaction=\.\.\., savepoint=\.\.\.\)"):
        Operations().savepoint({})


# --- What handlers may raise


@pytest.mark.parametrize("status", [0, 200, 399, 600, -400])
def test_reject_takes_the_status_of_an_error(status: int) -> None:
    with pytest.raises(ValueError, match=f"is {status}. Use a status from 400 to 599"):
        Reject(status, "no")
    assert (Reject(400, "no").status, Reject(599, "no").status) == (400, 599)


@pytest.mark.parametrize("seconds", [-1, -0.001, LONGEST_WAIT_SECONDS + 1, float("inf"), float("nan")])
def test_retry_takes_a_wait_that_can_be_waited(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"after_seconds .* Use a number from 0 to 2,592,000"):
        Retry(after_seconds=seconds)
    assert Retry(after_seconds=0).after_seconds == 0
    assert Retry().after_seconds is None


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_throttled_takes_a_wait_that_can_be_waited(seconds: float) -> None:
    with pytest.raises(ValueError, match=rf"The after_seconds of a Throttled is {seconds}\. Use 0 or more"):
        Throttled(after_seconds=seconds)


@pytest.mark.parametrize(("asked", "seconds"), [(None, None), (0, 0), (7.5, 7.5), (86_400, 3_600), (math.inf, 3_600)])
def test_throttled_waits_for_an_hour_at_most(asked: float | None, seconds: float | None) -> None:
    assert Throttled(after_seconds=asked).after_seconds == seconds


# --- Loading the application


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules in it can be imported, and are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(folder: Path, module: str, source: str) -> None:
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(source))


def test_application_is_loaded_by_its_name(folder: Path) -> None:
    write(
        folder,
        "shop.bulk",
        """
        from penstock import Operations

        operations = Operations()

        @operations.get("/ping")
        async def ping() -> str:
            return "pong"
        """,
    )
    assert load_application("shop.bulk:operations").match("GET", "/ping").name == "GET /ping"


def test_annotations_may_be_strings_as_in_modules_of_the_future(folder: Path) -> None:
    write(
        folder,
        "future",
        """
        from __future__ import annotations

        from pydantic import BaseModel
        from penstock import Context, Operations

        class User(BaseModel):
            name: str

        operations = Operations()

        @operations.put("/users/{id}")
        async def put(id: int, user: User, context: Context[User]) -> User:
            return user
        """,
    )
    route = load_application("future:operations").match("PUT", "/users/7")
    arguments = route.arguments("/users/7", {"name": "Ann"})
    assert (arguments["id"], arguments["user"].name) == (7, "Ann")
    assert route.signature.context_parameter == "context"


def test_type_that_only_the_type_checker_sees_is_told(folder: Path) -> None:
    write(
        folder,
        "future",
        """
        from __future__ import annotations

        from typing import TYPE_CHECKING
        from penstock import Operations

        if TYPE_CHECKING:
            from elsewhere import User

        operations = Operations()

        @operations.post("/users")
        async def create(user: User) -> None: ...
        """,
    )
    with pytest.raises(Misconfigured, match=r"POST /users.*cannot be resolved: name 'User' is not defined"):
        load_application("future:operations")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "Name it as MODULE:ATTRIBUTE"),
        ("shop", "The application 'shop' is invalid. Name it as MODULE:ATTRIBUTE"),
        (":operations", "Name it as MODULE:ATTRIBUTE"),
        ("shop:", "Name it as MODULE:ATTRIBUTE"),
        (".shop:operations", "Name it as MODULE:ATTRIBUTE"),
        ("..:operations", "Name it as MODULE:ATTRIBUTE"),
        ("nowhere:operations", "There is no module 'nowhere'"),
        ("shop.nowhere:operations", "There is no module 'shop.nowhere'"),
        ("shop py:operations", "There is no module 'shop py'"),
        ("shop.py:operations", "There is no module 'shop.py'"),
        ("shop:nothing", "'shop' has no 'nothing'. Use shop:operations."),
        ("shop:a:b", "'shop' has no 'a:b'"),
        ("shop:number", "'number' of 'shop' is of type int. Use shop:operations."),
        ("shop:Operations", "'Operations' of 'shop' is of type type"),
        ("bare:operations", "'bare' has no 'operations'. Name an Operations()."),
        ("shop:operations", "The application 'shop:operations' has no handler. Register one"),
    ],
)
def test_name_that_leads_to_no_application_is_refused(folder: Path, name: str, why: str) -> None:
    write(folder, "shop", "from penstock import Operations\noperations = Operations()\nnumber = 5\n")
    write(folder, "bare", "number = 5\n")
    with pytest.raises(Misconfigured, match=re.escape(why)):
        load_application(name)


@pytest.mark.parametrize("missing", ["nowhere", "sho", "shop_extra", "shop.bulk.nowhere"])
def test_what_the_application_cannot_import_is_not_taken_for_the_application(folder: Path, missing: str) -> None:
    write(folder, "shop.bulk", f"import {missing}\n")
    with pytest.raises(ModuleNotFoundError) as raised:
        load_application("shop.bulk:operations")
    assert raised.value.name == missing


def test_fault_in_the_application_is_shown_as_it_is(folder: Path) -> None:
    write(folder, "shop", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_application("shop:operations")


def test_context_can_be_typed_by_its_transaction() -> None:
    context: Context[int] = Context("0", "b", 1, "b/0", 5)
    assert context.transaction == 5


@pytest.mark.parametrize(
    ("path", "plain", "handler"),
    [
        ("/%75sers/1", "/users/1", "GET /users/{user_id}"),
        ("/users%2F1", "/users/1", "GET /users/{user_id}"),
        ("/users/%6De", "/users/me", "GET /users/me"),
        ("/users/%40all", "/users/@all", "GET /users/@all"),
        ("/files/%73ecret", "/files/secret", "GET /files/secret"),
    ],
)
def test_path_that_is_written_differently_bypasses_no_handler(path: str, plain: str, handler: str) -> None:
    operations = Operations()

    async def show(user_id: str) -> None: ...

    async def me() -> None: ...

    async def file(rest: str) -> None: ...

    operations.get("/users/{user_id}")(show)
    operations.get("/files/{rest:path}")(file)
    for fixed in ("/users/me", "/users/@all", "/files/secret"):
        operations.get(fixed)(me)
    with pytest.raises(InvalidOperation) as caught:
        operations.match("GET", path)
    detail = f"Write the path as {plain}: {handler} has a handler, which accepts no query."
    assert caught.value.flaws == [Flaw("/path", detail)]
    for usual in ("/users/J%C3%B6rg", "/users/100%25", "/users/%6Dy", "/files/a%2Fb"):
        assert operations.match("GET", usual).has_parameters


def test_encoded_dots_in_a_parameter_reach_its_handler_no_more_than_plain_ones() -> None:
    operations = Operations()

    async def show(user_id: str) -> None: ...

    operations.get("/users/{user_id}")(show)
    for path in ("/users/%2e%2e", "/users/..", "/users/%2E."):
        with pytest.raises(InvalidOperation, match=r"Remove \. and \.\. segments"):
            operations.match("GET", path).arguments(path, None)
