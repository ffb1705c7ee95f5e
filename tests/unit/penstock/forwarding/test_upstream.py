"""Where forwarded operations go: URLs that are taken, paths that are asked for, and what neither may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from penstock.forwarding.upstream import InvalidPath, Upstream, read_upstream, without_secrets

PREFIX = len("/api/")


@pytest.mark.parametrize(
    ("url", "upstream"),
    [
        ("https://api.example", Upstream("https", "api.example", "")),
        ("https://api.example/", Upstream("https", "api.example", "")),
        ("http://localhost:3000/v1", Upstream("http", "localhost:3000", "/v1")),
        ("http://localhost:3000/v1/", Upstream("http", "localhost:3000", "/v1")),
        ("http://[::1]:3000", Upstream("http", "[::1]:3000", "")),
        ("https://API.Example:8443/V1", Upstream("https", "api.example:8443", "/V1")),
        ("https://bücher.example", Upstream("https", "xn--bcher-kva.example", "")),
        ("https://api.example/{path}", Upstream("https", "api.example", "/", takes_rest=True)),
        ("https://api.example/v1/{path}", Upstream("https", "api.example", "/v1/", takes_rest=True)),
        ("https://api.example/@scope", Upstream("https", "api.example", "/@scope")),
    ],
)
def test_url_of_an_api_is_taken(url: str, upstream: Upstream) -> None:
    assert read_upstream(url) == upstream


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "starts with neither https:// nor http://"),
        ("api.example", "starts with neither"),
        ("api.example:443", "starts with neither"),
        ("//api.example", "starts with neither"),
        ("/v1", "starts with neither"),
        ("ftp://api.example", "starts with neither"),
        ("file:///etc/passwd", "starts with neither"),
        ("HTTPS://api.example", "starts with neither"),
        ("https://", "starts with neither"),
        ("https:///v1", "it is not a valid URL"),
        ("https://:443", "it is not a valid URL|it has no host"),
        ("https://api.example:port", "it is not a valid URL"),
        ("https://api.example:99999", "it is not a valid URL"),
        ("https://api example", "it is not a valid URL"),
        ("https://api.example/v1\r\nHost: evil", "it is not a valid URL"),
        ("https://api.example\\@evil.example", "remove the user and the password"),
        ("https://api.example/a\\b", "it is not a valid URL"),
        ("https://api.example/v1/../v2", "it is not a valid URL"),
        ("https://user:secret@api.example", "remove the user and the password"),
        ("https://user@api.example", "remove the user and the password"),
        ("https://api.example?key=secret", "remove the query"),
        ("https://api.example/#top", "remove the query"),
        ("https://api.example/{path}/more", "write {path} only at the end"),
        ("https://api.example/{rest}", "write {path} only at the end"),
        ("https://{path}", "write {path} only at the end"),
        ("https://api.example/v{path}", "write {path} only at the end"),
    ],
)
def test_url_that_is_none_of_an_api_is_refused_without_showing_what_may_be_secret(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        read_upstream(url)
    assert "secret" not in str(refused.value)
    assert "secret" not in without_secrets(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example/v1", "https://api.example/v1"),
        ("https://user:secret@api.example/v1", "https://***@api.example/v1"),
        ("https://user:sec@ret@api.example", "https://***@api.example"),
        ("user:secret@api.example", "***@api.example"),
        ("https://api.example?key=secret", "https://api.example?***"),
        ("https://user:secret@api.example?key=secret", "https://***@api.example?***"),
        ("https://user:sec/ret@api.example", "https://***@api.example"),
        ("", ""),
    ],
)
def test_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


# --- Paths

WHOLE = read_upstream("https://api.example/v1")
REST = read_upstream("https://api.example/{path}")


@pytest.mark.parametrize(
    ("path", "whole", "rest"),
    [
        ("/api/users", "/v1/api/users", "/users"),
        ("/api/", "/v1/api/", "/"),
        ("/api/users/7/orders/", "/v1/api/users/7/orders/", "/users/7/orders/"),
        ("/api/a//b", "/v1/api/a//b", "/a//b"),
        ("/api/users?x=1&y=a%20b&x=2", "/v1/api/users?x=1&y=a%20b&x=2", "/users?x=1&y=a%20b&x=2"),
        ("/api/users?", "/v1/api/users", "/users"),
        ("/api/users?a=?b", "/v1/api/users?a=?b", "/users?a=?b"),
        ("/api/users?next=/a/../b%0A", "/v1/api/users?next=/a/../b%0A", "/users?next=/a/../b%0A"),
        ("/api/users?f[name]=x+y", "/v1/api/users?f[name]=x+y", "/users?f[name]=x+y"),
        ("/api/a%2Fb", "/v1/api/a%2Fb", "/a%2Fb"),  # one piece of the path, and it stays one
        ("/api/%41%7e", "/v1/api/%41%7e", "/%41%7e"),
        ("/api/100%25", "/v1/api/100%25", "/100%25"),
        ("/api/Zoë?q=ü", "/v1/api/Zo%C3%AB?q=%C3%BC", "/Zo%C3%AB?q=%C3%BC"),
        ('/api/"x"|{y}', "/v1/api/%22x%22%7C%7By%7D", "/%22x%22%7C%7By%7D"),
        ("/api/...", "/v1/api/...", "/..."),
        ("/api/.hidden", "/v1/api/.hidden", "/.hidden"),
        ("/api/@evil.example", "/v1/api/@evil.example", "/@evil.example"),
        ("/api/http://evil.example/", "/v1/api/http://evil.example/", "/http://evil.example/"),
    ],
)
def test_path_is_asked_for_as_it_is_written(path: str, whole: str, rest: str) -> None:
    assert str(WHOLE.target(path, PREFIX)) == "https://api.example" + whole
    assert str(REST.target(path, PREFIX)) == "https://api.example" + rest


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "Start the path with a slash"),
        ("api", "Start the path with a slash"),
        ("http://evil.example/", "Start the path with a slash"),
        ("@evil.example/", "Start the path with a slash"),
        (".evil.example/", "Start the path with a slash"),
        (":80@evil.example/", "Start the path with a slash"),
        ("//evil.example/", "one slash"),
        ("//evil.example", "one slash"),
        ("///evil.example", "one slash"),
        ("/\\evil.example/", r"Percent-encode the character '\\\\'"),
        ("\\\\evil.example/", "Start the path with a slash"),
        ("/api/..", "Remove . and .."),
        ("/api/../admin", "Remove . and .."),
        ("/api/./users", "Remove . and .."),
        ("/..", "Remove . and .."),
        ("/api/%2e%2e/admin", "Remove . and .."),
        ("/api/.%2E/admin", "Remove . and .."),
        ("/api/%2e/users", "Remove . and .."),
        ("/api/%252e%252e/admin", "Remove . and .."),  # of a server that decodes twice
        ("/api/%25252e%25252e/admin", "Remove . and .."),
        ("/api/a%2F..%2Fadmin", "Remove . and .."),
        ("/api/a%2f%2e%2e%2fadmin", "Remove . and .."),
        ("/api/a%5C..%5Cadmin", "Remove . and .."),
        ("/api/..;/admin", "Remove . and .."),  # what follows the semicolon is a parameter, to some servers
        ("/api/..;a=b/admin", "Remove . and .."),
        ("/api/%2e%2e%3b/admin", "Remove . and .."),
        ("/api/%252525252e", "only once. It is encoded more than 3 times"),
        ("/api/%" + "25" * 600 + "2e", "only once. It is encoded more than 3 times"),
        ("/api/a b", "Percent-encode the character ' '"),
        ("/api/users#top", "Percent-encode the character '#'"),
        ("/api/a\r\nHost: evil.example", r"Percent-encode the character '\\r'"),
        ("/api/a\nb", r"Percent-encode the character '\\n'"),
        ("/api/a\tb", r"Percent-encode the character '\\t'"),
        ("/api/a\0b", r"Percent-encode the character '\\x00'"),
        ("/api/a\x7fb", r"Percent-encode the character '\\x7f'"),
        ("/api/a\x85b", r"Percent-encode the character '\\x85'"),
        ("/api/a\ud800b", r"Percent-encode the character '\\ud800'"),
        ("/api/users?x=a\r\nHost: evil.example", r"Percent-encode the character '\\r'"),
        ("/api/a%0d%0aHost:%20evil.example", "Remove control characters"),
        ("/api/a%250d%250a", "Remove control characters"),
        ("/api/a%00b", "Remove control characters"),
        ("/api/100%", "as %25"),
        ("/api/%zz", "as %25"),
        ("/api/%u002e", "as %25"),
        ("/api/users?x=%", "as %25"),
    ],
)
def test_path_that_could_be_read_as_another_is_refused(path: str, told: str) -> None:
    for upstream in (WHOLE, REST):
        with pytest.raises(InvalidPath, match=told):
            upstream.target(path, PREFIX)


def test_rest_that_begins_with_a_slash_names_no_host() -> None:
    with pytest.raises(InvalidPath, match="one slash"):
        REST.target("/api//evil.example/x", PREFIX)
    assert str(WHOLE.target("/api//evil.example/x", PREFIX)) == "https://api.example/v1/api//evil.example/x"


@given(st.text(st.sampled_from("/\\.%25eE;:@?#[]a \r\n\0é{"), max_size=30))
def test_whatever_the_path_only_the_host_is_asked_and_only_below_its_path(text: str) -> None:
    try:
        url = WHOLE.target("/api/" + text, PREFIX)
    except InvalidPath:
        return
    assert (url.origin(), url.user, url.fragment) == (URL("https://api.example"), None, "")
    assert url.raw_path.startswith("/v1/api/")
    assert ".." not in url.path.split("/")
