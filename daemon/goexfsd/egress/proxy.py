"""Connections of one step: accept, judge, refuse or carry, and say what was done.

A connection is one request.  Its head is read, its target judged by the list, then it is

- refused, with 403 and the rule that would allow it;
- a tunnel (CONNECT), whose bytes are carried unseen, at the checked address;
- an exchange (a request with a whole URL), written anew;
- both, where the target has a credential: the tunnel's TLS ends here, with a certificate of the
  step's own, and each request in it is an exchange over a TLS of ours.

So many connections at a time, each with deadlines: others wait in the kernel's queue.  Whatever
one sends, it ends that one alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

from goexfsd.egress import message
from goexfsd.egress.credentials import Credentials
from goexfsd.egress.exchange import Exchange
from goexfsd.egress.message import Asked, Target, Unfit
from goexfsd.egress.tunnel import Counted, Stream, carry
from goexfsd.egress.upstream import Refused, Unreachable, Upstream, start_tls
from goexfsd.hosts import Address

MOST_CONNECTIONS = 128
_HANDSHAKE_SECONDS = 30.0
_NO_METHODS = frozenset(("TRACE", "TRACK"))
"""They send back the headers that they got, credentials too."""
_LONGEST = 300
_LINGER_SECONDS = 2.0
_BROKEN = (
    *(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError),
    *(h11.ProtocolError, OSError),
)

Context = Any
Report = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Visit:
    """What one connection came to."""

    at: float = field(default_factory=time.time)
    host: str = ""
    port: int = 0
    method: str = ""
    allowed: bool = False
    why: str | None = None
    """Why it was refused, or failed."""
    rule: str | None = None
    """What would allow it."""
    status: int | None = None
    count: Counted = field(default_factory=Counted)

    def told(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "seconds": round(time.time() - self.at, 3),
            "host": self.host,
            "port": self.port,
            "method": self.method[:32],
            "allowed": self.allowed,
            "why": self.why[:_LONGEST] if self.why else None,
            "rule": self.rule,
            "status": self.status,
            "sent": self.count.sent,
            "received": self.count.received,
        }


class Proxy:
    """The proxy of one step."""

    def __init__(
        self,
        upstream: Upstream,
        credentials: Credentials,
        contexts: dict[str | Address, Context],
        report: Report,
    ) -> None:
        self._upstream = upstream
        self._credentials = credentials
        self._contexts = contexts
        """For the hosts whose TLS ends here."""
        self._report = report

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept until cancelled."""
        room = trio.Semaphore(MOST_CONNECTIONS)
        async with trio.open_nursery() as nursery:
            while True:
                await room.acquire()
                try:
                    stream = await listener.accept()
                except OSError:  # out of descriptors, or the other side is gone already
                    room.release()
                    await trio.sleep(0.05)
                    continue
                nursery.start_soon(self._one, stream, room)

    async def _one(self, stream: trio.SocketStream, room: trio.Semaphore) -> None:
        """The edge: whatever happens to one connection, the others go on."""
        visit = Visit()
        try:
            await self.handle(stream, visit)
            await _linger(stream)
        except* _BROKEN as broken:
            visit.why = visit.why or f"broken off: {_first(broken)}"
        except* Exception as bug:
            visit.why = f"goexfs failed: {_first(bug)}"
        finally:
            room.release()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            if visit.method or visit.why:
                self._report(visit.told())

    async def handle(self, stream: trio.SocketStream, visit: Visit) -> None:
        """See one connection through."""
        asked: Asked | None = None
        try:
            asked = await message.read_head(stream)
            if asked is None:
                return
            visit.method = asked.method
            await self._answer(stream, asked, visit)
        except Refused as refused:
            visit.allowed, visit.why, visit.rule = False, refused.why, refused.rule
            add = "" if refused.rule is None else f"; --allow-host {refused.rule} would allow it"
            await self._end(stream, asked, visit, 403, f"{refused.why}{add}")
        except Unreachable as failed:
            visit.why = str(failed)
            await self._end(stream, asked, visit, 502, visit.why)
        except Unfit as unfit:
            visit.why = unfit.why
            await self._end(stream, asked, visit, unfit.status, unfit.why)

    async def _end(
        self, stream: Stream, asked: Asked | None, visit: Visit, status: int, text: str
    ) -> None:
        """An answer of our own, unless the server's has begun."""
        if visit.status is not None:
            return
        visit.status = status
        await stream.send_all(message.answer(asked, status, text, f"goexfs: {text}"))

    async def _answer(self, stream: trio.SocketStream, asked: Asked, visit: Visit) -> None:
        if asked.method != "CONNECT":
            target, uri = message.absolute_target(asked)
            self._judge(target, visit)
            await self._exchange(stream, asked, target, uri, visit)
            return
        target = message.connect_target(asked)
        self._judge(target, visit)
        if self._credentials.of(target):
            await self._intercept(stream, asked, target, visit)
            return
        server = await self._upstream.connect(target.host, target.port)
        async with server:
            visit.status = 200
            await stream.send_all(message.ESTABLISHED)
            if asked.rest:
                await server.send_all(asked.rest)
                visit.count.sent += len(asked.rest)
            await carry(stream, server, visit.count)

    def _judge(self, target: Target, visit: Visit) -> None:
        visit.host, visit.port = str(target.host), target.port
        if visit.method in _NO_METHODS:
            raise Unfit(f"{visit.method} is not passed on", 405)
        self._upstream.judge(target.host, target.port)
        visit.allowed = True

    async def _exchange(
        self, client: Stream, asked: Asked, target: Target, uri: bytes, visit: Visit
    ) -> None:
        plain = await self._upstream.connect(target.host, target.port)
        async with plain:
            server: Stream = await start_tls(plain, target.host) if target.tls else plain
            headers = [(b"host", target.header), *message.passed_on(asked.headers)]
            headers, mask = self._credentials.apply(target, headers)
            exchange = Exchange(asked, client, server, mask, visit.count)
            try:
                await exchange.carry(uri, headers)
            finally:
                visit.status = exchange.status

    async def _intercept(
        self, stream: trio.SocketStream, asked: Asked, target: Target, visit: Visit
    ) -> None:
        """TLS ends here: the request in it is read, and asked anew."""
        await stream.send_all(message.ESTABLISHED)
        inner: trio.SSLStream[Any] = trio.SSLStream(
            _Begun(stream, asked.rest),
            self._contexts[target.host],
            server_side=True,
        )
        with trio.fail_after(_HANDSHAKE_SECONDS):
            await inner.do_handshake()
        within: Asked | None = None
        try:
            within = await message.read_head(inner)
            if within is None:
                return
            visit.method = within.method
            uri = message.origin_target(within, target)
            self._judge(target, visit)
            await self._exchange(inner, within, target, uri, visit)
        except (Refused, Unreachable, Unfit) as error:
            visit.allowed = not isinstance(error, Refused)
            visit.why = str(error)
            visit.rule = error.rule if isinstance(error, Refused) else None
            status = error.status if isinstance(error, Unfit) else 403 if visit.rule else 502
            await self._end(inner, within, visit, status, visit.why)
        await inner.aclose()


class _Begun(trio.abc.HalfCloseableStream):
    """A stream of which a piece has been read already."""

    def __init__(self, stream: trio.SocketStream, begun: bytes) -> None:
        self._stream = stream
        self._begun = begun

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._begun:
            data, self._begun = self._begun, b""
            return data
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _linger(stream: trio.SocketStream) -> None:
    """Let the answer arrive before what the other side still sends resets the connection."""
    with suppress(*_BROKEN):
        await stream.send_eof()
        with trio.move_on_after(_LINGER_SECONDS):
            while await stream.receive_some(65536):
                pass


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    """The name of the first error in it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
