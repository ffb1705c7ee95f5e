"""The rows of an export, from the windows of a batch."""

from collections.abc import AsyncIterator, Sequence

from penstock.service.batches.export_files import NdjsonForm, lines_of
from penstock.service.batches.families import WINDOW_BYTES, WINDOW_OUTCOMES, Window


async def read(*windows: Sequence[bytes]) -> AsyncIterator[tuple[int, Window]]:
    """Yield windows with these texts, each as another planned chunk."""
    for chunk, texts in enumerate(windows):
        count = sum(text.count(b"\n") + 1 for text in texts)
        yield chunk, Window(range(count), texts, memory_bytes=0)


async def test_windows_are_joined_and_their_texts_are_not_copied() -> None:
    texts = [b'{"id":"0"}\n{"id":"1"}', b'{"id":"2"}', b'{"id":"3"}\n{"id":"4"}']
    [lines] = [lines async for lines in lines_of(read(texts[:2], texts[2:]))]
    assert [kept is text for kept, text in zip(lines.texts, texts, strict=True)] == [True] * 3
    assert list(lines) == [b'{"id":"%d"}' % number for number in range(5)]
    assert (lines.count, lines.cursor.chunk, lines.cursor.index) == (5, 1, 1)


async def test_joined_windows_have_a_limited_size() -> None:
    half, many = b"x" * (WINDOW_BYTES // 2 + 1), b"\n".join([b"1"] * WINDOW_OUTCOMES)
    windows = lines_of(read([half], [half], [b"1"], [many], [b"1"]))
    assert [lines.count async for lines in windows] == [1, 2 + WINDOW_OUTCOMES, 1]


async def test_rows_of_ndjson_have_as_many_bytes_as_it_says() -> None:
    form = NdjsonForm()
    async for lines in lines_of(read([b"1\n22", b"333"], [b"4444"])):
        rows = b"".join(form.rows(lines))
        assert rows == b"1\n22\n333\n4444\n"
        assert form.most_bytes(lines) == len(rows)
