import pytest

from penstock.service.dialects.odata.urls import ServiceRoot, Target, read_url, with_keys_as_segments

ROOT = ServiceRoot(frozenset({"api.example", "10.0.0.1:8000"}), ("/bulk/v1.0", "/bulk"))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("users/5", "/users/5"),
        ("/users/5", "/users/5"),
        ("/bulk/users/5", "/users/5"),
        ("/bulk/v1.0/users/5", "/users/5"),
        ("/bulky/users", "/bulky/users"),
        ("https://api.example/bulk/users/5", "/users/5"),
        ("HTTP://API.example/users", "/users"),
        ("http://10.0.0.1:8000/bulk/users?a=1&b=2", "/users?a=1&b=2"),
        ("//api.example/users", "/users"),
        ("https://api.example", "/"),
        ("users?$filter=name eq '$it'", "/users?$filter=name eq '$it'"),
        ("users/a%2Fb", "/users/a%2Fb"),
    ],
)
def test_url_becomes_a_path(url: str, path: str) -> None:
    assert read_url(url, ROOT) == Target(path)


@pytest.mark.parametrize(
    ("url", "path", "reference"),
    [
        ("$1", "", "1"),
        ("/$1/orders", "/orders", "1"),
        ("$new-user/orders/3?a=$b", "/orders/3?a=$b", "new-user"),
        ("%241/orders", "/orders", "1"),
        ("/bulk/$a?x=1", "?x=1", "a"),
    ],
)
def test_url_may_start_with_what_another_request_returns(url: str, path: str, reference: str) -> None:
    assert read_url(url, ROOT) == Target(path, reference)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://other.example/users", "names another host than this service. Use 10.0.0.1:8000 or api.example"),
        ("https://api.example.evil/users", "another host"),
        ("users#top", "has a fragment"),
        ("$batch", "cannot have another batch"),
        ("/bulk/v1.0/$batch", "cannot have another batch"),
        ("https://api.example/%24batch", "cannot have another batch"),
        ("$metadata", r"The resource \$metadata is not offered"),
        ("$all/users", r"The resource \$all is not offered"),
    ],
)
def test_other_urls_are_rejected_with_a_reason(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_url(url, ROOT)


@pytest.mark.parametrize(
    ("path", "with_segments"),
    [
        ("/users(5)", "/users/5"),
        ("/users('Ada')/orders(7)/lines", "/users/Ada/orders/7/lines"),
        ("/users('O''Neil')", "/users/O'Neil"),
        ("/users(ID=5)?$select=f(x)", "/users/5?$select=f(x)"),
        ("/users(a=1,b=2)", "/users(a=1,b=2)"),
        ("/users()", "/users()"),
        ("/users/5", "/users/5"),
    ],
)
def test_key_in_parentheses_becomes_a_segment(path: str, with_segments: str) -> None:
    assert with_keys_as_segments(path) == with_segments
