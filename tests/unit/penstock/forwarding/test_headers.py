"""Which headers forwarded operations take along, and their key as one."""

import pytest

from penstock.forwarding.headers import check_added, check_passed, is_plain, to_key_header


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "Accept-Language", "If-Match", "traceparent", "X-Any"])
def test_headers_about_the_caller_and_the_question_may_be_passed_on(name: str) -> None:
    assert check_passed([name]) == (name,)
    assert check_added({name: "x"}) == {name: "x"}


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Content-Length",
        "content-type",
        "Content-Encoding",
        "Transfer-Encoding",
        "Upgrade",
        "TE",
        "Keep-Alive",
        "Expect",
        "Accept-Encoding",
        "Idempotency-Key",
        "Proxy-Authorization",
        "",
        "A B",
        "A:",
        "A\r\nB",
        "Ä",
    ],
)
def test_headers_about_the_connection_and_names_that_are_none_may_not(name: str) -> None:
    with pytest.raises(ValueError, match=r"remove|is not a valid"):
        check_passed(["X-Any", name])
    with pytest.raises(ValueError, match=r"remove|is not a valid"):
        check_added({name: "x"})


@pytest.mark.parametrize("name", ["Host", "Prefer", "Accept"])
def test_what_a_batch_says_of_itself_is_not_passed_on_but_may_be_added(name: str) -> None:
    with pytest.raises(ValueError, match=f"remove {name}"):
        check_passed([name])
    assert check_added({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("value", ["secret\r\nHost: evil", "secret\n", "sécret", "secret\0", 5])
def test_value_that_is_no_header_is_refused_and_not_shown(value: str) -> None:
    assert not is_plain(value)
    with pytest.raises(ValueError, match="the value of Authorization must be one line of printable ASCII") as refused:
        check_added({"Authorization": value})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "header"),
    [
        ("01J/0", '"01J/0"'),
        ("01J/a b", '"01J/a b"'),
        ('01J/"x"', r'"01J/\"x\""'),
        (r"01J/\x", r'"01J/\\x"'),
        ("01J/ä", '"01J/%C3%A4"'),
        ("01J/%C3%A4", '"01J/%25C3%25A4"'),  # another key than the one above
        ("01J/\r\nHost: evil", '"01J/%0D%0AHost: evil"'),
        ("01J/\0\x7f", '"01J/%00%7F"'),
    ],
)
def test_key_is_a_string_of_structured_fields(key: str, header: str) -> None:
    assert to_key_header(key) == header
