"""From a listed host to a connection: to an address that was checked, and to no other.

A name is resolved once, here, and only if the list has it; the connection goes to one of the
addresses that came out and passed, never to the name again.  So an answer that changes (DNS
rebinding) changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable

import trio

from goexfsd.hosts import Address, Hosts, canonical, join, standing

RESOLVE_SECONDS = 10.0
CONNECT_SECONDS = 10.0
_MOST_ADDRESSES = 8
_RESOLVING = 8

Resolver = Callable[[str, int], Awaitable[list[Address]]]
Opener = Callable[[Address, int], Awaitable[trio.SocketStream]]


class Refused(Exception):
    """The list does not allow it; ``rule`` is what would."""

    def __init__(self, why: str, rule: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.rule = rule


class Unreachable(Exception):
    """It is allowed, and cannot be had."""


class Upstream:
    """Opens connections for one step."""

    def __init__(
        self, hosts: Hosts, resolver: Resolver | None = None, opener: Opener | None = None
    ) -> None:
        self._hosts = hosts
        self._resolve = resolver or _Resolver().resolve
        self._open = opener or open_tcp

    def judge(self, host: str | Address, port: int) -> None:
        """Refused unless the list has it.  Nothing is looked up."""
        if not self._hosts.lists(host, port):
            rule = join(host, port)
            raise Refused(f"{rule} is not among the allowed hosts", rule)

    async def connect(self, host: str | Address, port: int) -> trio.SocketStream:
        """A connection to a host that the list has; Refused, Unreachable."""
        self.judge(host, port)
        addresses = await self._resolve(host, port) if isinstance(host, str) else [host]
        error: Exception = Unreachable(f"{join(host, port)} has no address")
        for address in self._passing(host, addresses, port):
            try:
                with trio.fail_after(CONNECT_SECONDS):
                    return await self._open(address, port)
            except (OSError, trio.TooSlowError) as failed:
                error = Unreachable(f"{join(host, port)} cannot be reached: {_words(failed)}")
        raise error

    def _passing(self, host: str | Address, found: list[Address], port: int) -> list[Address]:
        """The addresses that may be connected to; Refused if there are only others."""
        passing: list[Address] = []
        why: tuple[Address, str] | None = None
        for address in dict.fromkeys(found[:_MOST_ADDRESSES]):
            what = None if self._hosts.lists_address(address, port) else _reserved(address)
            if what is None:
                passing.append(address)
            else:
                why = (address, what)
        if passing or why is None:
            return passing
        raise Refused(
            f"{join(host, port)} leads to {canonical(why[0])}, {why[1]}",
            join(canonical(why[0]), port),
        )


def _reserved(address: Address) -> str | None:
    """Why an address may only be connected to if it is listed itself."""
    what = standing(address)
    if what is None and _own(address):
        return "an address of this machine"
    return what


def _own(address: Address) -> bool:
    """Whether the kernel would deliver to this machine itself: the source is the target then."""
    plain = canonical(address)
    family = socket.AF_INET if plain.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(plain), 9))
        except OSError:
            return False  # no way there at all
        return bool(ipaddress.ip_address(probe.getsockname()[0]) == plain)


async def open_tcp(address: Address, port: int) -> trio.SocketStream:
    """A connection to this very address."""
    plain = canonical(address)
    family = socket.AF_INET if plain.version == 4 else socket.AF_INET6
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((str(plain), port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class _Resolver:
    """The system's resolver, in a few threads."""

    def __init__(self) -> None:
        self._room = trio.CapacityLimiter(_RESOLVING)

    async def resolve(self, name: str, port: int) -> list[Address]:
        try:
            with trio.fail_after(RESOLVE_SECONDS):
                found = await trio.to_thread.run_sync(
                    _look_up, name, port, abandon_on_cancel=True, limiter=self._room
                )
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            raise Unreachable(f"{name} cannot be resolved: {_words(error)}") from error
        return found


def _look_up(name: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


def _words(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


async def start_tls(
    stream: trio.SocketStream, host: str | Address
) -> trio.SSLStream[trio.SocketStream]:
    """TLS to a host, its certificate checked against the system's authorities; Unreachable."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    secured = trio.SSLStream(stream, context, server_hostname=str(host), https_compatible=True)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await secured.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        cause = error.__cause__
        said = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else "TLS"
        raise Unreachable(f"{host} cannot be trusted: {said}") from error
    return secured
