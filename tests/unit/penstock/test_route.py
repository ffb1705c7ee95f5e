"""What a handler's signature makes of a path and a body, and what is told of those that do not fit."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, field_validator, model_validator
from structlog.testing import capture_logs

from penstock.context import Context
from penstock.errors import Flaw, Misconfigured
from penstock.route import InvalidOperation, Place, Policy, Route, build_route
from penstock.telemetry import Event

T = TypeVar("T")


class NewUser(BaseModel):
    email: str
    age: int = Field(default=0, ge=0)


def route(handler: Any, path: str = "/users", method: str = "POST") -> Route:
    return build_route(handler, method, path, Policy())


def flaws(route: Route, path: str, body: Any) -> list[Flaw]:
    with pytest.raises(InvalidOperation) as refused:
        route.arguments(path, body)
    return refused.value.flaws


# --- Paths


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str, "7", "7"),
        (int, "7", 7),
        (int, "-7", -7),
        (bool, "true", True),
        (float, "1.5", 1.5),
        (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        (date, "2026-11-23", date(2026, 11, 23)),
        (Literal["red", "blue"], "red", "red"),
        (Annotated[str, Field(max_length=3)], "abc", "abc"),
        (str, "a%20b", "a b"),
        (str, "a%3Fb%23c", "a?b#c"),
        (str, "..a", "..a"),
        (str, "DOMAIN%5Cme", "DOMAIN\\me"),
        (str, "%E4%B8%96", "世"),
        (str, "%2541", "%41"),  # decoded once
        (str, "100%", "100%"),
        (str, "a+b", "a+b"),
        (str, "世", "世"),
    ],
)
def test_path_parameter_is_decoded_and_validated(annotation: Any, text: str, value: Any) -> None:
    async def show(key: annotation) -> None: ...

    assert route(show, "/users/{key}", "GET").arguments(f"/users/{text}", None) == {"key": value}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a%2Fb", "single segment"),  # decoded after the path was matched
        ("a%2fb", "single segment"),
        ("..%2F..%2Fetc%2Fpasswd", "Remove . and .."),
        ("..", "Remove . and .."),
        ("%2e%2E", "Remove . and .."),
        (".", "Remove . and .."),
        ("..%5C..%5Cwindows", "Remove . and .."),
        ("a%00.txt", "control characters"),
        ("a%0D%0AHost:%20evil", "control characters"),
        ("a\0", "control characters"),
        ("a\n", "control characters"),
        ("a%7F", "control characters"),
        ("a%C2%85", "control characters"),  # a line break of Unicode
        ("a.txt?force=true", "Remove the query"),
        ("a.txt?", "Remove the query"),
        ("a#top", "write ? as %3F and # as %23"),
        ("%FF", "not UTF-8"),
        ("Jos%E9", "not UTF-8"),
        ("%C0%AE%C0%AE", "not UTF-8"),  # dots, too long
        ("%ED%A0%80", "not UTF-8"),  # half of a surrogate pair
    ],
)
def test_path_parameter_that_is_no_plain_segment_is_rejected(text: str, why: str) -> None:
    async def show(key: str) -> None: ...

    [flaw] = flaws(route(show, "/users/{key}", "GET"), f"/users/{text}", None)
    assert flaw.pointer == "/path"
    assert flaw.detail.startswith("key: ")
    assert why in flaw.detail


@pytest.mark.parametrize(
    ("text", "value"), [("a", "a"), ("a/b/c.txt", "a/b/c.txt"), ("a%2Fb", "a/b"), ("a//b", "a//b"), ("a/", "a/")]
)
def test_rest_of_the_path_is_one_parameter(text: str, value: str) -> None:
    async def show(kind: str, key: str) -> None: ...

    one = route(show, "/files/{kind}/{key:path}", "GET")
    assert one.pattern.match(f"/files/text/{text}")
    assert one.arguments(f"/files/text/{text}", None) == {"kind": "text", "key": value}


@pytest.mark.parametrize(
    "text",
    [
        "../x",
        "a/../../x",
        "a/%2e%2e/x",
        "a%2F..%2Fx",
        "a/..%5Cx",
        "/etc/passwd",
        "%2Fetc",
        "%5C%5Chost",
        "a/b%00",
        "a\r",
        "a/b?x=1",
        "a/%FF",
        "./a",
        "a/.",
    ],
)
def test_rest_of_the_path_that_leaves_its_place_is_rejected(text: str) -> None:
    async def show(key: str) -> None: ...

    one = route(show, "/files/{key:path}", "GET")
    assert one.pattern.match(f"/files/{text}")
    [flaw] = flaws(one, f"/files/{text}", None)
    assert flaw.pointer == "/path"


def test_path_parameter_without_annotation_is_text() -> None:
    async def show(key) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001

    assert route(show, "/users/{key}", "GET").arguments("/users/7", None) == {"key": "7"}


def test_several_path_parameters_each_find_their_own() -> None:
    async def show(order: int, user: int) -> None: ...

    arguments = route(show, "/users/{user}/orders/{order}.json", "GET").arguments("/users/1/orders/2.json", None)
    assert arguments == {"user": 1, "order": 2}


def test_every_wrong_path_parameter_is_told_together_with_the_body() -> None:
    async def change(user: int, day: date, body: NewUser) -> None: ...

    found = flaws(route(change, "/users/{user}/days/{day}", "PUT"), "/users/x/days/y", {"age": -1})
    assert [flaw.pointer for flaw in found] == ["/path", "/path", "/body/email", "/body/age"]
    assert found[0].detail == "user: Input should be a valid integer, unable to parse string as an integer."
    assert found[1].detail.startswith("day: ")
    assert all(flaw.detail.endswith(".") for flaw in found)


# --- Bodies


def test_body_becomes_the_annotated_model() -> None:
    async def create(user: NewUser, context: Context) -> None: ...

    assert route(create).arguments("/users", {"email": "a@b.example", "age": 3}) == {
        "user": NewUser(email="a@b.example", age=3)
    }


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    at: datetime
    id: UUID
    colour: Colour
    size: Size
    price: Decimal
    pair: tuple[int, int]
    kinds: set[str]


def test_strict_model_takes_what_json_can_only_say_as_text() -> None:
    async def create(body: Strict) -> None: ...

    sent = {
        "day": "2026-11-23",
        "at": "2026-11-23T10:00:00Z",
        "id": "12345678-1234-5678-1234-567812345678",
        "colour": "red",
        "size": 1,
        "price": "9.90",
        "pair": [1, 2],
        "kinds": ["a", "a"],
    }
    body = route(create).arguments("/users", sent)["body"]
    assert body == Strict(
        day=date(2026, 11, 23),
        at=datetime(2026, 11, 23, 10, tzinfo=UTC),
        id=UUID("12345678-1234-5678-1234-567812345678"),
        colour=Colour.RED,
        size=Size.SMALL,
        price=Decimal("9.90"),
        pair=(1, 2),
        kinds={"a"},
    )


def test_strict_model_stays_strict_where_json_has_the_type() -> None:
    async def create(count: StrictInt) -> None: ...

    assert flaws(route(create), "/users", "5") == [Flaw("/body", "Input should be a valid integer.")]


@pytest.mark.parametrize(
    ("annotation", "body"),
    [
        (dict[str, Any], {"a": [1]}),
        (list[int], [1, 2]),
        (int, 0),
        (str, ""),
        (bool, False),
        (int | str, "x"),
        (list[int] | dict[str, int], {"a": 1}),
        (Literal["on", "off"], "on"),
        (float, 1.5e300),
        (Any, {"a": [{"b": None}]}),
    ],
)
def test_body_may_be_any_json(annotation: Any, body: Any) -> None:
    async def put(body: annotation) -> None: ...

    assert route(put).arguments("/users", body) == {"body": body}


def test_dataclass_is_a_body_too() -> None:
    @dataclass
    class Point:
        x: int
        y: int = 0

    async def put(point: Point) -> None: ...

    assert route(put).arguments("/users", {"x": 1}) == {"point": Point(1)}
    assert flaws(route(put), "/users", {"y": "z"}) == [
        Flaw("/body/x", "Field required."),
        Flaw("/body/y", "Input should be a valid integer, unable to parse string as an integer."),
    ]


class Window(BaseModel):
    first: int
    last: int

    @field_validator("first")
    @classmethod
    def _even(cls, first: int) -> int:
        if first % 2:
            raise AssertionError("first must be even")
        return first

    @model_validator(mode="after")
    def _in_order(self) -> "Window":
        if self.first > self.last:
            raise ValueError("first comes before last.")
        return self


def test_validators_own_words_are_told_as_sentences() -> None:
    async def put(window: Window) -> None: ...

    assert flaws(route(put), "/users", {"first": 1, "last": 5}) == [Flaw("/body/first", "first must be even.")]
    assert flaws(route(put), "/users", {"first": 4, "last": 1}) == [Flaw("/body", "first comes before last.")]


class Renamed(BaseModel):
    name: str

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        data["name"] = data.pop("title")  # changes what it is given, as is often seen
        return data


def test_validator_that_changes_the_body_does_not_change_the_operation() -> None:
    async def put(body: Renamed) -> None: ...

    sent = {"title": "x"}
    for _ in range(2):  # by the front end, then by the consumer
        assert route(put).arguments("/users", sent) == {"body": Renamed.model_construct(name="x")}
    assert sent == {"title": "x"}


@pytest.mark.parametrize("annotation", [Any, dict[str, Any], list[Any] | dict[str, Any]])
def test_what_a_handler_changes_in_its_body_is_not_changed_for_the_next_attempt(annotation: Any) -> None:
    async def put(body: annotation) -> None: ...

    sent: dict[str, Any] = {"items": [{"n": 1}]}
    route(put).arguments("/users", sent)["body"]["items"][0]["n"] = 2
    assert sent == {"items": [{"n": 1}]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "x"}, "KeyError: 'title'"),
        (5, "AttributeError: 'int' object has no attribute 'pop'"),
    ],
)
def test_body_over_which_a_validator_stumbles_is_refused(body: Any, words: str) -> None:
    """The words are in the log only: they may be secret."""

    async def put(body: Renamed) -> None: ...

    with capture_logs() as logs:
        [flaw, same] = [flaws(route(put), "/users", body)[0] for _ in range(2)]
    id_ = logs[0]["error_id"]
    assert flaw == same == Flaw("/body", f"The validator failed. The log has the error under error_id {id_}.")
    assert (logs[0]["event"], logs[0]["error"], logs[0]["handler"]) == (Event.VALIDATOR_BROKE, words, "POST /users")
    assert "test_route.py:" in logs[0]["where"]
    with pytest.raises(InvalidOperation, match=f"The validator failed: {re.escape(words)}."):
        route(put).arguments("/users", body, shows_errors=True)


class Priced(BaseModel):
    price: float


class Unbounded(BaseModel):
    model_config = ConfigDict(allow_inf_nan=True)

    price: float


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "-inf", "9" * 400])
@pytest.mark.parametrize(
    ("annotation", "place"),
    [
        (float, ""),
        (float | None, ""),
        (dict[str, float], "/price"),
        (Priced, "/price"),
        (list[Priced | int], "/0/price"),
        (Annotated[float, Field(gt=-5)], ""),
    ],
)
def test_text_is_no_infinite_number(annotation: Any, place: str, number: str) -> None:
    async def put(body: annotation) -> None: ...

    body: Any = {"price": number} if "price" in place else number
    found = flaws(route(put), "/users", [body] if "/0" in place else body)
    assert found[0] == Flaw(f"/body{place}", "Input should be a finite number.")


@pytest.mark.parametrize(
    ("annotation", "body"),
    [(Unbounded, {"price": "inf"}), (Annotated[float, Field(allow_inf_nan=True)], "inf"), (float | str, "1e400")],
)
def test_infinity_is_valid_where_the_application_allows_it(annotation: Any, body: Any) -> None:
    async def put(body: annotation) -> None: ...

    assert "body" in route(put).arguments("/users", body)


@pytest.mark.parametrize("number", ["1e400", "nan"])
def test_parameter_is_a_finite_number(number: str) -> None:
    async def show(key: float) -> None: ...

    assert flaws(route(show, "/users/{key}", "GET"), f"/users/{number}", None) == [
        Flaw("/path", "key: Input should be a finite number.")
    ]


def test_parameter_over_which_a_validator_stumbles_is_refused() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    def stumble(_: str) -> str:
        raise Unspeakable

    async def show(key: Annotated[str, BeforeValidator(stumble)]) -> None: ...

    with capture_logs() as logs:
        [flaw] = flaws(route(show, "/users/{key}", "GET"), "/users/7", None)
    assert flaw.detail.startswith("key: The validator failed. The log has the error under error_id ")
    assert logs[0]["error"] == "Unspeakable"


def test_missing_body_is_told_where_one_is_needed() -> None:
    async def create(user: NewUser) -> None: ...

    assert flaws(route(create), "/users", None) == [Flaw("/body", "POST /users needs a body.")]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int | None, None), (Any, None), (None, None), (Annotated[str, BeforeValidator(str)], "None")],
)
def test_null_is_a_body_where_the_annotation_accepts_it(annotation: Any, value: Any) -> None:
    async def put(body: annotation) -> None: ...

    assert route(put).arguments("/users", None) == {"body": value}
    assert build_route(put_many(annotation), "POST", "/x", Policy(bulk=True)).arguments("/x", None) == {"body": value}


def put_many(annotation: Any) -> Any:
    async def put(body: list[annotation]) -> None: ...

    return put


def test_missing_body_leaves_the_default() -> None:
    async def create(user: NewUser | None = None) -> None: ...

    assert route(create).arguments("/users", None) == {}
    assert route(create).arguments("/users", {"email": "a"}) == {"user": NewUser(email="a")}


@pytest.mark.parametrize(
    ("annotation", "default", "absent"),
    [
        (int | None, 5, 5),
        (int | None, None, None),
        (int, 5, None),  # null is no body, so it can stand for none
        (Any, {"a": 1}, {"a": 1}),
        (date | None, date(2026, 1, 2), "2026-01-02"),
        (int | None, object(), None),
    ],
)
def test_null_is_not_the_default_where_it_is_a_body(annotation: Any, default: Any, absent: Any) -> None:
    async def put(body: annotation = default) -> None: ...

    one = route(put)
    assert one.absent_body == absent
    if absent is None:
        assert one.arguments("/users", None) == {}
    else:
        assert one.arguments("/users", None) == {"body": None}
        assert one.arguments("/users", absent) == {"body": default}


def test_body_that_nobody_takes_is_told() -> None:
    async def delete(key: int, context: Context) -> None: ...

    deletion = route(delete, "/users/{key}", "DELETE")
    assert deletion.arguments("/users/7", None) == {"key": 7}
    bodies: list[Any] = [{}, [], "", 0, False, {"a": 1}]
    for body in bodies:
        assert flaws(deletion, "/users/7", body) == [Flaw("/body", "DELETE /users/{key} accepts no body.")]


# --- Context


@pytest.mark.parametrize(
    "annotation",
    [Context, Context[Any], Context[dict[str, int]], Context | None, Annotated[Context, "ours"], "Context[Any]"],
)
def test_context_is_known_by_its_annotation(annotation: Any) -> None:
    async def create(given: annotation, user: NewUser) -> None: ...

    signature = route(create).signature
    assert (signature.context_parameter, signature.body_parameter) == ("given", "user")


async def test_handler_is_called_with_its_context_under_its_own_name() -> None:
    async def create(user: NewUser, *, given: Context) -> tuple[str, str]:
        return user.email, given.key

    created = route(create)
    context = Context("0", "b", 1, "b/0", None)
    assert await created.call(created.arguments("/users", {"email": "a"}), context) == ("a", "b/0")


async def test_handler_without_a_context_is_called_without_one() -> None:
    async def ping() -> str:
        return "pong"

    assert await route(ping).call({}, Context("0", "b", 1, "b/0", None)) == "pong"


# --- Handlers that cannot be used as they are written


class Unfinished(BaseModel):
    friend: "Nobody"  # type: ignore[name-defined]  # noqa: F821


class Box(BaseModel, Generic[T]):
    inside: T


async def fine(user: NewUser, context: Context) -> None: ...
async def no_annotation(user) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
async def two_bodies(user: NewUser, note: str) -> None: ...
async def two_contexts(first: Context, second: Context) -> None: ...
async def positional(user: NewUser, /) -> None: ...
async def many(*users: NewUser) -> None: ...
async def anything(**users: NewUser) -> None: ...
async def unknown_type(user: "Nobody") -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def unknown_member(user: "functools.Nobody") -> None: ...  # type: ignore[name-defined]
async def a_number(user: 5) -> None: ...  # type: ignore[valid-type]
async def not_pydantic(user: Callable[[], object] | functools.partial[int]) -> None: ...
async def unfinished(user: Unfinished) -> None: ...
async def unfinished_inside(user: list[Box[Unfinished]]) -> None: ...
async def generator(user: NewUser) -> Any:
    yield user


async def no_type(user: Any) -> None: ...


no_type.__annotations__["user"] = "not a type ]"


class Callee:
    async def __call__(self, user: NewUser) -> None: ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (generator, r"The handler of POST /users \(.*generator\) is not a plain function"),
        (Callee(), "Write it as `async def` or `def`"),
        (functools.partial(fine), "is not a plain function"),
        (NewUser, "is not a plain function"),
        (no_annotation, r"The parameter user of POST /users \(.*no_annotation\) has no annotation"),
        (two_bodies, "note is one too many. Besides the path parameters, it may have one body and one Context"),
        (two_contexts, "second is one too many. Besides the path parameters, it may have one body and one Context"),
        (positional, "The parameter user.* is not supported. Use plain named parameters"),
        (many, r"The parameter \*users.* is not supported"),
        (anything, r"The parameter \*\*users.* is not supported"),
        (unknown_type, "A type in .* cannot be resolved: name 'Nobody' is not defined"),
        (unknown_member, "A type in .* 'functools' has no attribute 'Nobody'"),
        (no_type, "A type in .* cannot be resolved"),
        (a_number, "Pydantic cannot validate user of POST /users"),
        (not_pydantic, "Pydantic cannot validate user of POST /users"),
        (unfinished, "Pydantic cannot validate user of POST /users .*name 'Nobody' is not defined"),
        (unfinished_inside, "Pydantic cannot validate user of POST /users .*name 'Nobody' is not defined"),
    ],
)
def test_handler_that_cannot_be_used_is_refused_with_its_name(handler: Any, why: str) -> None:
    with pytest.raises(Misconfigured, match=why) as refused:
        route(handler)
    assert "POST /users" in str(refused.value)


# --- Kinds


def blocking(user: NewUser) -> None: ...
def with_transaction(user: NewUser, context: Context[str]) -> None: ...
def with_transactions(users: list[NewUser], contexts: list[Context[str]]) -> None: ...
def with_any_transaction(user: NewUser, context: Context[Any]) -> None: ...
def with_no_transaction(user: NewUser, context: Context[None]) -> None: ...
def plain_context(user: NewUser, context: Context) -> None: ...
async def bulk(users: list[NewUser]) -> list[None]: ...  # type: ignore[empty-body]
async def bulk_with_context(users: list[NewUser], context: Context) -> list[None]: ...  # type: ignore[empty-body]
async def nothing_at_all() -> list[None]: ...  # type: ignore[empty-body]
def inner() -> Any:
    def handler(user: NewUser) -> None: ...

    return handler


@pytest.mark.parametrize(
    ("handler", "policy", "place"),
    [
        (fine, Policy(), Place.LOOP),
        (blocking, Policy(), Place.THREAD),
        (lambda: None, Policy(), Place.THREAD),
        (plain_context, Policy(), Place.THREAD),
        (with_any_transaction, Policy(), Place.THREAD),
        (with_no_transaction, Policy(), Place.THREAD),
        (blocking, Policy(cpu_bound=True), Place.PROCESS),
        (bulk, Policy(bulk=True), Place.LOOP),
        (bulk, Policy(bulk=True, max_size=1), Place.LOOP),
    ],
)
def test_handler_runs_where_its_kind_says(handler: Any, policy: Policy, place: Place) -> None:
    assert build_route(handler, "POST", "/users", policy).place is place


@pytest.mark.parametrize(
    ("handler", "policy", "why"),
    [
        (
            fine,
            Policy(cpu_bound=True),
            r"The handler of POST /users \(.*fine\) is an `async def` with cpu_bound=True. Write it as `def`",
        ),
        (inner(), Policy(cpu_bound=True), "The handler of .* is not at the top level of its module. Define it there"),
        (
            lambda: None,
            Policy(cpu_bound=True),
            "The handler of .* is not at the top level of its module. Define it there",
        ),
        (bulk, Policy(bulk=True, cpu_bound=True), "has both bulk=True and cpu_bound=True. Choose one"),
        (fine, Policy(max_size=5), "has max_size without bulk=True. Add bulk=True"),
        (bulk, Policy(bulk=True, max_size=0), "The max_size of .* is 0. Use at least 1"),
        (
            fine,
            Policy(bulk=True),
            r"The parameter user of .* is not annotated as a list.* annotate it as list\[NewUser\]",
        ),
        (
            bulk_with_context,
            Policy(bulk=True),
            r"The parameter context of .* is not annotated as a list.* annotate it as .*list\[Context\]",
        ),
        (nothing_at_all, Policy(bulk=True), "The bulk handler of .* has no parameter. Add a list of the bodies"),
        (with_transaction, Policy(), "as `async def`, or annotate context as a plain Context"),
        (with_transaction, Policy(cpu_bound=True), "as `async def`, or annotate context as a plain Context"),
        (with_transactions, Policy(bulk=True), "as `async def`, or annotate contexts as a plain Context"),
    ],
)
def test_kind_that_does_not_fit_is_refused_with_what_to_do(handler: Any, policy: Policy, why: str) -> None:
    with pytest.raises(Misconfigured, match=why) as refused:
        build_route(handler, "POST", "/users", policy)
    assert "POST /users" in str(refused.value)


def test_bulk_handler_is_validated_operation_by_operation() -> None:
    async def change(user_id: list[int], users: list[NewUser]) -> list[None]: ...  # type: ignore[empty-body]

    one = build_route(change, "PATCH", "/users/{user_id}", Policy(bulk=True))
    assert one.arguments("/users/7", {"email": "a@b.c"}) == {"user_id": 7, "users": NewUser(email="a@b.c")}
    assert [flaw.pointer for flaw in flaws(one, "/users/x", {"age": -1})] == ["/path", "/body/email", "/body/age"]
    assert [flaw.detail for flaw in flaws(one, "/users/7", None)] == ["PATCH /users/{user_id} needs a body."]


def test_bulk_handler_that_takes_none_takes_operations_without_a_body() -> None:
    async def create(users: list[NewUser | None]) -> list[None]: ...  # type: ignore[empty-body]

    assert build_route(create, "POST", "/users", Policy(bulk=True)).arguments("/users", None) == {"users": None}


async def with_id(id: int) -> None: ...  # noqa: A002 - what applications write


@pytest.mark.parametrize(
    ("path", "policy", "why"),
    [
        ("users/{id}", Policy(), "The path of POST users/.* is invalid. Start it with a slash"),
        ("", Policy(), "with a slash"),
        ("/users", Policy(status=404), "is 404. Use a status from 200 to 299; to fail, raise Reject"),
        ("/users", Policy(status=99), "is 99. Use a status from 200 to 299"),
        ("/users/{id}/{id}", Policy(), "Write each path parameter once"),
        ("/users/{id", Policy(), "Write each path parameter"),
        ("/users/id}", Policy(), "Write each path parameter"),
        ("/users/{}", Policy(), "Write each path parameter"),
        ("/users/{user-id}", Policy(), "Write each path parameter"),
        ("/users/{{id}}", Policy(), "Write each path parameter"),
        ("/users/{id:int}", Policy(), "Write each path parameter"),
        ("/users/{id:path}/x", Policy(), "only at its end"),
        ("/users/x{id:path}", Policy(), "only at its end"),
        ("/{a:path}/{id:path}", Policy(), "only at its end"),
        ("/users/{user}", Policy(), "has no parameter user, which is in its path. Add the parameter"),
        ("/users/{1}", Policy(), "has no parameter 1, which is in its path. Add the parameter"),
        ("/users/{id}", Policy(timeout_seconds=0), "timeout_seconds of .* is 0. Use a number above 0"),
        ("/users/{id}", Policy(timeout_seconds=-1), "timeout_seconds of .* is -1. Use a number above 0"),
        ("/users/{id}", Policy(timeout_seconds=float("nan")), "timeout_seconds of .* is nan. Use a number above 0"),
        ("/users/{id}", Policy(max_attempts=0), "max_attempts of .* is 0. Use at least 1, which is the first attempt"),
    ],
)
def test_registration_that_cannot_be_meant_is_refused(path: str, policy: Policy, why: str) -> None:
    with pytest.raises(Misconfigured, match=why):
        build_route(with_id, "POST", path, policy)


def test_method_of_an_object_is_a_handler() -> None:
    class Users:
        async def create(self, user: NewUser, context: Context) -> None: ...

    assert route(Users().create).arguments("/users", {"email": "a"}) == {"user": NewUser(email="a")}


def test_decorated_handler_keeps_its_signature() -> None:
    def logged(handler: Any) -> Any:
        @functools.wraps(handler)
        async def wrapper(*given: Any, **named: Any) -> Any:
            return await handler(*given, **named)

        return wrapper

    assert route(logged(fine)).arguments("/users", {"email": "a"}) == {"user": NewUser(email="a")}
