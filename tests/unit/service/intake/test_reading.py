"""Reading a request: invalid ones are rejected, every error has its pointer, and no body can break the service."""

import asyncio
import gzip
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, field_validator

from penstock import Operations, zstd
from penstock.message import decode_chunk
from penstock.reading.flaws import MOST_FLAWS
from penstock.service.intake import reading
from penstock.service.intake.draft import Draft
from penstock.service.turns import Turns
from penstock.testing.http import Answer
from tests.support.full import full
from tests.support.service import NDJSON, Serve, Service, assert_problem, pointers

runs: list[Any] = []
operations = Operations()


class Address(BaseModel):
    zip: int
    lines: list[str] = []


class Person(BaseModel):
    name: str = Field(min_length=1)
    address: Address | None = None
    scores: dict[str, int] = {}

    @field_validator("name")
    @classmethod
    def _refuse_nobody(cls, name: str) -> str:
        if name == "nobody":
            raise ValueError("Nobody cannot be made")
        return name


@operations.post("/people", status=201)
async def create_person(person: Person) -> Person:
    runs.append(person)
    return person


@operations.put("/people/{number}")
async def replace_person(number: int, person: Person | None = None) -> int:
    runs.append(number)
    return number


@operations.delete("/people/{number}")
async def delete_person(number: int) -> None:
    runs.append(number)


@operations.post("/anything")
async def take_anything(body: Any = None) -> Any:
    runs.append(body)
    return body


@operations.post("/succeed")
async def succeed() -> None:
    runs.append(None)


@pytest.fixture(autouse=True)
def _forget_runs() -> None:
    runs.clear()


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(operations)


GOOD = {"method": "POST", "path": "/succeed"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"   ",
        b"{",
        b"{}{}",
        b"{'operations': []}",
        b'{"operations": [1,]}',
        b'{"operations": [01]}',
        b'{"operations": [NaN]}',
        b'{"operations": [-Infinity]}',
        b'{"operations": ["\x00"]}',
        b'{"operations": ["\\ud800"]}',  # half of a pair
        b'{"operations": ["\\udc00\\ud800"]}',  # a pair in the wrong order
        b'{"operations": ["\\x"]}',
        b'{"operations": ["\xff"]}',
        b'{"operations": ["\xed\xa0\x80"]}',  # a surrogate written in UTF-8
        b"\xef\xbb\xbf\xef\xbb\xbf{}",  # two byte order marks
        json.dumps({"operations": [GOOD]}).encode("utf-16"),
        b'{"operations": ' + b"[" * 100_000,
        b'{"operations": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
        b'{"operations": [' + b"9" * 5_000 + b"]}",
    ],
    ids=range(20),
)
async def test_what_is_not_json_is_malformed(service: Service, content: bytes) -> None:
    problem = assert_problem(await service.post_content(content), 400)
    assert problem["type"] == "urn:penstock:problem:malformed-request"


async def test_byte_order_mark_is_skipped(service: Service) -> None:
    assert (await service.post_content(b"\xef\xbb\xbf" + json.dumps({"operations": [GOOD]}).encode())).status == 200


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
async def test_utf_16_is_named(service: Service, encoding: str) -> None:
    problem = assert_problem(await service.post_content(json.dumps({"operations": [GOOD]}).encode(encoding)), 400)
    assert problem["detail"].endswith("It seems to be UTF-16. Send it as UTF-8.")


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis"])
async def test_other_encodings_are_no_utf_8(service: Service, encoding: str) -> None:
    line = json.dumps({**GOOD, "id": "°"}, ensure_ascii=False).encode(encoding)
    problem = assert_problem(await service.post_content(b'{"operations": [%b]}' % line), 400)
    [error] = (await service.post_content(line, NDJSON)).body["errors"]
    assert problem["detail"].endswith("It is not UTF-8. Send it as UTF-8.")
    assert error["detail"].endswith("It is not UTF-8. Send it as UTF-8.")


async def test_line_breaks_of_old_mac_programs_are_named(service: Service) -> None:
    [error] = (await service.post_content(b"\r".join([json.dumps(GOOD).encode()] * 2), NDJSON)).body["errors"]
    assert error["detail"].endswith("It contains a CR. End each line with LF.")


@pytest.mark.parametrize("content", [b"[]", b"null", b'"operations"', b"5"])
async def test_request_is_an_object(service: Service, content: bytes) -> None:
    [error] = (await service.post_content(content)).body["errors"]
    assert error == {"pointer": "", "detail": "Input should be an object."}


@pytest.mark.parametrize("time", ["2026-12-24", "2026-12-24T18:00:00", "2026-12-24T18:00:00+24:00", 1_796_234_400])
async def test_time_in_another_form_is_told_the_form(service: Service, time: Any) -> None:
    [error] = (await service.post([GOOD], notBefore=time)).body["errors"]
    assert error["detail"].startswith("Write the time as 2026-12-24T18:00:00Z, or with an offset such as +01:00")


@pytest.mark.parametrize("encoding", ["x-gzip", "X-GZIP", "identity, gzip", " ,gzip, "])
async def test_gzip_has_other_spellings(service: Service, encoding: str) -> None:
    content = gzip.compress(json.dumps({"operations": [GOOD]}).encode())
    assert (await service.post_content(content, **{"Content-Encoding": encoding})).status == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ("1e400", "/operations/0/body"),
        ("-1e400", "/operations/0/body"),
        ("1" + "0" * 400 + ".5", "/operations/0/body"),
        ('{"a": ["Infinity", {"b/c": 1e999}]}', "/operations/0/body/a/1/b~1c"),
    ],
)
async def test_number_that_is_too_large_is_refused(service: Service, body: str, pointer: str) -> None:
    content = f'{{"operations": [{{"method": "POST", "path": "/anything", "body": {body}}}]}}'
    problem = assert_problem(await service.post_content(content), 422)
    assert problem["errors"] == [
        {"pointer": pointer, "detail": "This number is too large. The largest is about 1.8e308."}
    ]


@pytest.mark.parametrize("body", ["1.7e308", "1e-400", '"Infinity NaN"', "1" + "0" * 400])
async def test_number_of_any_other_size_is_taken(service: Service, body: str) -> None:
    content = f'{{"operations": [{{"method": "POST", "path": "/anything", "body": {body}}}]}}'
    answer = await service.post_content(content)
    assert (answer.status, answer.body["results"][0]["result"]) == (200, json.loads(body))


async def test_query_of_a_document_is_told_and_not_ignored(service: Service) -> None:
    answer = await service.ask(
        "POST", "/batch?atomic=true&notBefore=x&a=1&a=2", json={"operations": [GOOD], "maxFailures": -1}
    )
    problem = assert_problem(answer, 422)
    assert pointers(problem) == ["/atomic", "/notBefore", "/a", "/maxFailures"]
    details = [error["detail"] for error in problem["errors"]]
    assert details[0].startswith("Write atomic into the JSON document")
    assert details[2].startswith("The query of a JSON document must be empty")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/problem+json", "multipart/form-data", "json", "application/jsonl", ""],
)
async def test_other_content_types_are_refused(service: Service, content_type: str) -> None:
    assert_problem(await service.post_content(b"{}", content_type), 415)


async def test_content_type_is_required(service: Service) -> None:
    answer = await service.ask("POST", "/batch", data=b"{}", skip_auto_headers=["Content-Type"])
    assert "missing" in assert_problem(answer, 415)["detail"]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_content_type_may_be_written_in_other_ways(service: Service, content_type: str) -> None:
    answer = await service.post_content(json.dumps({"operations": [GOOD]}).encode(), content_type)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ([], [""]),
        ([GOOD], [""]),
        ("operations", [""]),
        (1, [""]),
        (None, [""]),
        ({}, ["/operations"]),
        ({"operations": None}, ["/operations"]),
        ({"operations": {}}, ["/operations"]),
        ({"operations": "POST /succeed"}, ["/operations"]),
        ({"operations": []}, ["/operations"]),
        ({"operations": [GOOD], "more": 1}, ["/more"]),
        ({"operations": [GOOD], "a/b~c": 1}, ["/a~1b~0c"]),
        ({"operations": [GOOD], "atomic": "yes"}, ["/atomic"]),
        ({"operations": [GOOD], "atomic": 1}, ["/atomic"]),
        ({"operations": [GOOD], "atomic": None}, ["/atomic"]),
        ({"operations": [GOOD], "atomic": True}, ["/atomic"]),  # this application has no transaction
        ({"operations": None, "atomic": 1, "more": 1}, ["/atomic", "/operations", "/more"]),
        ({"operations": [{}, GOOD], "more": 1}, ["/more", "/operations/0/method", "/operations/0/path"]),
        ({"operations": [1], "atomic": True}, ["/atomic", "/operations/0"]),
    ],
)
async def test_envelope_is_told_all_its_errors(service: Service, document: Any, where: list[str]) -> None:
    problem = assert_problem(await service.post_content(json.dumps(document).encode()), 422)
    assert pointers(problem) == where
    assert runs == []


LONG_PATH = "/people/" + "1" * 2040

OPERATIONS_AND_POINTERS: list[tuple[Any, list[str]]] = [
    (None, [""]),
    ("POST /succeed", [""]),
    ([], [""]),
    ({}, ["/method", "/path"]),
    ({"method": "POST"}, ["/path"]),
    ({"path": "/succeed"}, ["/method"]),
    ({**GOOD, "method": "post"}, ["/method"]),
    ({**GOOD, "method": "FETCH"}, ["/method"]),
    ({**GOOD, "method": None}, ["/method"]),
    ({**GOOD, "path": "succeed"}, ["/path"]),
    ({**GOOD, "path": ""}, ["/path"]),
    ({**GOOD, "path": 1}, ["/path"]),
    ({**GOOD, "path": LONG_PATH + "1"}, ["/path"]),
    ({**GOOD, "path": "/nowhere"}, ["/path"]),
    ({**GOOD, "path": "/succeed/"}, ["/path"]),
    ({**GOOD, "method": "GET"}, ["/path"]),  # the path is known, but not with this method
    ({**GOOD, "id": 1}, ["/id"]),
    ({**GOOD, "id": ""}, ["/id"]),
    ({**GOOD, "id": "x" * 129}, ["/id"]),
    ({**GOOD, "id": ["a"]}, ["/id"]),
    ({**GOOD, "headers": {}}, ["/headers"]),
    ({**GOOD, "id": 1, "path": "succeed", "headers": {}}, ["/id", "/path", "/headers"]),
    ({**GOOD, "body": {}}, ["/body"]),  # this handler has no body
    ({"method": "POST", "path": "/people"}, ["/body"]),  # this handler needs a body
    ({"method": "POST", "path": "/people", "body": []}, ["/body"]),
    ({"method": "POST", "path": "/people", "body": {}}, ["/body/name"]),
    ({"method": "POST", "path": "/people", "body": {"name": 1}}, ["/body/name"]),
    ({"method": "POST", "path": "/people", "body": {"name": "nobody"}}, ["/body/name"]),
    (
        {"method": "POST", "path": "/people", "body": {"name": "", "address": {"zip": "x", "lines": ["a", 2]}}},
        ["/body/name", "/body/address/zip", "/body/address/lines/1"],
    ),
    ({"method": "POST", "path": "/people", "body": {"name": "a", "scores": {"a/b~": "x"}}}, ["/body/scores/a~1b~0"]),
    ({"method": "DELETE", "path": "/people/one"}, ["/path"]),
    ({"method": "PUT", "path": "/people/one", "body": {"name": ""}}, ["/path", "/body/name"]),
]


@pytest.mark.parametrize(("operation", "where"), OPERATIONS_AND_POINTERS)
async def test_each_error_of_an_operation_is_told_at_its_place(
    service: Service, operation: Any, where: list[str]
) -> None:
    problem = assert_problem(await service.post([GOOD, operation]), 422)
    assert pointers(problem) == [f"/operations/1{pointer}" for pointer in where]
    assert all(error["detail"] for error in problem["errors"])
    assert runs == []


async def test_errors_of_all_operations_are_told_at_once(service: Service) -> None:
    asked = [operation for operation, _ in OPERATIONS_AND_POINTERS]
    problem = assert_problem(await service.post(asked), 422)
    expected = [f"/operations/{i}{where}" for i, (_, found) in enumerate(OPERATIONS_AND_POINTERS) for where in found]
    assert pointers(problem) == expected
    assert problem["errorCount"] == len(expected)
    assert runs == []


@pytest.mark.parametrize("sync_max_operations", [0, 100])
async def test_null_is_a_body_and_no_body_is_none(serve: Serve, sync_max_operations: int) -> None:
    registry = Operations()

    @registry.post("/maybe")
    async def maybe(body: int | None) -> int | None:
        return body

    service = await serve(registry, sync_max_operations=sync_max_operations)
    asked = {"method": "POST", "path": "/maybe"}
    assert (await service.post([{**asked, "body": None}])).status in {200, 202}
    assert pointers(assert_problem(await service.post([asked]), 422)) == ["/operations/0/body"]


async def test_null_is_not_the_default(serve: Serve) -> None:
    registry = Operations()

    @registry.post("/maybe")
    async def maybe(body: int | None = 5) -> int | None:
        return body

    service = await serve(registry)
    asked = {"method": "POST", "path": "/maybe"}
    answer = await service.post([{**asked, "body": None}, asked, {**asked, "body": 7}])
    assert [result["result"] for result in answer.body["results"]] == [None, 5, 7]


async def test_nothing_is_accepted_of_a_large_batch_with_an_error(serve: Serve) -> None:
    service = await serve(operations, sync_max_operations=0)
    assert_problem(await service.post([GOOD, {**GOOD, "path": "/nowhere"}]), 422)
    assert service.parts.chunks.messages == []
    assert service.parts.store._batches == {}


async def test_very_many_errors_are_counted_and_the_first_are_shown(serve: Serve) -> None:
    service = await serve(operations, max_operations=10_000)
    problem = assert_problem(await service.post([{}] * MOST_FLAWS), 422)
    assert (problem["errorCount"], len(problem["errors"])) == (2 * MOST_FLAWS, MOST_FLAWS)


@pytest.mark.parametrize(
    ("ids", "where"),
    [
        (["a", "b"], []),
        (["a", "A"], []),
        ([None, None], []),
        (["1", None, None], ["/operations/1/id"]),  # an index is an id like any other
        ([None, "0"], ["/operations/1/id"]),
        (["a", "a"], ["/operations/1/id"]),
        (["a", "b", "a", "b", "a"], ["/operations/2/id", "/operations/3/id", "/operations/4/id"]),
    ],
)
async def test_ids_are_unique(service: Service, ids: list[str | None], where: list[str]) -> None:
    answer = await service.post([{**GOOD, "id": given} for given in ids])
    if not where:
        assert answer.status == 200
    else:
        assert pointers(assert_problem(answer, 422)) == where


async def test_duplicate_is_told_though_both_are_wrong_otherwise(service: Service) -> None:
    problem = assert_problem(await service.post([{**GOOD, "id": "a", "path": ""}, {"id": "a", "path": "/x"}]), 422)
    assert pointers(problem) == ["/operations/0/path", "/operations/1/id", "/operations/1/method"]


async def test_longest_id_and_path_are_taken(service: Service) -> None:
    answer = await service.post([{"method": "DELETE", "path": LONG_PATH, "id": "ä" * 128}])
    assert answer.body["summary"]["succeeded"] == 1


async def test_too_many_operations_are_refused_with_the_limit(serve: Serve) -> None:
    service = await serve(operations, max_operations=3, sync_max_operations=3)
    assert (await service.post([GOOD] * 3)).status == 200
    problem = assert_problem(await service.post([GOOD] * 4), 413)
    assert problem["maxOperations"] == 3
    assert_problem(await service.post([None] * 4), 413)  # even if they are all invalid
    assert len(runs) == 3


def padded(size: int) -> bytes:
    content = json.dumps({"operations": [GOOD]}).encode()
    return content + b" " * (size - len(content))


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    """Such a body is sent in HTTP chunks without a Content-Length."""
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


@pytest.mark.parametrize("sent_as", ["declared", "in pieces", "gzip", "zstd"])
@pytest.mark.parametrize(("size", "status"), [(2048, 200), (2049, 413), (1_000_000, 413)])
async def test_too_large_a_body_is_refused_with_the_limit(
    serve: Serve, size: int, status: int, sent_as: Literal["declared", "in pieces", "gzip", "zstd"]
) -> None:
    service = await serve(operations, max_body_bytes=2048)
    match sent_as:
        case "declared":
            answer = await service.post_content(padded(size))
        case "in pieces":
            answer = await service.post_content(in_pieces(padded(size)))
        case encoding:
            answer = await service.post_content(PACK[encoding](padded(size)), **{"Content-Encoding": encoding})
    assert answer.status == status
    if status == 413:
        assert assert_problem(answer, 413)["maxBodyBytes"] == 2048
        assert runs == []


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "ZSTD", "identity"])
async def test_body_may_come_packed(service: Service, encoding: str) -> None:
    content = json.dumps({"operations": [{"method": "POST", "path": "/anything", "body": "ä" * 100_000}]}).encode()
    packed = PACK.get(encoding.lower(), bytes)(content)
    for sent in (packed, in_pieces(packed)):
        answer = await service.post_content(sent, **{"Content-Encoding": encoding})
        assert answer.body["results"][0]["result"] == "ä" * 100_000


@pytest.mark.parametrize("encoding", ["deflate", "br", "gzip, zstd", "rot13"])
async def test_other_encodings_are_refused_by_naming_those_that_are_taken(service: Service, encoding: str) -> None:
    answer = await service.post_content(b"{}", **{"Content-Encoding": encoding})
    assert "gzip or zstd" in assert_problem(answer, 415)["detail"]
    assert answer.headers["Accept-Encoding"] == "gzip, zstd"


@pytest.mark.parametrize("encoding", PACK)
async def test_damaged_compression_is_malformed(service: Service, encoding: str) -> None:
    packed = PACK[encoding](padded(100))
    for content in (b"", b"nothing of the kind", packed[:-1], packed + b"x"):
        assert_problem(await service.post_content(content, **{"Content-Encoding": encoding}), 400)


async def test_bodies_arrive_as_they_were_sent(service: Service) -> None:
    bodies = [0, -1, 1.5, 10**30, 1e300, True, "", "\u0000\uffff\U0001f600", [], {}, {"": [{"a": None}]}, False]
    answer = await service.post([{"method": "POST", "path": "/anything", "body": body} for body in bodies])
    assert [result["result"] for result in answer.body["results"]] == bodies


# Fuzz: every input gets a regular answer.

NASTY: list[Any] = [
    *(None, True, 0, -1, 1.5, 2**63, 10**400, float("nan"), float("inf"), 1e308),
    *("", "a", "/", "//", "/people/", "/people/%ff", "/people/1/2", "/succeed?x=1", "\u0000", "\ud800", "x" * 3000),
    *(
        "POST",
        "DELETE",
        "id",
        "\uffff",
        "0",
        "1",
        "{number}",
        "/people/{number}",
        "../..",
        "/people/\u0661",
        "/people/1\n",
    ),
    *([], {}, [[]], {"operations": []}, {"": ""}, {"__class__": 1}, {"~": {"/": 1}}),
]
WHOLE: list[dict[str, Any]] = [
    {"method": "POST", "path": "/people", "id": "a", "body": {"name": "n", "address": {"zip": 1, "lines": ["x"]}}},
    {"method": "PUT", "path": "/people/7", "body": {"name": "n", "scores": {"a": 1}}},
    {"method": "DELETE", "path": "/people/7"},
    {"method": "POST", "path": "/anything", "body": [1, {"a": [None, "é"]}]},
]


def mutate(value: Any, draw: random.Random) -> Any:
    """Return a copy in which something is replaced, nested, removed, added or doubled: here, or deeper."""
    here = [lambda: draw.choice(NASTY), lambda: bury(value, draw.choice([1, 100, 195, 300]))]
    if isinstance(value, dict) and value:
        name = draw.choice(list(value))
        here += [
            lambda: {kept: inside for kept, inside in value.items() if kept != name},
            lambda: {**value, str(draw.choice(NASTY)): draw.choice(NASTY)},
            *[lambda: {**value, name: mutate(value[name], draw)}] * 4,
        ]
    if isinstance(value, list) and value:
        place = draw.randrange(len(value))
        here += [
            lambda: [*value, value[place]],
            *[lambda: [*value[:place], mutate(value[place], draw), *value[place + 1 :]]] * 4,
        ]
    return draw.choice(here)()


def bury(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def damage(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    match draw.randrange(4):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + draw.randbytes(draw.randrange(1, 4)) + content[place:]
        case 2:
            return content[:place] + content[place + draw.randrange(1, 9) :]
        case _:
            return content[:place] + content[draw.randrange(len(content)) :]


def mutants(count: int, draw: random.Random) -> Iterable[bytes]:
    for _ in range(count):
        document: Any = {"operations": draw.sample(WHOLE, draw.randint(1, len(WHOLE))), "atomic": False}
        for _ in range(draw.randint(1, 2)):
            document = mutate(document, draw)
        content = json.dumps(document, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")
        yield damage(content, draw) if draw.random() < 0.3 else content


@pytest.mark.parametrize("seed", [0, *full([1, 2])])
async def test_no_body_breaks_the_service(serve: Serve, seed: int) -> None:
    service = await serve(operations, sync_max_operations=2, sync_seconds=60)
    answers: dict[bytes, Answer] = {}
    draw = random.Random(seed)
    contents = list(mutants(1_000, draw))
    for start in range(0, len(contents), 50):
        some = contents[start : start + 50]
        answers |= dict(zip(some, await asyncio.gather(*map(service.post_content, some)), strict=True))
    for content, answer in answers.items():
        assert_is_one_of_ours(content, answer)
    assert {200, 202, 400, 422} <= {answer.status for answer in answers.values()}
    for message in service.parts.chunks.messages:
        assert decode_chunk(message.body).operations


def assert_is_one_of_ours(content: bytes, answer: Answer) -> None:
    assert answer.status in {200, 202, 400, 413, 422}, (content, answer)
    if answer.status == 200:
        assert answer.body["summary"]["total"] == len(answer.body["results"]), content
    if answer.status >= 400:
        assert_problem(answer, answer.status)


async def test_deepest_body_that_is_taken_goes_all_the_way(serve: Serve) -> None:
    """Every body that the parser accepts in a request can also be read back from the queue."""
    service = await serve(operations, sync_max_operations=0)
    taken = 0
    for depth in range(150, 230):
        body = bury(0, depth)
        answer = await service.post([{"method": "POST", "path": "/anything", "body": body}])
        assert answer.status in {202, 400, 422}
        taken += answer.status == 202
    messages = service.parts.chunks.messages
    assert len(messages) == taken > 0
    assert [decode_chunk(message.body).operations[0].body for message in messages] == [
        bury(0, depth) for depth in range(150, 150 + taken)
    ]


@pytest.mark.parametrize(("seconds", "turns"), [(0.0, 19), (60.0, 0)])
async def test_operations_of_a_document_are_added_in_steps(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, seconds: float, turns: int
) -> None:
    taken: list[None] = []
    take = Turns.next

    async def note(others: Turns) -> None:
        taken.append(None)
        await take(others)

    service = await serve(operations)
    monkeypatch.setattr(reading, "STEP_SECONDS", seconds)
    monkeypatch.setattr(Turns, "next", note)
    answer = await service.post([{"method": "POST", "path": "/anything", "body": number} for number in range(20)])
    assert [result["result"] for result in answer.body["results"]] == list(range(20))
    assert len(taken) == turns


@pytest.mark.parametrize("place", [0, 149, 199])
async def test_validators_run_twice_at_most_for_operations_near_an_invalid_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Each operation takes a turn, so operations that cannot be added at once are added in many turns."""
    seen, taking = Counter[int](), Operations()

    def note(number: int) -> int:
        seen[number] += 1
        assert number != place
        return number

    @taking.post("/noted")
    async def noted(body: Annotated[int, AfterValidator(note)]) -> None: ...

    monkeypatch.setattr(reading, "STEP_SECONDS", 0.0)
    service = await serve(taking, sync_max_operations=0)
    answer = await service.post([{"method": "POST", "path": "/noted", "body": number} for number in range(200)])
    assert_problem(answer, 422)
    assert max(times for number, times in seen.items() if number != place) <= 2
    assert seen[place] <= 3  # once more for its errors
    assert seen.total() <= 200 + reading.ADDED_AT_ONCE


async def test_fewer_operations_are_added_at_once_if_that_takes_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[int] = []
    add = Draft.add_usual

    def note(draft: Draft, documents: Sequence[Any], lines: Sequence[int] = ()) -> bool:
        is_added = add(draft, documents, lines)
        added.extend([len(documents)] * is_added)
        return is_added

    monkeypatch.setattr(reading, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(Draft, "add_usual", note)
    service = await serve(operations, sync_max_operations=0)
    await service.post([{"method": "POST", "path": "/anything", "body": {"n": number}} for number in range(200)])
    assert added[:5] == [50, 25, 12, 6, 3]


async def test_more_operations_are_added_at_once_again_after_a_block_that_took_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else may have run on the processor meanwhile."""
    added: list[int] = []
    add = Draft.add_usual

    def note(draft: Draft, documents: Sequence[Any], lines: Sequence[int] = ()) -> bool:
        is_added = add(draft, documents, lines)
        added.extend([len(documents)] * is_added)
        monkeypatch.setattr(reading, "STEP_SECONDS", 0.0 if len(added) < 3 else 60.0)
        return is_added

    monkeypatch.setattr(Draft, "add_usual", note)
    service = await serve(operations, sync_max_operations=0)
    await service.post([{"method": "POST", "path": "/anything", "body": {"n": number}} for number in range(300)])
    assert added[:6] == [50, 25, 12, 24, 48, 50]


async def test_operations_are_not_kept_while_a_line_is_parsed_that_makes_them_too_many_elements(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    add = Draft.add

    def note(draft: Draft, document: Any, line: int | None = None) -> None:
        kept.append(len(draft.operations))
        add(draft, document, line)

    service = await serve(operations, max_elements=1_000)
    monkeypatch.setattr(Draft, "add", note)
    monkeypatch.setattr(Draft, "add_usual", lambda *_: False)
    line = json.dumps({"method": "POST", "path": "/anything", "body": [{}] * 200})
    answer = await service.post_content("\n".join([line] * 4), NDJSON)
    assert answer.status == 202
    assert kept == [0, 1, 0, 0]
