"""Hosts: which names, addresses and ports a script may reach, as text and as rules; pure.

A rule is ``HOST[:PORT]``.  HOST is a name, ``*.`` and a name (any name below it, not itself),
``*`` (any name), an address, or a network (``10.1.0.0/16``); IPv6 in brackets.  Without a port:
80 and 443.

A name in the list does not make the address that it leads to one that may be connected to: that
must be public (``standing`` is None), or be listed itself, by address or network.  So whoever
serves a name cannot turn it into a way to this machine or its neighbours.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS = (80, 443)
PROXY = ("127.0.0.1", 3128)
"""Where a script with such a list finds its proxy: on a loopback that is the step's own."""
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
_LONGEST = 253
_WIDEST = {4: 8, 6: 16}
"""Shorter prefixes are no list of anything."""

_NOT_PUBLIC: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a loopback address", ("127.0.0.0/8", "::1/128")),
    ("a private address", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")),
    ("a shared address", ("100.64.0.0/10",)),
    ("a link-local address", ("169.254.0.0/16", "fe80::/10", "fec0::/10")),
    ("a multicast address", ("224.0.0.0/4", "ff00::/8")),
    ("a cloud's own address", ("168.63.129.16/32",)),
    (
        "a reserved address",
        (
            *("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
            *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        ),
    ),
)
"""IANA's special-purpose registries, and one public address that is a metadata service."""
_TABLE: tuple[tuple[str, Network], ...] = tuple(
    (what, ipaddress.ip_network(text)) for what, texts in _NOT_PUBLIC for text in texts
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry of a list; ``parse_rule`` makes it."""

    name: str | None
    """Lower case; with a leading ``*.`` or as ``*``, any below it."""
    network: Network | None
    ports: tuple[int, ...]
    text: str

    def covers(self, other: HostRule) -> bool:
        """Whether all that ``other`` allows, this does."""
        if not set(other.ports) <= set(self.ports):
            return False
        if self.network is not None:
            inner = other.network
            return (
                inner is not None
                and inner.version == self.network.version
                and int(self.network.network_address) <= int(inner.network_address)
                and int(inner.broadcast_address) <= int(self.network.broadcast_address)
            )
        return other.name is not None and self._names(other.name)

    def _names(self, name: str) -> bool:
        assert self.name is not None
        if self.name == "*":
            return True
        if self.name.startswith("*."):
            return name.endswith(self.name[1:]) and name != self.name[1:]
        return name == self.name


class Hosts:
    """A list of rules, asked about one target."""

    def __init__(self, rules: Iterable[str]) -> None:
        self.rules = tuple(parse_rule(text) for text in rules)

    def lists(self, host: str | Address, port: int) -> bool:
        """Whether a request may name this host and port."""
        if not isinstance(host, str):
            return self.lists_address(host, port)
        return any(
            rule.name is not None and port in rule.ports and rule._names(host)
            for rule in self.rules
        )

    def lists_address(self, address: Address, port: int) -> bool:
        """Whether this very address is listed, so that it need not be public."""
        plain = canonical(address)
        return any(
            rule.network is not None and port in rule.ports and plain in rule.network
            for rule in self.rules
        )


def parse_rule(text: str) -> HostRule:
    """``HOST[:PORT]`` as a rule; ValueError says what is wrong with it."""
    host, ports = _split(text.strip().lower())
    shown = text.strip().lower()
    if "*" in host:
        if host != "*" and not (host.startswith("*.") and _is_name(host[2:])):
            raise ValueError(f"{shown!r}: * stands alone or before the first dot: *.example.com")
        return HostRule(host, None, ports, shown)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if "/" in bare or _address(bare) is not None:
        return HostRule(None, _network(bare, shown), ports, shown)
    if not _is_name(host):
        raise ValueError(f"{shown!r} is no host: example.com, *.example.com, 10.1.2.3, [::1]")
    return HostRule(host, None, ports, shown)


def _split(text: str) -> tuple[str, tuple[int, ...]]:
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        return text, DEFAULT_PORTS
    if ":" in host and not host.startswith("["):
        raise ValueError(f"{text!r}: write an IPv6 address in brackets: [::1]:8080")
    return host, (port_number(port),)


def port_number(text: str) -> int:
    """A port; ValueError if it is none."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError(f"{text!r} is no port")
    return int(text)


def _network(text: str, shown: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{shown!r} is no address or network: {error}") from error
    if network.prefixlen < _WIDEST[network.version]:
        raise ValueError(f"{shown!r} is too wide: at least /{_WIDEST[network.version]}")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        inner = network.network_address.ipv4_mapped
        if inner is not None:
            return ipaddress.IPv4Network((inner, network.prefixlen - 96))
    return network


def parse_host(text: str) -> str | Address:
    """The host that a request names: an address, or a name in lower case; else ValueError.

    An IPv6 address comes in brackets.  Forms that a resolver would take for an address although
    they do not look like one (``127.1``, ``0x7f000001``) are none.
    """
    text = text.lower()
    if text.startswith("[") and text.endswith("]"):
        address = _address(text[1:-1])
        if address is None or address.version != 6:
            raise ValueError("no IPv6 address")
        return canonical(address)
    address = _address(text)
    if address is not None and address.version == 4:
        return address
    name = text.removesuffix(".")
    if not _is_name(name):
        raise ValueError("no host name")
    return name


def parse_service(text: str) -> tuple[str | Address, int, bool]:
    """(host, port, whether over TLS) of ``[http://|https://]HOST[:PORT]``; else ValueError."""
    scheme, found, rest = text.strip().rpartition("://")
    if scheme.lower() not in (("http", "https") if found else ("",)):
        raise ValueError(f"{text!r}: only http:// and https://")
    tls = scheme.lower() != "http"
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest, "443" if tls else "80"
    try:
        return parse_host(host), port_number(port), tls
    except ValueError as error:
        raise ValueError(f"{text!r} is no HOST[:PORT]: {error}") from error


def _is_name(text: str) -> bool:
    last = text.rpartition(".")[2]
    return (
        len(text) <= _LONGEST
        and _NAME.fullmatch(text) is not None
        and _NUMBER.fullmatch(last) is None
    )


def _address(text: str) -> Address | None:
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def canonical(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped one stands for; others as they are."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def standing(address: Address) -> str | None:
    """Why an address is not one of the public network's, in words; None if it is."""
    plain = canonical(address)
    if isinstance(plain, ipaddress.IPv6Address) and plain in _NAT64:
        plain = ipaddress.IPv4Address(int(plain) & 0xFFFFFFFF)
    for what, network in _TABLE:
        if plain in network:
            return what
    if isinstance(plain, ipaddress.IPv6Address) and plain not in _GLOBAL_V6:
        return "a reserved address"
    return None


def join(host: str | Address, port: int) -> str:
    """``HOST:PORT`` as in a rule."""
    return f"[{host}]:{port}" if isinstance(host, ipaddress.IPv6Address) else f"{host}:{port}"
