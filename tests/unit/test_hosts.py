"""Host rules: what they let a request name, and which addresses are nobody's business."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfsd.hosts import Hosts, canonical, join, parse_host, parse_rule, standing


@pytest.mark.parametrize(
    ("rule", "host", "port", "listed"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "example.com", 80, True),
        ("example.com", "example.com", 22, False),
        ("example.com:22", "example.com", 22, True),
        ("example.com:22", "example.com", 443, False),
        ("Example.COM:443", "EXAMPLE.com.", 443, True),
        ("example.com", "a.example.com", 443, False),
        ("example.com", "example.com.evil.org", 443, False),
        ("*.example.com", "a.example.com", 443, True),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "badexample.com", 443, False),
        ("*:443", "anything.org", 443, True),
        ("*", "10.0.0.1", 443, False),
        ("10.1.0.0/16:443", "10.1.2.3", 443, True),
        ("10.1.0.0/16:443", "10.2.2.3", 443, False),
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.0.0.1:8080", "localhost", 8080, False),
        ("127.0.0.1:8080", "[::ffff:127.0.0.1]", 8080, True),
        ("[::ffff:127.0.0.1]:8080", "127.0.0.1", 8080, True),
        ("[::1]:8080", "[::1]", 8080, True),
        ("[fd00::/16]", "[fd00::5]", 80, True),
    ],
)
def test_what_a_rule_lists(rule: str, host: str, port: int, listed: bool) -> None:
    assert Hosts([rule]).lists(parse_host(host), port) is listed


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a b", "http://x", "x:0", "x:65536", "x:http", "a.*.b", "*x.org", "*.*", "::1",
     "::1:80", "0.0.0.0/0", "10.1.2.3/8", "127.1", "0x7f.1", "1.2.3", "x/24", "-x.org", "x..org",
     "é.org", "fe80::1%lo", "[x]", "user@host", "x" * 64 + ".org"],
)  # fmt: skip
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_rule(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "1.2.3.4.5", "::1",
     "[127.0.0.1]", "[::1%lo]", "[fe80::1%eth0]", "a b", "a/b", "a@b", "a:1", "é.org", "x.0x1"],
)  # fmt: skip
def test_what_no_request_may_name(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_host(text)


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"), ("127.255.0.9", "loopback"), ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"), ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"), ("64:ff9b::a9fe:a9fe", "link-local"),
        ("10.0.0.1", "private"), ("172.31.0.1", "private"), ("192.168.1.1", "private"),
        ("fd00:ec2::254", "private"), ("169.254.169.254", "link-local"), ("fe80::1", "link-local"),
        ("100.100.100.200", "shared"), ("168.63.129.16", "cloud"), ("192.0.0.192", "reserved"),
        ("0.0.0.0", "reserved"), ("::", "reserved"), ("::127.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"), ("224.0.0.251", "multicast"), ("ff02::1", "multicast"),
        ("2002:7f00:1::", "reserved"), ("2001:0:7f00:1::", "reserved"),
        ("64:ff9b:1::1", "reserved"),
        ("8.8.8.8", None), ("2606:4700::1111", None), ("::ffff:8.8.8.8", None),
        ("64:ff9b::808:808", None),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, what: str | None) -> None:
    said = standing(ipaddress.ip_address(address))
    assert said is None if what is None else said is not None and what in said


@given(st.ip_addresses(v=4))
def test_nothing_is_public_that_the_library_calls_private(address: ipaddress.IPv4Address) -> None:
    if standing(address) is None:
        assert not any((address.is_private, address.is_multicast, address.is_reserved))
    assert standing(address) == standing(ipaddress.IPv6Address(f"::ffff:{address}"))


@given(st.ip_addresses(v=6))
def test_nor_of_the_longer_ones(address: ipaddress.IPv6Address) -> None:
    if standing(address) is None and canonical(address) is address:
        assert address.is_global or address in ipaddress.ip_network("64:ff9b::/96")
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("grant", "asked", "covered"),
    [
        ("*.x.org", "a.x.org:443", True), ("*.x.org", "*.a.x.org", True), ("*", "*.x.org", True),
        ("a.x.org", "*.x.org", False), ("*.x.org", "x.org", False), ("x.org:443", "x.org", False),
        ("10.0.0.0/8", "10.1.0.0/16:80", True), ("10.1.0.0/16", "10.0.0.0/8", False),
        ("10.0.0.0/8", "[fd00::1]", False), ("*", "10.0.0.1", False), ("x.org", "x.org", True),
    ],
)  # fmt: skip
def test_which_rule_covers_another(grant: str, asked: str, covered: bool) -> None:
    assert parse_rule(grant).covers(parse_rule(asked)) is covered


@given(st.text(max_size=30))
def test_any_text_is_understood_or_refused(text: str) -> None:
    for parse in (parse_rule, parse_host):
        try:
            parse(text)
        except ValueError:
            continue


@given(st.one_of(st.ip_addresses(), st.from_regex(r"[a-z]{1,8}\.org", fullmatch=True)))
def test_a_target_is_written_as_its_own_rule(host: ipaddress.IPv4Address | str) -> None:
    assert Hosts([join(host, 8443)]).lists(parse_host(join(host, 1)[:-2]), 8443)
