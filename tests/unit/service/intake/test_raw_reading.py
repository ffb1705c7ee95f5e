"""A batch is accepted, rejected and sent in the same way, whether its bodies are parsed or stay as they were sent."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, cast
from unittest import mock

import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct
from multidict import CIMultiDict, MultiDict
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from typing_extensions import TypedDict

from penstock import Operations
from penstock.documents.validation import MOST_BYTES
from penstock.errors import InvalidRequest, LimitPassed, Misconfigured, PenstockError
from penstock.message import _read, decode_chunk, encode_parts, join_message
from penstock.reading import operation_reader, raw_operation
from penstock.reading.flaws import MOST_FOUND
from penstock.reading.operation_reader import OperationReader
from penstock.reading.operation_request import OperationRequest
from penstock.reading.raw_operation import LARGE_BODY_BYTES, RawOperation, read_raw_line, to_columns, with_few_bytes
from penstock.route import InvalidOperation
from penstock.service.handler_times import HandlerTimes
from penstock.service.intake import reading
from penstock.service.intake.draft import Draft
from penstock.service.keys import SETTINGS, SHARE, TURNS
from penstock.service.memory import Memory
from penstock.service.turns import Turns
from penstock.settings import Settings
from penstock.testing import FakeClock, MemoryStore
from tests.support.service import JSON, NDJSON

operations = Operations()


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sku: str = Field(min_length=1)
    n: int = 1
    price: Decimal | None = None


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    age: Annotated[int, Field(ge=0)] = 0
    items: list[Item] = []
    day: date | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]

    a: float = Field(0.0, alias="A")


class Cat(BaseModel):
    kind: Literal["cat"]
    a: int = 0


class Dog(BaseModel):
    kind: Literal["dog"]
    a: str = ""


class Pair(TypedDict):
    a: int
    b: float


@operations.post("/any")
async def take_any(body: Any = None) -> None: ...


@operations.post("/object")
async def take_object(body: dict[str, Any]) -> None: ...


@operations.post("/numbers")
async def take_numbers(body: Annotated[dict[str, int], Field(min_length=2, max_length=2)]) -> None: ...


@operations.post("/closed")
async def take_closed(body: Closed) -> None: ...


@operations.put("/closed/{n}")
async def put_closed(n: int, body: Closed | None = None) -> None: ...


@operations.post("/open")
async def take_open(body: Open) -> None: ...


@operations.post("/animal")
async def take_animal(body: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...


@operations.post("/pair")
async def take_pair(body: Pair | list[int | str]) -> None: ...


@operations.post("/default")
async def take_default(body: int | None = 7) -> None: ...


@operations.post("/many", bulk=True)
async def take_many(body: list[Closed]) -> list[None]:
    return [None for _ in body]


@operations.delete("/users/{name}")
async def delete_user(name: str) -> None: ...


operations.forward("/api/{path}", to="http://upstream.example")

SMALL = Settings(sync_max_operations=3, message_bytes=40_000, max_operations=2_000)
NAMES = ["a", "b", "A", "name", "age", "items", "sku", "n", "price", "kind", "day", "ä", "\\u0061", "x" * 200]
NUMBERS = [
    *("0", "-0", "1", "-1", "1.0", "1.10", "-0.0", "1e5", "1E+5", "1e-7", "1e400", "-1e309", "1e0400", "1e-400"),
    *("12345678901234567890", "1" + "0" * 308, "1" + "0" * 309, "1" + "0" * 309 + ".5", "0.1234567890123456789"),
    *("9" * 999, "9" * 1_001, "179769313486231580793e289", "1" + "0" * 250 + "e99"),
    *("9" * 290 + "e45", "9" * 199 + "e99", "01", "+1", ".5", "1.", "1e", "NaN"),
    *("Infinity", "-Infinity"),
]
TEXTS = [
    *('""', '"a"', '"cat"', '"dog"', '"2026-11-29"', '"ä€𝄞"'),
    *('"\\u00e4"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\n"', '"\\/"'),
    *('"\\""', '"\\\\"', '"\\x"', '"[{"', '"}]"', '"a:1e400"', '"a1e400"'),
    *('"NaN"', '"1e400"', '"\t"', '"\ufffe"', '"\x7f"'),
    *('"Infinity"', '"' + "[" * 200 + '"', '"' + "x" * 3_000 + '"', '"3e100-3e200"', "'a'"),
]
DEEP = ["[" * n + "]" * n for n in (21, 40, 189, 190, 191, 196, 197, 198, 199, 200, 201, 900)]
WIDE = ["[" + ",".join(['{"n":[]}'] * n) + "]" for n in (50, 100, 300)]
SPACES = st.sampled_from(["", "", "", " ", "  \t", "\r", "\xa0"])
LITERALS = st.sampled_from(["null", "true", "false", "nul", *NUMBERS, *TEXTS])


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    """Objects as JSON. A name may be there twice."""
    members = draw(st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=4))
    colon, comma = draw(SPACES), draw(SPACES)
    return "{" + (comma + ",").join(f'"{name}":{colon}{value}' for name, value in members) + comma + "}"


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda items, space: "[" + f",{space}".join(items) + space + "]", st.lists(values, max_size=4), SPACES
    )


VALUES = st.one_of(
    st.recursive(LITERALS, lambda inner: st.one_of(objects(inner), arrays(inner)), max_leaves=8),
    st.sampled_from(DEEP + WIDE),
)
VALID_BODIES = st.sampled_from(
    [
        '{"name":"Ann"}',
        '{"name": "Ann", "age": 3, "items": [{"sku": "a", "price": 1.10}]}',
        '{"name":"Ann","name":"Bob"}',
        '{"name":1,"name":"Bob"}',
        '{"name":"Ann","age":-0}',
        '{"name":"Ann","more":1,"more":2}',
        '{"a":1,"b":2}',
        '{"a":"x","a":1,"b":2}',
        '{"a":1,"a":2}',
        '{"a":1,"b":2,"a":3}',
        '{"A":1e5,"x":1}',
        '{"kind":"cat","kind":"dog"}',
        '{"kind":"dog","kind":"cat","a":1}',
        '{"kind":"cat","a":1,"a":"x"}',
        "null",
        "7",
        "[1,2]",
        "{}",
    ]
)
BODIES = st.one_of(VALID_BODIES, VALID_BODIES, VALUES)
NAMES_OF_HANDLERS = ["any", "object", "numbers", "closed", "open", "animal", "pair", "default", "many"]
ROUTES = [
    *(("POST", f"/{name}") for name in NAMES_OF_HANDLERS),
    *(("PUT", "/closed/7"), ("PUT", "/closed/x"), ("DELETE", "/users/a"), ("DELETE", "/users/%2e"), ("GET", "/any")),
    *(("POST", "/api/x"), ("GET", "/api/x"), ("POST", "/api/../x"), ("POST", "/unknown"), ("POST", "/%61ny")),
]
WRONG = st.sampled_from(["null", "1", "[]", "{}", '""', '"x"', '"' + "x" * 3_000 + '"'])
IDS = st.one_of(st.sampled_from(['"a"', '"1"', '"\\u0061"', '"' + "ä" * 128 + '"', '"' + "ä" * 129 + '"']), WRONG)
KEYS = st.one_of(st.sampled_from(['"k"', '"ä"', '"a\\n"', '"' + "k" * 255 + '"', '"' + "k" * 256 + '"']), WRONG)
LINKS = st.one_of(st.sampled_from(['["a"]', '["1","a"]', "[1]", '["a",null]', '"g"', "[" * 199 + "]" * 199]), WRONG)
REFERENCES = st.one_of(
    st.sampled_from(['{"x":{"operation":"a","member":["id","/id"]}}', '{"x":{"operation":1}}', '{"x":{},"x":1}']), WRONG
)


@st.composite
def texts_of_operations(draw: st.DrawFn) -> str:
    """Operations as JSON. Most of them are usual."""
    if draw(st.integers(0, 30)) == 0:
        return draw(VALUES)
    method, path = draw(st.sampled_from(ROUTES))
    members = [("method", f'"{method}"'), ("path", f'"{path}"')]
    if draw(st.integers(0, 9)):
        members.append(("body", draw(BODIES)))
    unusual = {
        "id": IDS,
        "key": KEYS,
        "dependsOn": LINKS,
        "group": IDS,
        "references": REFERENCES,
        "path": st.one_of(st.sampled_from(['"users"', '"/any "', '"/x/{x}"']), WRONG),
        "method": st.one_of(st.sampled_from(['"post"', '"HEAD"']), WRONG),
        "body": BODIES,
        "more": WRONG,
        "p\\u0061th": WRONG,
    }
    for name in draw(st.lists(st.sampled_from(list(unusual)[: draw(st.sampled_from([1, 2, 5, 10]))]), max_size=2)):
        members.append((name, draw(unusual[name])))
    space = draw(SPACES)
    return "{" + ",".join(f'{space}"{name}":{space}{value}' for name, value in draw(st.permutations(members))) + "}"


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """JSON documents. Most of them are usual."""
    listed = draw(st.lists(texts_of_operations(), max_size=5))
    space = draw(st.sampled_from(["", "", " ", "\n  "]))
    members = [("operations", "[" + f",{space}".join(listed) + "]")]
    unusual = {
        "priority": st.sampled_from(['"high"', '"x"', "1"]),
        "atomic": st.sampled_from(["false", "1", "null"]),
        "metadata": st.sampled_from(['{"a":"b","a":"c"}', '{"a":1}', "[" * 199 + "]" * 199]),
        "maxFailures": st.sampled_from(["1", "1.0", "-1", "1e400", "9" * 40]),
        "operations": st.sampled_from(["[]", "null", "[1]"]),
        "more": WRONG,
    }
    for name in draw(st.lists(st.sampled_from(list(unusual)), max_size=draw(st.sampled_from([0, 0, 1, 2])))):
        members.append((name, draw(unusual[name])))
    text = "{" + ",".join(f'{space}"{name}":{space}{value}' for name, value in draw(st.permutations(members))) + "}"
    return draw(st.sampled_from(["", "", "", "\ufeff", " "])).encode() + _with_other_bytes(draw, text)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Lines with operations."""
    lines = draw(st.lists(texts_of_operations(), max_size=5))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\n\n", "\n \n", "\n\ufeff"]))
    return _with_other_bytes(draw, end.join(lines))


def _with_other_bytes(draw: st.DrawFn, text: str) -> bytes:
    """Return a text as UTF-8, perhaps with something in it that is none."""
    content = text.encode()
    if draw(st.integers(0, 20)):
        return content
    place = draw(st.integers(0, len(content)))
    other = draw(st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\x00", b"\x01", b"\xc3", b'"']))
    return content[:place] + other + content[place:]


class _Content:
    def __init__(self, content: bytes, piece_bytes: int) -> None:
        self._pieces = [content[start : start + piece_bytes] for start in range(0, len(content), piece_bytes)]

    async def read(self, _most: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


class _Request(dict[Any, Any]):
    """A request with what the reader of a batch uses of one."""

    content_length = None

    def __init__(self, content: bytes, content_type: str, piece_bytes: int, limits: Settings) -> None:
        super().__init__({SHARE: Memory(10**9).share()})
        self.app = {SETTINGS: limits, TURNS: Turns()}
        self.content = _Content(content, piece_bytes)
        self.content_type = content_type
        self.headers = CIMultiDict[str]()
        self.query = MultiDict[str]()


class _SentOperation(Struct):
    operations: list[list[Raw]]


async def _seen(content: bytes, content_type: str, piece_bytes: int, accepts: str, limits: Settings = SMALL) -> Any:
    """Return all that can be seen of a batch: how it is rejected, or what is kept and sent of it."""
    request = cast("web.Request", _Request(content, content_type, piece_bytes, limits))
    times = HandlerTimes(MemoryStore(), [], FakeClock())
    with Draft("01M8KXJ8PNBF17YSW98VYPX44T", operations, limits, times) as draft:
        if accepts:
            draft.accept_invalid(unknown=accepts == "unknown")
        try:
            read = await reading.read_batch(request, draft)
            await draft.check()
            await draft.finish_plan()
        except (PenstockError, Misconfigured) as error:
            return type(error), str(error), repr(sorted(vars(error).items()))
        return (
            (read.options.model_dump(exclude={"operations"}), read.fingerprint, draft.total, draft.is_large),
            (draft.invalid_accepted, draft.first_forwarded, draft.has_links, draft.plan.group_totals),
            (list(draft.ids), repr(draft.operations)),
            [_what_is_in(message) for message in draft.plan.messages(without=())],
        )


def _what_is_in(message: bytes) -> Any:
    """Return what consumers find in a message, those of earlier versions too, and what their handlers get."""
    chunk = decode_chunk(message.decode())
    assert _read(message)[0] == chunk
    assert repr(_read(message)[0]) == repr(chunk)
    sent = msgspec.json.decode(message, type=_SentOperation).operations
    bodies = [msgspec.json.Encoder().encode(parts[4]) for parts in sent]
    return repr(chunk), [_arguments(*both) for both in zip(chunk.operations, bodies, strict=True)]


def _arguments(operation: Any, content: bytes) -> str:
    try:
        route = operations.match(operation.method, operation.path)
        of_value = repr(route.arguments(operation.path, operation.body))
        of_content = repr(route.arguments(operation.path, operation.body, content))
    except InvalidOperation as error:
        return repr(error.flaws)
    if not route.is_forwarded:  # a forward encodes the value that it gets
        assert of_content == of_value
    return of_value + to_json(operation.body).decode()


@contextmanager
def parsing_all() -> Iterator[None]:
    """Let every document and every line be parsed."""
    with (
        mock.patch.object(reading._raw_documents, "read", return_value=None),
        mock.patch.object(reading, "read_raw_line", return_value=None),
    ):
        yield


def assert_makes_no_difference(content: bytes, content_type: str, piece_bytes: int = 65_536, accepts: str = "") -> None:
    seen = asyncio.run(_seen(content, content_type, piece_bytes, accepts))
    with parsing_all():
        assert asyncio.run(_seen(content, content_type, piece_bytes, accepts)) == seen


ACCEPTS = st.sampled_from(["", "", "invalid", "unknown"])
PIECES = st.sampled_from([65_536, 50, 7])


@settings(derandomize=True, max_examples=12)
@given(documents(), ACCEPTS)
def test_documents_make_no_difference(content: bytes, accepts: str) -> None:
    assert_makes_no_difference(content, JSON, accepts=accepts)


@settings(derandomize=True, max_examples=12)
@given(streams(), ACCEPTS, PIECES)
def test_streams_make_no_difference(content: bytes, accepts: str, piece_bytes: int) -> None:
    assert_makes_no_difference(content, NDJSON, piece_bytes, accepts)


USUAL = st.builds(
    lambda route, body, given: f'{{{given}"method":"{route[0]}","path":"{route[1]}","body":{body}}}',
    st.sampled_from(ROUTES[:12]),
    VALID_BODIES,
    st.sampled_from(["", "", '"id":"a",', '"id":"b",', '"id":"9",']),
)
ANY = texts_of_operations().filter(lambda text: text.count('"body"') < 2)  # `raw_operation` says what is different then
LARGE = st.lists(st.one_of(*[USUAL] * 9, ANY), min_size=1, max_size=12)


def assert_large_makes_no_difference(texts: list[str]) -> None:
    """Compare a batch that is large before these operations, so that the usual ones of them are added together."""
    texts = [operation("/any", "1")] * 4 + texts
    document, lines = f'{{"operations":[{",".join(texts)}]}}', "\n".join(texts)
    with mock.patch.multiple(reading, ADDED_AT_ONCE=3, OPERATIONS_IN_TURN=3):
        assert_makes_no_difference(document.encode(), JSON)
        assert_makes_no_difference(lines.encode(), NDJSON)


@settings(derandomize=True, max_examples=12)
@given(LARGE)
def test_large_batches_make_no_difference(texts: list[str]) -> None:
    assert_large_makes_no_difference(texts)


@pytest.mark.full
@settings(derandomize=True, max_examples=600)
@given(LARGE)
def test_many_large_batches_make_no_difference(texts: list[str]) -> None:
    assert_large_makes_no_difference(texts)


@pytest.mark.full
@settings(derandomize=True, max_examples=300)
@given(documents(), ACCEPTS)
def test_many_documents_make_no_difference(content: bytes, accepts: str) -> None:
    assert_makes_no_difference(content, JSON, accepts=accepts)


@pytest.mark.full
@settings(derandomize=True, max_examples=300)
@given(streams(), ACCEPTS, PIECES)
def test_many_streams_make_no_difference(content: bytes, accepts: str, piece_bytes: int) -> None:
    assert_makes_no_difference(content, NDJSON, piece_bytes, accepts)


NO_UTF_8 = ['"\udcff"', '"\udced\udca0\udc80"', '"\udcc3"']  # bytes, as `surrogateescape` writes them


@pytest.mark.parametrize("body", [*NUMBERS, *TEXTS, *DEEP, *WIDE, *NO_UTF_8])
def test_bodies_make_no_difference(body: str) -> None:
    for path in ("/any", "/api/x"):
        text = f'{{"method":"POST","path":"{path}","body":{{"a":[{body}]}}}}'
        lines, document = f"{operation(path, '1')}\n{text}\n{text}\n", f'{{"operations":[{text}]}}'
        assert_makes_no_difference(lines.encode(errors="surrogateescape"), NDJSON)
        assert_makes_no_difference(document.encode(errors="surrogateescape"), JSON)


def operation(path: str, body: str) -> str:
    return f'{{"method":"POST","path":"{path}","body":{body}}}'


def raw_of(*texts: str) -> Any:
    document = reading._raw_documents.read(f'{{"operations":[{",".join(texts)}]}}'.encode())
    return None if document is None else document["operations"]


def test_plain_operations_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, the tests above would compare a thing with itself."""
    for module in (raw_operation, operation_reader):
        monkeypatch.setattr(module, "from_json", None)
    reader = operation_reader.OperationReader(operations.match, shows_errors=False)
    bodies = ['{"name":"Änn","age":3}', '{"name":"3e100-5e500"}', '{"name":"x","items":[{"sku":"a"}]}']
    texts = [
        *(operation("/closed", body) for body in bodies),
        '{"method":"DELETE","path":"/users/a","dependsOn":["0"]}',
    ]
    for one in [*raw_of(*texts), *(read_raw_line(text.encode(), 10**6) for text in texts)]:
        assert isinstance(one, RawOperation)
        assert isinstance(reader.read(one), operation_reader.ReadOperation)


def test_only_what_is_unusual_is_parsed() -> None:
    usual, unusual = operation("/any", "1"), '{"method":"POST","path":"/any","more":1}'
    assert [type(one) for one in raw_of(usual, unusual, usual)] == [RawOperation, dict, RawOperation]
    assert raw_of(usual, operation("/any", "1e400")) is None
    assert raw_of(usual, operation("/any", '"' + "x" * MOST_BYTES + '"')) is None  # it could be invalid, and take long
    assert read_raw_line(operation("/any", '"' + "x" * MOST_BYTES + '"').encode(), 10**6) is None
    assert read_raw_line(unusual.encode(), 10**6) is None


def test_raw_operations_have_the_members_of_operations() -> None:
    names = {member.encode_name for member in msgspec.structs.fields(RawOperation)}
    assert names == {one.alias or name for name, one in OperationRequest.model_fields.items()}


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
@pytest.mark.parametrize("colon", [": ", ":\t", " : "])
def test_spaces_between_the_parts_of_a_body_are_not_sent(content_type: str, colon: str) -> None:
    body = f'{{"note"{colon}" a: , b ","list"{colon}[1 , {{ }}, "{"x" * 3_000}"]}}'
    text = operation("/object", body)
    read: Any = read_raw_line(text.encode(), 10**6) if content_type == NDJSON else raw_of(text)[0]
    assert read.content == to_json({"note": " a: , b ", "list": [1, {}, "x" * 3_000]})


def test_escapes_that_are_not_needed_are_not_sent() -> None:
    text = operation("/object", '{"note": "\\u00e4\\/\\ud83d\\ude00\\u0000"}')
    for read in (read_raw_line(text.encode(), 10**6), *raw_of(text)):
        assert isinstance(read, RawOperation)
        assert read.content == '{"note":"ä/😀\\u0000"}'.encode()


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_only_a_body_that_does_not_count_may_have_very_many_levels(content_type: str) -> None:
    """This is the one difference: a parser builds that body, too, and gives up at 200 levels."""
    text = '{"method":"POST","path":"/any","body":' + "[" * 201 + "]" * 201 + ',"body":1}'
    content = (text if content_type == NDJSON else f'{{"operations":[{text}]}}').encode()
    seen = asyncio.run(_seen(content, content_type, 65_536, ""))
    assert "body=1" in seen[3][0][0]
    with parsing_all():
        assert "recursion limit exceeded" in str(asyncio.run(_seen(content, content_type, 65_536, "")))
    swapped = content.replace(b',"body":1', b"").replace(b'"body":', b'"body":1,"body":')
    assert_makes_no_difference(swapped, content_type)


def test_consumers_of_any_version_find_each_name_once() -> None:
    """A body with a name that is there twice is sent as it is. Whoever reads it takes the last one, as before."""
    [read] = raw_of(operation("/object", '{"a":1,"b":{"c":1,"c":[2]},"a":{"d":4,"d":5}}'))
    message = join_message("01M8KXJ8PNBF17YSW98VYPX44T", "0", [encode_parts(0, "0", "POST", "/object", read.content)])
    for chunk in (decode_chunk(message), _read(message.encode())[0]):
        [sent] = chunk.operations
        assert to_json(sent.body) == b'{"a":{"d":5},"b":{"c":[2]}}'


USUAL_TEXT = operation("/any", '{"a":1}')
UNUSUAL = {
    "no body": '{"method":"POST","path":"/any"}',
    "null": operation("/any", "null"),
    "a large body": operation("/any", f'"{"x" * LARGE_BODY_BYTES}"'),
    "a key": operation("/any", '1,"key":"k"'),
    "a group": operation("/any", '1,"group":"g"'),
    "a dependency": operation("/any", '1,"dependsOn":["0"]'),
    "references": operation("/users/{x}", '{},"references":{"x":{"operation":"0","member":"id"}}'),
    "the first forward": operation("/api/x", '{"a":1}'),
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_unusual_operations_are_added_one_by_one(text: str) -> None:
    with large_draft() as draft:
        assert not draft.add_usual(raw_of(USUAL_TEXT, text))
        assert draft.add_usual(raw_of(USUAL_TEXT, operation("/object", '{"a":1}')))
        assert draft.total == 6


def test_columns_have_what_each_operation_has() -> None:
    bodies = ['{"a":1}', '{"a":"\\u00e4\\/"}', '"Änn"', "false"]
    usual = raw_of(*(operation(f"/{number}", body) for number, body in enumerate(bodies)))
    columns = to_columns(usual)
    assert columns is not None
    assert columns.bodies == [one.content for one in usual]
    assert columns.paths == ["/0", "/1", "/2", "/3"]
    assert (columns.ids, columns.methods) == ([None] * 4, ["POST"] * 4)


@pytest.mark.parametrize("text", [USUAL_TEXT, *UNUSUAL.values()], ids=["usual", *UNUSUAL.keys()])
def test_each_line_is_read_once(text: str) -> None:
    lines = lines_of(USUAL_TEXT, text, USUAL_TEXT)
    with large_draft(0) as draft:
        for _ in range(4):
            reading._add_lines(draft, lines[:1], SMALL)
        with mock.patch.object(reading, "read_raw_line", wraps=read_raw_line) as read:
            reading._add_lines(draft, lines, SMALL)
    assert draft.total == 7
    assert [call.args[0] for call in read.call_args_list] == [line for _, (line, _) in lines]


def test_lines_are_read_one_by_one_if_the_draft_takes_none_together() -> None:
    with large_draft() as draft:
        draft.add(raw_of(UNUSUAL["a dependency"])[0])
        assert not draft.takes_usual
        with mock.patch.object(reading, "_read_usual") as read:
            reading._add_lines(draft, lines_of(USUAL_TEXT, USUAL_TEXT), SMALL)
        assert draft.total == 7
    assert not read.called


def test_lines_that_are_added_at_once_keep_the_limit_of_operations() -> None:
    with large_draft() as draft:
        with pytest.raises(LimitPassed, match="more than 6 operations"):
            reading._add_lines(
                draft, lines_of(*[USUAL_TEXT] * 3), SMALL.model_copy(update={"max_stream_operations": 6})
            )
        assert draft.total == 6


def test_limit_of_operations_is_told_before_the_limit_of_lines() -> None:
    """The lines in front of the one that passes a limit are added first."""
    limits = SMALL.model_copy(update={"max_stream_operations": 6})
    content = "\n".join([USUAL_TEXT] * 7 + [""] * 20)
    kind, _, error = asyncio.run(_seen(content.encode(), NDJSON, 65_536, "", limits))
    assert kind is LimitPassed
    assert "'maxOperations': 6" in error


def test_other_requests_run_after_each_hundred_lines() -> None:
    with mock.patch.object(Turns, "next", autospec=True) as turns:
        asyncio.run(_seen("\n".join([USUAL_TEXT] * 250).encode(), NDJSON, 65_536, ""))
    assert turns.call_count == 2


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
@pytest.mark.parametrize("others", [0, 49])
def test_ids_are_checked_after_the_same_operations_however_many_are_added_at_once(
    content_type: str, others: int
) -> None:
    """The operations in front of them shift those that are added together."""
    same = USUAL_TEXT.replace("{", '{"id":"a",', 1)
    texts = [UNUSUAL["null"]] * others + [same] * (2 * MOST_FOUND + 100)
    content = "\n".join(texts) if content_type == NDJSON else f'{{"operations":[{",".join(texts)}]}}'
    limits = SMALL.model_copy(update={"max_operations": 10**6, "max_stream_operations": 10**6})
    kind, _, error = asyncio.run(_seen(content.encode(), content_type, 65_536, "", limits))
    assert kind is InvalidRequest
    assert f"{2 * MOST_FOUND - others - 1:,} of the first {2 * MOST_FOUND:,} operations have the id" in error


def test_forward_is_found_before_bodies_are_validated() -> None:
    [usual, forward] = raw_of(USUAL_TEXT, UNUSUAL["the first forward"])
    reader = OperationReader(operations.match, shows_errors=True)
    with mock.patch.object(operation_reader, "_are_valid", return_value=True) as validated:
        assert reader.read_usual([usual, forward], with_forwards=False) is None
        assert not validated.called
        assert reader.read_usual([usual, forward]) is not None


@pytest.mark.parametrize(("most_bytes", "count"), [(100, 4), (14, 4), (13, 3), (7, 2), (1, 1)])
def test_operations_that_are_added_at_once_have_few_bytes(most_bytes: int, count: int) -> None:
    """One that is not raw counts nothing."""
    some: list[Any] = [*raw_of(USUAL_TEXT), {}, *raw_of(operation("/any", "12345"), operation("/any", "22"))]
    assert with_few_bytes(some, most_bytes) == some[:count]


async def test_errors_in_lines_that_were_added_at_once_name_their_lines() -> None:
    with large_draft(0) as draft:
        line = USUAL_TEXT.replace("{", '{"id":"a",', 1).encode()
        for number in range(1, 5):
            reading._add_lines(draft, [(number, (USUAL_TEXT.encode(), True))], SMALL)
        reading._add_lines(draft, [(7, (line, True)), (9, (line, True))], SMALL)
        with pytest.raises(InvalidRequest) as caught:
            await draft.check()
    assert [(flaw.pointer, flaw.line) for flaw in caught.value.flaws] == [("/operations/5/id", 9)]


def test_operations_behind_an_invalid_one_are_added_one_by_one() -> None:
    """An invalid batch is only read for its errors."""
    with large_draft() as draft:
        assert not draft.add_usual(raw_of(operation("/object", "[1, 2]"), USUAL_TEXT))
        draft.add(raw_of(operation("/object", "[1]"))[0])
        assert not draft.add_usual(raw_of(USUAL_TEXT))


def test_operations_of_a_small_batch_are_added_one_by_one() -> None:
    """They are kept, because they may run immediately."""
    with large_draft(0) as draft:
        assert not draft.add_usual(raw_of(USUAL_TEXT))


def test_a_forward_is_usual_once_the_draft_knows_that_there_is_one() -> None:
    with large_draft() as draft:
        forwarded = operation("/api/x", '{"a":1}')
        draft.add(raw_of(forwarded)[0])
        assert draft.add_usual(raw_of(forwarded))
        assert draft.first_forwarded == 4


def lines_of(*texts: str) -> list[tuple[int, tuple[bytes, bool]]]:
    return [(number, (text.encode(), True)) for number, text in enumerate(texts, start=5)]


@contextmanager
def large_draft(count: int = 4) -> Iterator[Draft]:
    """Return a draft to which so many operations were added. From 4 on, it is large."""
    times = mock.create_autospec(HandlerTimes, instance=True)  # no event loop runs that could read the table
    with Draft("01M8KXJ8PNBF17YSW98VYPX44T", operations, SMALL, times) as draft:
        for document in raw_of(USUAL_TEXT) * count:
            draft.add(document)
        yield draft
