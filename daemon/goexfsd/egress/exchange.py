"""One request to a server and its answer back, each read and written anew by h11.

Both ways at once: a server may answer before it has the whole body.  The answer goes on in
pieces as it comes; one that breaks off breaks off for the script too, it is never passed for
whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11
import trio

from goexfsd.egress.credentials import Mask
from goexfsd.egress.message import MOST_HEAD, Asked, Headers, Unfit, passed_on
from goexfsd.egress.tunnel import IDLE_SECONDS, Counted, Stream

_PIECE = 65536
_SWITCHING = 101


@dataclass(slots=True)
class Exchange:
    """One of them; ``status`` is what was answered, as far as anything was."""

    asked: Asked
    client: Stream
    server: Stream
    mask: Mask
    count: Counted
    status: int | None = None

    async def carry(self, uri: bytes, headers: Headers) -> None:
        """Send the request with these headers, and the answer back.  Unfit, or a broken stream."""
        upstream = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
        coded = (
            [(b"transfer-encoding", b"chunked")] if self.asked.values(b"transfer-encoding") else []
        )
        request = h11.Request(
            method=self.asked.method,
            target=uri,
            headers=[*headers, *coded, (b"connection", b"close")],
        )
        await self._up(upstream.send(request))
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._body, upstream)
            try:
                await self._answer(upstream)
            except Exception as error:  # raised again outside, in no group
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _up(self, data: bytes | None) -> None:
        if data:
            with trio.fail_after(IDLE_SECONDS):
                await self.server.send_all(data)
            self.count.sent += len(data)

    async def _body(self, upstream: h11.Connection) -> None:
        """What the script sends after the head.  Its mistakes end only this: the server answers."""
        conn = self.asked.conn
        if self.asked.rest:
            conn.receive_data(self.asked.rest)
        try:
            while True:
                event = conn.next_event()
                if event is h11.NEED_DATA:
                    await self._more(conn)
                elif isinstance(event, h11.Data):
                    await self._up(upstream.send(h11.Data(data=event.data)))
                elif isinstance(event, h11.EndOfMessage):
                    await self._up(upstream.send(h11.EndOfMessage()))
                    return
                else:
                    return
        except (h11.ProtocolError, trio.BrokenResourceError):
            # No whole request will come: what was begun must not be taken for one.
            await trio.aclose_forcefully(self.server)

    async def _more(self, conn: h11.Connection) -> None:
        if conn.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            await self._down(conn.send(go_on))
        with trio.fail_after(IDLE_SECONDS):
            conn.receive_data(bytes(await self.client.receive_some(_PIECE)))

    async def _down(self, data: bytes | None) -> None:
        if data:
            with trio.fail_after(IDLE_SECONDS):
                await self.client.send_all(data)
            self.count.received += len(data)

    async def _answer(self, upstream: h11.Connection) -> None:
        conn = self.asked.conn
        while True:
            event = self._next(upstream)
            if event is h11.NEED_DATA:
                with trio.fail_after(IDLE_SECONDS):
                    upstream.receive_data(bytes(await self.server.receive_some(_PIECE)))
            elif isinstance(event, h11.Response):
                self.status = event.status_code
                await self._down(conn.send(self._head(event)))
            elif isinstance(event, h11.Data):
                if data := self.mask.feed(bytes(event.data)):
                    await self._down(conn.send(h11.Data(data=data)))
            elif isinstance(event, h11.EndOfMessage):
                if rest := self.mask.end():
                    await self._down(conn.send(h11.Data(data=rest)))
                await self._down(conn.send(h11.EndOfMessage()))
                return
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == _SWITCHING:
                    raise Unfit("the server switched protocols unasked", 502)
            else:
                raise Unfit("the server ended without an answer", 502)

    def _next(self, upstream: h11.Connection) -> object:
        try:
            return upstream.next_event()
        except h11.RemoteProtocolError as error:
            raise Unfit(f"the server's answer is no HTTP: {error}", 502) from error

    def _head(self, response: h11.Response) -> h11.Response:
        headers = [(key, self.mask.once(said)) for key, said in passed_on(list(response.headers))]
        if any(key == b"transfer-encoding" for key, _ in response.headers):
            headers = [(key, said) for key, said in headers if key != b"content-length"]
        return h11.Response(
            status_code=response.status_code,
            headers=[*headers, (b"connection", b"close")],
            reason=self.mask.once(bytes(response.reason)),
        )
