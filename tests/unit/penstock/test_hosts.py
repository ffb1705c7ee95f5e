"""Which Host headers name a program that listens on an address, and which could be the name of a web page."""

import pytest

from penstock.errors import FromWebPage, Misdirected
from penstock.hosts import check_caller, is_own_host


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "aws"])
@pytest.mark.parametrize(
    "header",
    ["127.0.0.1", "127.0.0.1:8081", "127.1.2.3", "localhost:80", "LOCALHOST", "bucket.localhost:80", "[::1]:1"],
)
def test_loopback_names_are_always_its_own(header: str, listens_on: str) -> None:
    assert is_own_host(header, listens_on)


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "0.0.0.0", "::", "10.1.2.3"])
@pytest.mark.parametrize(
    "header",
    [
        *(
            "",
            "evil.example",
            "evil.example:8081",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil-localhost.x",
        ),
        *(
            "127.0.0.1@evil.example",
            "a@127.0.0.1",
            "[::1",
            "localhost:x",
            "localhost/x",
            "localhost?",
            "127.0.0.1 evil.x",
        ),
    ],
)
def test_name_of_a_web_page_never_is(header: str, listens_on: str) -> None:
    assert not is_own_host(header, listens_on)


@pytest.mark.parametrize(
    ("header", "listens_on", "is_own"),
    [
        ("10.1.2.3:80", "10.1.2.3", True),
        ("10.1.2.3:80", "0.0.0.0", True),
        ("[fd00::1]:80", "::", True),
        ("10.1.2.3:80", "127.0.0.1", False),
        ("aws:4566", "0.0.0.0", True),
        ("aws:4566", "127.0.0.1", False),
        ("host.docker.internal:4566", "0.0.0.0", True),
        ("host.docker.internal:4566", "127.0.0.1", False),
        ("penstock.internal", "penstock.internal", True),
    ],
)
def test_other_addresses_are_its_own_if_it_listens_there(header: str, listens_on: str, *, is_own: bool) -> None:
    assert is_own_host(header, listens_on) is is_own


def test_caller_on_this_machine_is_accepted() -> None:
    check_caller({"Sec-Fetch-Site": "none"}, ["localhost:8081"], "127.0.0.1")


@pytest.mark.parametrize("hosts", [[], ["evil.example"], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_caller_must_name_this_program_once(hosts: list[str]) -> None:
    with pytest.raises(Misdirected):
        check_caller({}, hosts, "127.0.0.1")


@pytest.mark.parametrize(
    "headers", [{"Origin": "null"}, {"Origin": "http://localhost"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_web_page_is_no_caller(headers: dict[str, str]) -> None:
    with pytest.raises(FromWebPage):
        check_caller(headers, ["localhost"], "127.0.0.1")
