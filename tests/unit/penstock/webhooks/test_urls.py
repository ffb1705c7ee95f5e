"""Events go to addresses of the internet only, however a URL or DNS writes an address inside."""

import ipaddress

import pytest

from penstock.webhooks.urls import Allowed, check_url, is_public, may_dial

NOTHING = Allowed()
INSIDE = Allowed.parse("hooks.internal, 10.1.0.0/16 ,fd00:1::/64,localhost,")

GOOD = [
    "https://example.com/hook",
    "https://EXAMPLE.com:8443/hook?token=a%20b",
    "https://example.com:443",
    "https://xn--bcher-kva.example/",
    "https://8.8.8.8/",
    "https://[2606:4700::1111]/",
]

BAD = [
    # the form
    "",
    "example.com",
    "//example.com/",
    "https://",
    "https:///path",
    "https:example.com",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com:25/",
    "http://example.com/",
    "https://example.com:22/",
    "https://example.com:6379/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://:@example.com/",
    "https://example.com%2f@10.0.0.1/",
    "https://example.com#@10.0.0.1/",
    "https://example.com/#part",
    "https://example.com\\@10.0.0.1/",
    "https://example.com/a b",
    "https://example.com/\r\nHost: a",
    "https://example.com/\u00e9",
    f"https://example.com/{'a' * 2_048}",
    "https://a..b/",
    "https://-a.example/",
    "https://example.com./",
    "https://%31%32%37.0.0.1/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://\u24d4xample.com/",
    # addresses inside
    "https://127.0.0.1/",
    "https://127.0.0.1./",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://1.2.3.4.5/",
    "https://example.0x7f/",
    "https://0.0.0.0/",
    "https://10.0.0.1/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.170.2/v2/credentials",
    "https://172.16.0.1/",
    "https://192.168.0.1/",
    "https://192.88.99.1/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://233.252.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[::]/",
    "https://[::1]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[2606:4700::1111%25eth0]/",
    "https://[fec0::1]/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::1]/",
    "https://[2001::1]/",
    "https://[2001:db8::1]/",
    "https://[2002:7f00:1::]/",
    "https://[3fff::1]/",
    "https://[5f00::1]/",
]


@pytest.mark.parametrize("url", GOOD)
def test_url_of_the_internet_is_accepted(url: str) -> None:
    assert check_url(url, NOTHING).scheme == "https"


@pytest.mark.parametrize("url", BAD)
def test_other_url_is_rejected_with_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[A-Z].*[^.]$"):
        check_url(url, NOTHING)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.internal:9000/x",
        "https://HOOKS.internal/",
        "http://localhost:1234/",
        "http://10.1.2.3/",
        "http://[fd00:1::5]:80/",
    ],
)
def test_named_hosts_and_networks_may_be_used_in_any_way(url: str) -> None:
    assert check_url(url, INSIDE)
    with pytest.raises(ValueError, match=r"Use https://|Use the port|not an address|host name"):
        check_url(url.replace("https", "http"), NOTHING)


@pytest.mark.parametrize(
    "url", ["http://other.internal/", "https://10.2.0.1/", "http://user@hooks.internal/", "https://hooks.internal./"]
)
def test_what_is_not_named_is_still_rejected(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[A-Z]"):
        check_url(url, INSIDE)


@pytest.mark.parametrize("listed", ["10.1.0.1/16", "http://a.internal", "a b", "127.1", "a/b", "*.internal"])
def test_list_of_allowed_targets_is_checked(listed: str) -> None:
    with pytest.raises(ValueError, match="neither a host nor a network"):
        Allowed.parse(listed)


def test_what_a_name_resolves_to_decides_when_it_is_dialled() -> None:
    for address in ("8.8.8.8", "2606:4700::1111"):
        assert may_dial(address, "example.com", NOTHING)
    for address in ("127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "::ffff:10.0.0.1", "nonsense"):
        assert not may_dial(address, "example.com", NOTHING)
    assert may_dial("10.1.2.3", "example.com", INSIDE)
    assert not may_dial("10.2.2.3", "example.com", INSIDE)
    assert may_dial("10.2.2.3", "hooks.internal", INSIDE)


def test_no_address_in_a_range_for_special_use_is_public() -> None:
    ranges = ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"]
    ranges += ["192.0.0.0/24", "168.63.129.16/32"]
    ranges += ["192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"]
    ranges += ["::/16", "64:ff9b::/32", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16", "fc00::/6", "fec0::/10"]
    for network in map(ipaddress.ip_network, ranges):
        for address in (network[0], network[network.num_addresses // 2], network[-1]):
            assert not is_public(address), address
