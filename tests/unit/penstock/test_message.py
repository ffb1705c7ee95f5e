"""A chunk as text and back: nothing is lost, everything fits, and what is not a chunk is told as such."""

import base64
import contextlib
import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as with_changes
from pydantic_core import from_json, to_json

from penstock import zstd
from penstock.chunk import Chunk, Fit, Links, Operation, Planner, Reference, UrlRule
from penstock.errors import UnreadableMessage
from penstock.message import (
    ATTRIBUTE_BYTES,
    BILLING_UNIT_BYTES,
    MAX_UNPACKED_BYTES,
    decode_chunk,
    decode_dead_letter,
    encode_chunk,
    encode_dead_letter,
    encode_operation,
    join_message,
    room_in_message,
    size_on_the_queue,
)
from penstock.outcome import Outcome, failed

LONGEST_BATCH_ID = "0" * 40
OTHER_IDS = ["17.0.10000.203", "17.d1.0.1.0", "17" + ".1" * 440]
LONGEST_CHUNK_ID = "12345678" + ".1" * 96  # 200 characters
SMALLEST_MESSAGE = 4_096  # the settings allow no less
# What XML, and so SQS, takes of the characters: https://www.w3.org/TR/xml/#charsets
TAKEN_BY_SQS = [(0x9, 0x9), (0xA, 0xA), (0xD, 0xD), (0x20, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF)]


def make_chunk(*bodies: Any, chunk_id: str = "17", attempt: int = 1, not_before: float | None = None) -> Chunk:
    operations = tuple(Operation(index, f"op-{index}", "POST", "/users", body) for index, body in enumerate(bodies))
    return Chunk("01J", chunk_id, attempt, operations, not_before)


def size(text: str) -> int:
    return len(text.encode())


def noise(length: int, seed: int = 0) -> str:
    """Text that does not compress to less than three quarters."""
    return base64.b64encode(random.Random(seed).randbytes(length * 3 // 4)).decode()


def nested(depth: int) -> Any:
    return from_json(b"[" * depth + b"]" * depth)


# --- There and back


@pytest.mark.parametrize(
    "body",
    [
        None,  # no body
        False,
        0,
        "",
        [],
        {},
        {"a": [1, 2.5, "x", None, True], "": {"b": {}}},
        "Grüße, 世界, 🛠, e\u0301",  # beyond ASCII, beyond the BMP, combining
        "\ufffe\uffff \ufffd\ue000",  # two that SQS refuses, and their neighbours
        {"\uffff": "a key may hold them too"},
        "".join(map(chr, range(0x20))),  # control characters
        "\x7f\x80\x9f\u2028\u2029\ufeff",
        '"\\/ \\u0000 \\ufffe',  # what looks like an escape and is none
        9 * 10**4_299,  # the longest integer that the parser takes
        -(10**4_299),
        2**53 + 1,  # JavaScript's floats cannot hold it
        0.1 + 0.2,
        5e-324,
        1.7976931348623157e308,
        float("inf"),  # what 1e400 in a body is read as
        [float("-inf")],
        from_json(b'{"a": 1e400}'),
    ],
    ids=lambda body: repr(body)[:40],
)
def test_body_comes_back_as_it_was(body: Any) -> None:
    chunk = make_chunk(body)
    assert decode_chunk(encode_chunk(chunk)) == chunk


@pytest.mark.parametrize("keys", [["a", None], [None, 'b "\\ ~'], ["[{", "a" * 255]])
def test_keys_come_back_also_from_a_dead_letter(keys: list[str | None]) -> None:
    chunk = make_chunk("x", {"y": []})
    with_keys = replace(
        chunk, operations=tuple(map(lambda one, key: with_changes(one, key=key), chunk.operations, keys))
    )
    assert decode_chunk(encode_chunk(with_keys)) == with_keys
    assert decode_chunk(encode_letter(with_keys)) == with_keys


def test_message_without_keys_is_written_as_by_earlier_versions() -> None:
    assert encode_chunk(make_chunk({"a": 1})) == (
        '{"v":1,"batch":"01J","chunk":"17","attempt":1,"operations":[[0,"op-0","POST","/users",{"a":1}]]}'
    )


def test_message_with_a_key_is_not_readable_by_earlier_versions() -> None:
    text = join_message("01J", "17", [encode_operation(Operation(0, "a", "GET", "/x", None, "k"))], version=2)
    assert text == '{"v":2,"batch":"01J","chunk":"17","attempt":1,"operations":[[0,"a","GET","/x",null,"k"]]}'
    with pytest.raises(UnreadableMessage):
        decode_chunk(text.replace('"v":2', '"v":1'))


@pytest.mark.parametrize(
    ("links", "version"),
    [
        (Links((0, 1), 1), 3),
        (Links((0,), None, (Reference(0, "a", ("id", "Id")),)), 5),
        (Links((0,), 1, (Reference(0, "a", ("id",), UrlRule(("@id",), ("h",), ("/bulk",))),)), 5),
    ],
)
def test_links_come_back_also_from_a_dead_letter(links: Links, version: int) -> None:
    chunk = Chunk("01J", "17", 1, (Operation(2, "b", "POST", "/a/{a}", {}, "key", links),))
    text = encode_chunk(chunk)
    assert text.startswith(f'{{"v":{version},')
    assert decode_chunk(text) == chunk
    letter = encode_dead_letter(chunk, all_failed(chunk), message_bytes=2**20)
    assert letter.startswith(f'{{"v":{version},')
    assert decode_dead_letter(letter)[0] == chunk


def test_links_without_references_are_written_as_by_earlier_versions() -> None:
    chunk = Chunk("01J", "17", 1, (Operation(2, "b", "POST", "/a", None, None, Links((0,), 1)),))
    assert '[2,"b","POST","/a",null,null,[[0],1]]' in encode_chunk(chunk)


def test_minus_zero_keeps_its_sign() -> None:
    body = decode_chunk(encode_chunk(make_chunk(-0.0))).operations[0].body
    assert str(body) == "-0.0"


def test_body_as_deep_as_a_request_may_hold_it_comes_back() -> None:
    depth = deepest_body_in_a_request()
    chunk = make_chunk(nested(depth))
    assert depth > 150
    assert decode_chunk(encode_chunk(chunk)) == chunk
    assert decode_chunk(encode_letter(chunk)) == chunk


@pytest.mark.parametrize("others", ["", '[1,"b","GET","/x",null],' * 300, '[1,"b","GET","/x",{"a":["{"]}],' * 300])
def test_body_that_is_too_deep_to_be_recorded_makes_a_message_unreadable(others: str) -> None:
    def read(depth: int) -> Chunk:
        body = '{"a":[' * (depth // 2) + "]}" * (depth // 2)
        return decode_chunk(message(operations="HERE").replace('"HERE"', f'[{others}[0,"a","POST","/x",{body}]]'))

    assert len(read(190).operations) == others.count("GET") + 1
    for depth in (200, 202, 250, 300, 2_000):
        with pytest.raises(UnreadableMessage, match="recursion"):
            read(depth)


def deepest_body_in_a_request() -> int:
    def is_taken(depth: int) -> bool:
        try:
            from_json(b'{"operations": [{"body": ' + b"[" * depth + b"]" * depth + b"}]}")
        except ValueError:
            return False
        return True

    return max(filter(is_taken, range(1_000)))


def test_ids_and_paths_of_any_characters_come_back() -> None:
    odd = '\ufffe "\\\x00/🛠'
    chunk = Chunk("01J", "0", 1, (Operation(0, odd, "GET", f"/{odd}", None),))
    assert decode_chunk(encode_chunk(chunk)) == chunk


@pytest.mark.parametrize(
    "chunk_id",
    [
        "0",
        "17.1",
        "17.2.1",
        "17.d1",
        "17.1.d12.1",
        "17.0.10000.203",
        "17.d1.0.1.0",
        LONGEST_CHUNK_ID,
        "17" + ".1" * 440,
    ],
)
@pytest.mark.parametrize(("attempt", "not_before"), [(1, None), (7, 1_700_000_000.123456), (10**9, 0.0)])
def test_head_comes_back_as_it_was(chunk_id: str, attempt: int, not_before: float | None) -> None:
    chunk = make_chunk({"a": 1}, chunk_id=chunk_id, attempt=attempt, not_before=not_before)
    assert decode_chunk(encode_chunk(chunk)) == chunk


@pytest.mark.parametrize("seed", range(20))
def test_any_chunk_comes_back_and_holds_only_what_sqs_takes(seed: int) -> None:
    draw = random.Random(seed)
    chunk = make_chunk(*(draw_json(draw, depth=4) for _ in range(draw.randint(1, 60))))
    text = encode_chunk(chunk)
    assert decode_chunk(text) == chunk
    assert not [character for character in text if not is_taken_by_sqs(character)]


def draw_json(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(7 if depth else 5)
    match kind:
        case 0:
            return draw.choice([None, True, False])
        case 1:
            return draw.randint(-(10**30), 10**30)
        case 2:
            return draw.uniform(-1e9, 1e9)
        case 3 | 4:
            return draw_text(draw)
        case 5:
            return [draw_json(draw, depth - 1) for _ in range(draw.randrange(5))]
        case _:
            return {draw_text(draw): draw_json(draw, depth - 1) for _ in range(draw.randrange(5))}


def draw_text(draw: random.Random) -> str:
    planes = [(0, 0x20), (0x20, 0x7F), (0x7F, 0xD800), (0xFFF0, 0x10000), (0x10000, 0x110000)]
    return "".join(chr(draw.randrange(*draw.choice(planes))) for _ in range(draw.randrange(40)))


def is_taken_by_sqs(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in TAKEN_BY_SQS)


# --- Compressed where that saves


def test_message_of_one_billing_unit_travels_plain() -> None:
    chunk = make_chunk("a" * (BILLING_UNIT_BYTES - 200))
    assert encode_chunk(chunk).startswith('{"v":1')


def test_message_that_shrinks_by_a_billing_unit_is_compressed() -> None:
    chunk = make_chunk("a" * BILLING_UNIT_BYTES)
    text = encode_chunk(chunk)
    assert text.startswith("zstd:")
    assert size(text) <= BILLING_UNIT_BYTES
    assert decode_chunk(text) == chunk


def test_message_that_shrinks_within_its_billing_units_travels_plain() -> None:
    # It gets smaller by a quarter, and as base64 grows by a third again.
    chunk = make_chunk(noise(2 * BILLING_UNIT_BYTES - 500))
    assert encode_chunk(chunk).startswith('{"v":1')


@pytest.mark.parametrize("units", [1, 2, 5, 16])
def test_message_never_costs_more_billing_units_than_its_plain_text(units: int) -> None:
    for length in (units * BILLING_UNIT_BYTES - 500, units * BILLING_UNIT_BYTES + 500):
        for content in ("a" * length, noise(length), noise(length // 2) + "a" * (length // 2)):
            chunk = make_chunk(content)
            plain = sum(map(len, map(encode_operation, chunk.operations)))
            assert -(-size(encode_chunk(chunk)) // BILLING_UNIT_BYTES) <= -(-(plain + 100) // BILLING_UNIT_BYTES)
            assert decode_chunk(encode_chunk(chunk)) == chunk


# --- Whatever is planned with room_in_message fits


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("message_bytes", [SMALLEST_MESSAGE, 70_000, 262_144])
def test_planned_chunk_fits_the_message_under_any_id(seed: int, message_bytes: int) -> None:
    draw = random.Random(seed)
    room = room_in_message(message_bytes)
    operations = [
        Operation(index, str(index), "POST", "/users", noise(draw.randrange(min(room - 200, 20_000)), seed + index))
        for index in range(60)
    ]
    encoded = [encode_operation(operation) for operation in operations]
    planner = Planner(Fit(100, room, seconds=1, least_chunks=1))
    for one in encoded:
        planner.begins_chunk(size_on_the_queue(one), 0)
    for start, end in itertools.pairwise([*planner.starts, len(encoded)]):
        text = join_message(
            LONGEST_BATCH_ID,
            LONGEST_CHUNK_ID,
            encoded[start:end],
            attempt=10**9,
            not_before=1_700_000_000.123456,
        )
        assert size(text) + ATTRIBUTE_BYTES <= message_bytes


@pytest.mark.parametrize("message_bytes", [SMALLEST_MESSAGE, 65_536, 2**20])
def test_operation_that_fills_a_chunk_to_the_byte_fits_and_so_does_its_dead_letter(message_bytes: int) -> None:
    chunk = filled_to_the_byte(message_bytes)
    letter = replace(chunk, not_before=None)
    assert size(encode_chunk(chunk)) + ATTRIBUTE_BYTES <= message_bytes
    for detail in ("", "x" * 5_000):
        text = encode_letter(letter, detail, message_bytes=message_bytes)
        assert size(text) <= message_bytes
        assert decode_chunk(text) == letter


def filled_to_the_byte(message_bytes: int) -> Chunk:
    """A chunk of one operation than which no larger one is planned."""
    room = room_in_message(message_bytes)
    chunk = make_chunk("", chunk_id=LONGEST_CHUNK_ID, attempt=10**9, not_before=1_700_000_000.123456)
    empty = size_on_the_queue(encode_operation(chunk.operations[0]))
    operation = Operation(0, "op-0", "POST", "/users", noise(room + 3)[: room - empty])
    assert size_on_the_queue(encode_operation(operation)) == room
    return Chunk(LONGEST_BATCH_ID, chunk.id, chunk.attempt, (operation,), chunk.not_before)


# --- Dead letters


def all_failed(chunk: Chunk, detail: str = "It broke.") -> list[Outcome]:
    return [failed(operation, 500, "Broke", detail) for operation in chunk.operations]


def encode_letter(chunk: Chunk, detail: str = "It broke.", *, message_bytes: int = 2**20) -> str:
    return encode_dead_letter(chunk, all_failed(chunk, detail), message_bytes=message_bytes)


def test_dead_letter_runs_again_as_a_chunk() -> None:
    letter = make_chunk("a", "b", chunk_id="17.1.d1")
    assert decode_chunk(encode_letter(letter)) == letter


def test_dead_letter_says_how_its_operations_failed() -> None:
    chunk = make_chunk("a", "b", "c")
    failures = [
        failed(chunk.operations[2], 409, "Rejected", "Taken."),
        failed(chunk.operations[0], 500, "Broke"),
        failed(chunk.operations[1], 500, "Broke", "It is not in this letter."),
    ]
    letter = replace(chunk, id="17.d1", operations=(chunk.operations[0], chunk.operations[2]))
    text = encode_dead_letter(letter, failures, message_bytes=2**20)
    assert decode_dead_letter(text) == (
        letter,
        {
            0: {"status": 500, "error": {"title": "Broke"}},
            2: {"status": 409, "error": {"title": "Rejected", "detail": "Taken."}},
        },
    )


def test_chunk_that_is_no_dead_letter_says_nothing_of_failures() -> None:
    chunk = make_chunk("a")
    assert decode_dead_letter(encode_chunk(chunk)) == (chunk, {})


def test_dead_letter_leaves_out_the_words_where_all_does_not_fit() -> None:
    chunk = make_chunk(noise(3_000))
    text = encode_letter(chunk, "x" * 2_000, message_bytes=SMALLEST_MESSAGE)
    assert size(text) <= SMALLEST_MESSAGE
    assert decode_dead_letter(text) == (chunk, {})


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("message_bytes", [SMALLEST_MESSAGE, 70_000, 262_144])
def test_dead_letter_of_any_planned_chunk_fits(seed: int, message_bytes: int) -> None:
    draw = random.Random(seed)
    chunk = draw_full_chunk(draw, message_bytes)
    failures = [failed(one, 500, "Broke", noise(draw.randrange(3_000), seed)) for one in chunk.operations]
    text = encode_dead_letter(chunk, failures, message_bytes=message_bytes)
    assert size(text) <= message_bytes
    assert decode_chunk(text) == chunk


def draw_full_chunk(draw: random.Random, message_bytes: int) -> Chunk:
    """As many operations as are planned into one."""
    left = room_in_message(message_bytes)
    operations: list[Operation] = []
    while True:
        body = noise(draw.choice([10, 500, 3_000]) + draw.randrange(100), draw.randrange(1_000))
        operation = Operation(len(operations), f"op-{len(operations)}", "POST", "/users", body)
        left -= size_on_the_queue(encode_operation(operation))
        if left < 0:
            return Chunk(LONGEST_BATCH_ID, LONGEST_CHUNK_ID, 10**9, tuple(operations))
        operations.append(operation)


def test_characters_that_sqs_refuses_do_not_reach_it_through_an_error() -> None:
    text = encode_letter(make_chunk("a"), "\ufffe\uffff\x00\ud800")
    assert all(map(is_taken_by_sqs, text))
    assert decode_dead_letter(text)[1][0]["error"]["detail"] == "\ufffe\uffff\x00?"


# --- What is not a chunk of ours


def message(**changes: Any) -> str:
    content: dict[str, Any] = {
        "v": 1,
        "batch": "01J",
        "chunk": "17",
        "attempt": 1,
        "operations": [[0, "a", "GET", "/x", None]],
    }
    content |= changes
    kept = {name: value for name, value in content.items() if value is not ...}
    return to_json(kept).decode()


def packed(plain: bytes) -> str:
    return "zstd:" + base64.b64encode(zstd.compress(plain)).decode()


def test_the_messages_below_would_be_read_without_their_fault() -> None:
    assert decode_chunk(message()).operations == (Operation(0, "a", "GET", "/x"),)
    assert decode_chunk(packed(message().encode())) == decode_chunk(message())


def test_members_that_a_later_program_may_add_are_passed_over() -> None:
    assert decode_chunk(message(priority="high")) == decode_chunk(message())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not JSON"),
        ("hello", "is not JSON"),
        ("\x00", "is not JSON"),
        (message()[:-1], "is not JSON"),
        (message() + "}", "is not JSON"),
        ("[" * 100_000, "is not JSON.*recursion"),
        ('{"v": ' + "9" * 5_000 + "}", "is not JSON.*number out of range"),
        (message(batch="01J")[:-5] + "\ud800" + message()[-5:], "is not valid Unicode"),
        ("null", "is not a chunk: as a whole"),
        ("17", "is not a chunk: as a whole"),
        ("[]", "is not a chunk: as a whole"),
        ('"zstd:"', "is not a chunk: as a whole"),
        ("{}", "is not a chunk: v: Field required"),
        ('{"Records": [{"s3": {}}]}', "is not a chunk: v: Field required"),
        (message(v=6), "has format version 6. This program reads versions up to 5; update it"),
        (message(v=6, chunk=..., operations={"a": 1}), "has format version 6"),  # whatever else it holds by then
        (message(v=10**400), r"has format version 10+\."),
        (message(v=0), "is not a chunk: v"),
        (message(v=-1), "is not a chunk: v"),
        (message(v="1"), "is not a chunk: v"),
        (message(v=2.5), "is not a chunk: v"),
        (message(v=None), "is not a chunk: v"),
        (message(v=[2]), "is not a chunk: v"),
        (message(batch=...), "is not a chunk: batch: Field required"),
        (message(batch=""), "is not a chunk: batch"),
        (message(batch=17), "is not a chunk: batch"),
        (message(batch="a#b"), "is not a chunk: batch"),  # would be another batch's key
        (message(batch="a" * 41), "is not a chunk: batch"),  # longer than room was kept for
        (message(batch="\x00"), "is not a chunk: batch"),
        (message(chunk=...), "is not a chunk: chunk: Field required"),
        (message(chunk=17), "is not a chunk: chunk"),
        (message(chunk=""), "is not a chunk: chunk"),
        (message(chunk="x"), "is not a chunk: chunk"),
        (message(chunk="-1"), "is not a chunk: chunk"),
        (message(chunk="17."), "is not a chunk: chunk"),
        (message(chunk="17..1"), "is not a chunk: chunk"),
        (message(chunk="17.dd1"), "is not a chunk: chunk"),
        (message(chunk="d1"), "is not a chunk: chunk"),
        (message(chunk="17\n"), "is not a chunk: chunk"),
        (message(chunk="\u0661\u0667"), "is not a chunk: chunk"),  # digits, but not the ten we write
        (message(chunk="9" * 5_000), "is not a chunk: chunk"),  # int() would refuse it later
        (message(attempt=...), "is not a chunk: attempt: Field required"),
        (message(attempt=0), "is not a chunk: attempt"),
        (message(attempt="1"), "is not a chunk: attempt"),
        (message(attempt=True), "is not a chunk: attempt"),
        (message(attempt=1.5), "is not a chunk: attempt"),
        (message(not_before="now"), "is not a chunk: not_before"),
        (message(not_before=float("inf")), "is not a chunk: not_before"),
        (message(not_before=float("nan")), "is not a chunk: not_before"),
        (message(operations=...), "is not a chunk: operations: Field required"),
        (message(operations=[]), "is not a chunk: operations"),
        (message(operations={}), "is not a chunk: operations"),
        (message(operations=[{}]), "is not a chunk: operations/0"),
        (message(operations=[[0, "a", "GET", "/x"]]), "is not a chunk: operations/0/4"),
        (message(operations=[[0, "a", "GET", "/x", None, None]]), "is not a chunk: operations/0"),
        (message(chunk="17" + ".1" * 450), "is not a chunk: chunk: Value error, it is longer than 900 characters"),
        (
            message(chunk="17" + ".0.1.2.d1" * 60),
            "is not a chunk: chunk: Value error, it is longer than 900 characters",
        ),
        (message(chunk="17.0.01.5"), "is not a chunk: chunk"),
        (message(operations=[["0", "a", "GET", "/x", None]]), "is not a chunk: operations/0/0"),
        (message(operations=[[True, "a", "GET", "/x", None]]), "is not a chunk: operations/0/0"),
        (message(operations=[[0, 5, "GET", "/x", None]]), "is not a chunk: operations/0/1"),
        (message(operations=[[0, "a", None, "/x", None]]), "is not a chunk: operations/0/2"),
        (message(failures=[[0, "broke", None]]), "is not a chunk: failures/0/1"),
        ("zstd:", "is not JSON"),
        ("zstd:!!!!", "is compressed and cannot be decompressed"),
        ("zstd:é", "is compressed and cannot be decompressed"),
        ("zstd: " + packed(b"{}")[5:], "is compressed and cannot be decompressed"),
        (packed(message().encode())[:-1], "is compressed and cannot be decompressed"),  # base64 that lost a letter
        (packed(message().encode())[:-8], "is not JSON"),  # a frame that lost its end
        ("zstd:" + base64.b64encode(message().encode()).decode(), "is compressed and cannot be decompressed"),
        (
            "zstd:" + base64.b64encode(b"\x28\xb5\x2f\xfd" + b"\xff" * 50).decode(),
            "is compressed and cannot be decompressed",
        ),
        (packed(b""), "is not JSON"),
        (packed(b"\xff\xfe{}"), "is not JSON"),
        (packed(packed(message().encode()).encode()), "is not JSON"),  # packed twice
        (packed(b"[]"), "is not a chunk: as a whole"),
        (packed(message(v=6).encode()), "has format version 6"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_not_a_chunk_is_told_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(UnreadableMessage, match=rf"^The message {why}") as told:
        decode_chunk(text)
    assert str(told.value).endswith(".")


def test_message_that_unpacks_without_end_is_refused_before_it_fills_the_memory() -> None:
    bomb = packed(b" " * (MAX_UNPACKED_BYTES + 1))
    assert size(bomb) < 20_000
    with pytest.raises(UnreadableMessage, match=r"^The decompressed message is larger than 8,388,608 bytes\.$"):
        decode_chunk(bomb)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_message_is_a_chunk_or_unreadable_and_nothing_else(seed: int) -> None:
    draw = random.Random(seed)
    originals = [encode_chunk(make_chunk("a" * 100_000, {"b": 1})), encode_chunk(make_chunk("a", {"b": [1]}))]
    for _ in range(200):
        letters = list(draw.choice(originals))
        for _ in range(draw.randint(1, 3)):
            letters[draw.randrange(len(letters))] = draw.choice('{}[]",:0123456789.-aeZ\\é\x00\ud800')
        with contextlib.suppress(UnreadableMessage):
            decode_chunk("".join(letters))
