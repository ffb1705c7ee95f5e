"""A program that everybody can reach and use starts only if that was decided. Its port must be free."""

import socket
from typing import Any

import pytest

from penstock.errors import Misconfigured
from penstock.process.listening import check_free, check_not_open
from tests.support.builders import build_settings

LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "localhost"]
OTHERS = ["0.0.0.0", "::", "10.1.2.3", "penstock.example", ""]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_needs_no_decision(host: str) -> None:
    check_not_open(build_settings(), "127.0.0.1", host)


@pytest.mark.parametrize("host", OTHERS)
def test_other_addresses_need_a_decision(host: str) -> None:
    for hosts in ((host, "127.0.0.1"), ("127.0.0.1", host)):
        with pytest.raises(Misconfigured, match=r"Set PENSTOCK_AUTH=keys .* set PENSTOCK_AUTH=none"):
            check_not_open(build_settings(), *hosts)


@pytest.mark.parametrize("settings", [{"auth": "none"}, {"auth": "keys"}, {"tenant_header": "X-Tenant"}], ids=str)
def test_decision_is_kept(settings: dict[str, Any]) -> None:
    check_not_open(build_settings(**settings), "0.0.0.0", "0.0.0.0")


def test_port_of_another_program_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(
                Misconfigured, match=rf"{host}:{port} \(Address already in use\)\. Choose another --port\."
            ):
                check_free(host, port, "--port")
    check_free("127.0.0.1", port, "--port")


def test_host_that_is_not_here_is_left_to_the_program_that_listens() -> None:
    check_free("192.0.2.1", 8080, "--port")
