"""Bytes to and fro between two streams, counted, until both have nothing to say."""

from __future__ import annotations

from dataclasses import dataclass

import trio

IDLE_SECONDS = 600.0
_PIECE = 65536
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@dataclass(slots=True)
class Counted:
    """What went through a connection."""

    sent: int = 0
    received: int = 0


async def carry(ours: trio.SocketStream, theirs: trio.SocketStream, count: Counted) -> None:
    """Carry both ways; ends when both ends have ended, one broke, or nothing moved for long."""
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope
        scope.deadline = trio.current_time() + IDLE_SECONDS

        async def copy(source: trio.SocketStream, sink: trio.SocketStream, *, up: bool) -> None:
            try:
                while data := await source.receive_some(_PIECE):
                    await sink.send_all(data)
                    if up:
                        count.sent += len(data)
                    else:
                        count.received += len(data)
                    scope.deadline = trio.current_time() + IDLE_SECONDS
                await sink.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()

        nursery.start_soon(lambda: copy(ours, theirs, up=True))
        nursery.start_soon(lambda: copy(theirs, ours, up=False))
