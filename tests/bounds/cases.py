"""Requests that cost much, or once did: each is small, or carries few valid operations."""

import gzip
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from penstock import zstd
from tests.bounds.front_end import LARGE_RESULTS, MIB, RESULTS_OF_A_CHUNK, SMALL_RESULTS
from tests.support.service import JSON, NDJSON

Content = Callable[[], bytes]

ELEMENTS = 199_000  # slightly fewer than PENSTOCK_MAX_ELEMENTS
JSON_BYTES = 10 * MIB
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\0\0\0\0"


@dataclass(frozen=True, slots=True)
class Case:
    """A request. Its content is made when it is needed, because all contents together are very large."""

    name: str
    make: Content = bytes
    type: str = JSON
    encoding: str = "gzip"
    is_encoded: bool = False
    url: str = "/batch"
    method: str = "POST"
    is_valid: bool = False  # it carries a large valid operation

    @property
    def headers(self) -> dict[str, str]:
        if self.method == "GET":
            return {"Accept": self.type}
        encoding = {"Content-Encoding": self.encoding} if self.encoding else {}
        return {"Content-Type": self.type, **encoding}

    def content(self) -> bytes:
        content = self.make()
        if self.is_encoded or not self.encoding:
            return content
        return gzip.compress(content, 1) if self.encoding == "gzip" else zstd.compress(content)


def operation(path: bytes, body: bytes, more: bytes = b"") -> bytes:
    return b'{"method":"POST","path":"/%b","body":%b%b}' % (path, body, more)


def document(*operations: bytes, more: bytes = b"") -> bytes:
    return b'{"operations":[%b]%b}' % (b",".join(operations), more)


def requests(*members_of_each: bytes) -> bytes:
    """Return a batch of OData. The members come after others with the same names."""
    each = (b'{"id":"%d","method":"DELETE","url":"/any",%b}' % one for one in enumerate(members_of_each))
    return b'{"requests":[%b]}' % b",".join(each)


def array(element: bytes, count: int) -> bytes:
    return b"[%b]" % b",".join([element] * count)


def members(count: int, value: bytes = b"1", name: bytes = b"u") -> bytes:
    """Return members with different names, without braces."""
    return b",".join(b'"%b%d":%b' % (name, number, value) for number in range(count))


def object_of(count: int, value: bytes = b"1", name: bytes = b"u") -> bytes:
    return b"{%b}" % members(count, value, name)


def text(characters: bytes, size: int) -> bytes:
    return b'"%b"' % (characters * (size // len(characters)))


def lines(line: bytes, size: int) -> bytes:
    return (line + b"\n") * max(1, size // (len(line) + 1))


def decimals(count: int) -> list[bytes]:
    """Return decimals that all have the hash 1."""
    return [b'"%de%d"' % (pow(10, -exponent, MODULUS), exponent) for exponent in range(count)]


def uuids(count: int) -> list[bytes]:
    """Return UUIDs that all have the hash 0."""
    return [b'"%b"' % str(UUID(int=MODULUS * number)).encode() for number in range(1, count + 1)]


CSV = "text/csv"
FILE = "/batch?method=POST&path=/any"
UNKNOWN = ELEMENTS // 2
MODULUS = 2**61 - 1  # of Python's hash of a number
SAME_HASH = [b"%d" % (MODULUS * number) for number in range(50, 100_000)]
WORST = [
    Case("2.6 million invalid items", lambda: document(operation(b"numbers", array(b'"a"', 2_600_000)))),
    Case("invalid items", lambda: document(operation(b"numbers", array(b'"a"', ELEMENTS)))),
    Case("unknown members of the request", lambda: document(b"1", more=b"," + members(UNKNOWN))),
    Case("unknown members of an operation", lambda: document(operation(b"any", b"1", b"," + members(UNKNOWN)))),
    Case("unknown members of a body", lambda: document(operation(b"closed", object_of(UNKNOWN)))),
    Case("lines of invalid items", lambda: lines(operation(b"numbers", array(b'"a"', ELEMENTS)), 60 * MIB), NDJSON),
    Case("a million empty objects", lambda: b"{}\n" * 1_000_000, NDJSON),
    Case("blank lines", lambda: b"\n" * 6 * MIB, NDJSON),
    Case("skippable frames", lambda: SKIPPABLE_FRAME * MIB, NDJSON, "zstd", is_encoded=True),
    Case("many gzip members", lambda: gzip.compress(b"") * 400_000, is_encoded=True),
    Case("numbers with 4,300 digits", lambda: document(operation(b"any", array(b"9" * 4_300, 2_000)))),
    Case("a long string", lambda: document(operation(b"numbers", text(b"\\u0000", JSON_BYTES - 100)))),
    Case(
        "very long ids", lambda: lines(b'{"id":%b,"method":"POST","path":"/any"}' % text(b"i", MIB), 60 * MIB), NDJSON
    ),
    Case("a page of large results", url=f"/batch/{LARGE_RESULTS}/results?limit=10000", method="GET"),
    Case("all small results", url=f"/batch/{SMALL_RESULTS}/results", type=NDJSON, method="GET"),
]
ODATA = "/$batch"
IN_ODATA = [
    Case("unknown members of an OData batch", lambda: b'{"requests":[1],%b}' % members(UNKNOWN), url=ODATA),
    Case("unknown members of an OData request", lambda: requests(members(UNKNOWN)), url=ODATA),
    Case(
        "invalid dependencies of OData requests", lambda: requests(b'"dependsOn":%b' % array(b"1", ELEMENTS)), url=ODATA
    ),
    Case("unknown dependencies", lambda: requests(*[b'"dependsOn":%b' % array(b'"x"', 900)] * 200), url=ODATA),
    Case("headers of OData requests", lambda: requests(b'"headers":' + object_of(UNKNOWN, b'"v"')), url=ODATA),
    Case("unknown paths of OData requests", lambda: requests(*[b'"url":"/x(1)(2)/y(3)?a=b(4)"'] * 1_000), url=ODATA),
    Case("a long URL of OData", lambda: requests(b'"url":"/%b"' % (b"a(1)/'" * (JSON_BYTES // 6 - 100))), url=ODATA),
    Case("a million OData requests", lambda: b'{"requests":%b}' % array(b"1", 1_000_000), url=ODATA),
    Case("a page of large responses of OData", url=f"{ODATA}/{LARGE_RESULTS}", method="GET"),
]
OPENAI = "/v1/files"
FORM = "multipart/form-data; boundary=B"


def form(file: bytes) -> bytes:
    """Return an upload of OpenAI."""
    purpose = b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    return b'%b--B\r\nContent-Disposition: form-data; name="file"\r\n\r\n%b\r\n--B--\r\n' % (purpose, file)


IN_OPENAI = [
    Case("lines before a form", lambda: b"\n" * 2_000_000, FORM, "", url=OPENAI),
    Case("lines after a form", lambda: form(b"{}") + b"\r\n" * 2_000_000, FORM, "", url=OPENAI),
    Case("blank lines of a form", lambda: form(b"\n" * 6 * MIB), FORM, "", url=OPENAI),
    Case("invalid lines of a form", lambda: form(b"{}\n" * 1_000_000), FORM, "", url=OPENAI),
]
MORE = [
    *IN_OPENAI,
    *IN_ODATA,
    Case("unknown members of bodies", lambda: lines(operation(b"closed", object_of(UNKNOWN)), 30 * MIB), NDJSON),
    Case("unknown members in a union", lambda: document(operation(b"one-pet", object_of(UNKNOWN)))),
    Case("members of one name", lambda: document(operation(b"map", b"{%b}" % b",".join([b'"a":1'] * UNKNOWN)))),
    Case("numbers with one hash", lambda: document(operation(b"number-set", b"[%b]" % b",".join(SAME_HASH)))),
    Case("decimals with one hash", lambda: document(operation(b"decimal-set", b"[%b]" % b",".join(decimals(60_000))))),
    Case("UUIDs with one hash", lambda: document(operation(b"uuid-map", b"{%b:1}" % b":1,".join(uuids(60_000))))),
    Case("unknown members of dataclasses", lambda: document(operation(b"closed-data", object_of(UNKNOWN)))),
    Case("lines of unknown members", lambda: lines(operation(b"closed-data", object_of(9_000)), 30 * MIB), NDJSON),
    Case("invalid items of a deque", lambda: document(operation(b"queues", array(b'"a"', ELEMENTS)))),
    Case("invalid members of an ordered dict", lambda: document(operation(b"queues", object_of(UNKNOWN, b'"a"')))),
    Case("JSON in a string", lambda: document(operation(b"json", b'"[%b]"' % b",".join([b"[]"] * 3_000_000)))),
    Case("lines of one id", lambda: lines(b'{"id":"a","method":"POST","path":"/any","body":1}', 30 * MIB), NDJSON),
    Case("large names", lambda: document(operation(b"map", object_of(90_000, name=b"k" * 90))), is_valid=True),
    Case("very long names", lambda: document(operation(b"closed", object_of(1_000, name=b"k" * 9_000)))),
    Case("one name of 9 MB", lambda: document(operation(b"closed", b'{"%b":1}' % (b"k" * 9_000_000)))),
    Case("empty arrays", lambda: document(operation(b"any", array(b"[]", UNKNOWN)))),
    Case("arrays of empty arrays", lambda: lines(operation(b"any", array(b"[]", UNKNOWN)), 60 * MIB), NDJSON),
    Case("2.6 million empty arrays", lambda: document(operation(b"any", array(b"[]", 2_600_000)))),
    Case("no operations but arrays", lambda: b'{"operations":%b}' % array(b"[]", UNKNOWN)),
    Case("deep", lambda: b"[" * 5_000_000),
    Case("deep lines", lambda: lines(operation(b"any", b"[" * 5_000 + b"]" * 5_000), 30 * MIB), NDJSON),
    Case("a number with 9 million digits", lambda: document(operation(b"any", b"9" * 9_000_000))),
    Case("numbers with 1,000 digits", lambda: document(operation(b"any", array(b"9" * 1_000, 10_000)))),
    Case("2,000 numbers with 1,000 digits", lambda: document(operation(b"any", array(b"9" * 1_000, 1_999)))),
    Case("a string without an end", lambda: b'["' + (b"9" * 1_001 + b'\\"') * 9_900),
    Case(
        "digits and many quotes", lambda: document(operation(b"any", b'["%b"%b]' % (b"9" * 1_001, b'""' * 4_900_000)))
    ),
    Case("a string of separators", lambda: document(operation(b"any", text(b",:[{", JSON_BYTES - 100))), is_valid=True),
    Case("operations too large to send", lambda: lines(operation(b"any", text(b"\\u0000", 5 * MIB)), 60 * MIB), NDJSON),
    Case("blanks", lambda: b" " * JSON_BYTES),
    Case("lines of blanks", lambda: lines(b" " * MIB, 60 * MIB), NDJSON),
    Case("empty frames", lambda: zstd.compress(b"") * 800_000, NDJSON, "zstd", is_encoded=True),
    Case("long paths", lambda: lines(operation(b"a" * 2_000, b"1"), 60 * MIB), NDJSON),
    Case("all large results", url=f"/batch/{LARGE_RESULTS}/results", type=NDJSON, method="GET"),
    Case("all large results of a chunk", url=f"/batch/{RESULTS_OF_A_CHUNK}/results", type=NDJSON, method="GET"),
    Case("a page of large results of a chunk", url=f"/batch/{RESULTS_OF_A_CHUNK}/results?limit=10000", method="GET"),
    Case("no failures in a chunk", url=f"/batch/{RESULTS_OF_A_CHUNK}/results?status=failed", method="GET"),
    Case("a page of small results", url=f"/batch/{SMALL_RESULTS}/results?limit=10000", method="GET"),
]

FILES = [
    Case("a row of very many cells", lambda: b"a,b\n" + b"ab," * 2 * MIB, CSV, url=FILE),
    Case("a row of empty cells", lambda: b"a,b\n" + b"," * 6 * MIB, CSV, url=FILE),
    Case("a header of very many names", lambda: b",".join(b"%d" % number for number in range(800_000)), CSV, url=FILE),
    Case("a header that never ends", lambda: b'"' + b'""\n' * MIB, CSV, url=FILE),
    Case("a cell of line breaks", lambda: b'a\n"' + b"\n" * MIB, CSV, url=FILE),
    Case("rows of delimiters in quotes", lambda: b"a\n" + lines(b'"' + b"," * 900_000 + b'"', 9 * MIB), CSV, url=FILE),
    Case("a row of quotes", lambda: b"a\n" + b'"' * 6 * MIB, CSV, url=FILE),
    Case("a cell of quotes", lambda: b'a\n"' + b'""' * 2_000_000 + b"\n", CSV, url=FILE),
    Case("blank rows in quotes", lambda: b"a,b\n" + b'"\n"\n' * 2 * MIB, CSV, url=FILE),
    Case("cells that end and begin", lambda: b'a,b\n"' + b'","\n' * MIB, CSV, url=FILE),
    Case("lines with a CR in quotes", lambda: b"a,b\n" + b'"\r"\n' * MIB, CSV, url=FILE),
    Case("a row without an end", lambda: b"a\n" + b"x" * 60 * MIB, CSV, url=FILE),
    Case("rows with too many cells", lambda: b"a\n" + b"1,2\n" * MIB, CSV, url=FILE),
    Case("empty rows", lambda: b"a,b\n" + b",\n" * MIB, CSV, url=FILE),
    Case("UTF-16 of zeros", lambda: b"\xff\xfe" + b"\0" * 60 * MIB, CSV, url=f"{FILE}&charset=utf-16"),
    Case("bodies of empty arrays", lambda: lines(b'{"a":%b}' % array(b"[]", UNKNOWN), 10 * MIB), NDJSON, url=FILE),
    Case("a file of an old Mac", lambda: b"a\r" + b"1\r" * 30 * MIB, CSV, url=FILE),
]

_PATHS = [
    b"numbers",
    b"number-set",
    b"map",
    b"decimal-set",
    b"uuid-map",
    b"closed",
    b"closed-ones",
    b"closed-data",
    b"queues",
    b"json",
    b"pets",
    b"one-pet",
    b"any",
    b"text",
    b"files/a",
    b"unknown",
]
_ELEMENTS = [
    b"1",
    b"-1.5e3",
    b"null",
    b'"a"',
    b'""',
    b"[]",
    b"{}",
    b'{"number":1}',
    b'{"a":1}',
    b"9" * 1_000,
    b"9" * 4_000,
]
_CHARACTERS = [b"x", b"\\u0000", b'\\"', b"\\\\", "é".encode(), "😀".encode(), b",:[{", b"9", b"\xff", b"\\ud800"]
_NAMES = [b"u", b"number", b"k" * 100, b"\\u0061", b"k" * 2_000]


def random_cases(seed: int, count: int) -> Iterator[Case]:
    """Yield random requests of the same kinds. The same seed gives the same requests."""
    for number in range(count):
        yield _random_case(random.Random(f"{seed}-{number}"), f"seed {seed}-{number}")


def _random_case(draw: random.Random, name: str) -> Case:
    kind, encoding = draw.choice([JSON, NDJSON]), draw.choice(["gzip", "gzip", "zstd", ""])
    size = int(2 ** draw.uniform(14, 25.5 if kind == NDJSON and encoding else 23.3))
    value_size = int(2 ** draw.uniform(4, 23))

    def make() -> bytes:
        content = _lines(draw, size, value_size) if kind == NDJSON else _document(draw, size, value_size)
        return content[: draw.randrange(len(content))] if draw.random() < 0.1 else content

    return Case(f"{name}, {kind}, {encoding or 'plain'}, {size:,} of {value_size:,} bytes", make, kind, encoding)


def _document(draw: random.Random, size: int, value_size: int) -> bytes:
    asked = [_operation(draw, min(size, value_size)) for _ in range(draw.choice([1, 3]))]
    repeated = asked * max(1, min(1_000, size // sum(map(len, asked))))
    more = b',"more":' + _value(draw, min(size, value_size)) if draw.random() < 0.2 else b""
    return document(*repeated, more=more)


def _lines(draw: random.Random, size: int, value_size: int) -> bytes:
    of_some = b"\n".join(_operation(draw, min(size, value_size)) for _ in range(draw.choice([1, 3])))
    blank = draw.choice([b"", b"", b"\n" * 100, b" " * 10_000 + b"\n", b"\r\n"])
    return lines(of_some + b"\n" + blank, size)


def _operation(draw: random.Random, size: int) -> bytes:
    path, value = draw.choice(_PATHS), _value(draw, size)
    makes: list[Content] = [
        *[lambda: operation(path, value)] * 3,
        lambda: operation(path, b"[1]", b',"more":' + value),
        lambda: operation(path, b"[1]", b"," + members(size // 20)),
        lambda: b'{"id":%b,"method":"POST","path":"/any"}' % value,
        lambda: b'{"method":%b,"path":"/any"}' % value,
        lambda: value,
    ]
    return draw.choice(makes)()


def _value(draw: random.Random, size: int) -> bytes:
    element, characters, name = draw.choice(_ELEMENTS), draw.choice(_CHARACTERS), draw.choice(_NAMES)
    depth = draw.choice([10, 180, 5_000])
    makes: list[Content] = [
        lambda: array(element, 1 + size // (len(element) + 1)),
        lambda: object_of(1 + size // (len(name) + len(element) + 10), element, name),
        lambda: b"{%b}" % b",".join([b'"%b":%b' % (name, element)] * (1 + size // (len(name) + len(element) + 4))),
        lambda: text(characters, size),
        lambda: array(b"[" * depth + b"]" * depth, 1 + size // (2 * depth)),
        lambda: array(b'{"inner":' * depth + b"{}" + b"}" * depth, 1 + size // (10 * depth)),
        lambda: b"9" * size,
    ]
    return draw.choice(makes)()
