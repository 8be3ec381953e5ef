"""The daemon's async side of a worker: messages out, commands in, a certain end.

``open_channel`` starts a worker (see ``worker.py``) and yields a ``Channel``; when the block
ends, the worker is gone: asked first (its pipe closes), killed after a grace.  Messages come
from a process that reads other people's bytes, so they are JSON with a bounded size; a worker
that breaks the framing is treated as dead.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import structlog
import trio

from goexfs.errors import GoexfsError, Internal, ViewFailed, from_wire
from goexfsd.worker import Worker, Workers, WorkerSpec, decode_message, start_worker

log = structlog.get_logger("goexfsd.channel")

MAX_MESSAGE = 256 * 1024 * 1024
GRACE = 5.0
"""Seconds that a worker has to end once its pipe is closed."""


class Channel:
    """One running worker, seen from the daemon."""

    def __init__(self, process: ForkServerProcess, conn: Connection) -> None:
        self.process = process
        self._conn = conn
        self._socket = trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(conn.fileno())))

    @property
    def pid(self) -> int:
        return int(self.process.pid or 0)

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None when the worker has closed its end (it ended or died).

        A message ``{"event": "error"}`` is raised as the error that it carries.
        """
        head = await self._exactly(4)
        if head is None:
            return None
        (size,) = struct.unpack("!i", head)
        if size == -1:
            size = struct.unpack("!Q", await self._exactly(8) or b"\xff" * 8)[0]
        if not 0 <= size <= MAX_MESSAGE:
            raise Internal("a worker sent an oversized message")
        body = await self._exactly(size)
        if body is None:
            return None
        message = decode_message(body)
        if message.get("event") == "error":
            raise error_of(message)
        return message

    async def expect(self, event: str) -> dict[str, Any]:
        """The next message, which must be ``event``; ViewFailed if the worker ended instead."""
        message = await self.receive()
        if message is None or message.get("event") != event:
            raise ViewFailed(f"a worker ended without a word (wanted {event!r})")
        return message

    def send(self, command: dict[str, Any]) -> None:
        """A command to the worker; small, so it does not block."""
        try:
            self._conn.send(command)
        except OSError as error:
            raise ViewFailed("a worker has ended") from error

    def send_fd(self, fd: int) -> None:
        """Hand a descriptor over, right after the command that announces it."""
        reduction.send_handle(self._conn, fd, self.pid)

    async def _exactly(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            try:
                piece = await self._socket.recv(min(size - len(data), 1 << 20))
            except OSError:
                return None
            if not piece:
                return None
            data += piece
        return bytes(data)

    def close_soon(self) -> None:
        """``close``, for a worker that has said all it had to: nobody waits for it to be gone."""
        trio.lowlevel.spawn_system_task(self._close_quietly)

    async def _close_quietly(self) -> None:
        try:
            await self.close()
        except Exception as error:  # it would take the daemon down
            log.exception("a worker's end", error=str(error))

    async def close(self) -> None:
        """End the worker: close its pipe, wait a grace, then kill."""
        with trio.CancelScope(shield=True):
            self._socket.close()
            self._conn.close()
            with trio.move_on_after(GRACE):
                await trio.lowlevel.wait_readable(self.process.sentinel)
            if self.process.is_alive():
                self.kill()
                with trio.move_on_after(GRACE):
                    await trio.lowlevel.wait_readable(self.process.sentinel)
            self.process.join(0.1)
            self.process.close()

    def kill(self) -> None:
        """SIGKILL; the pid is a child of the fork server's and not yet reaped, so it is ours."""
        if self.process.is_alive():
            os.kill(self.pid, signal.SIGKILL)


def error_of(message: dict[str, Any]) -> GoexfsError:
    """The error in an ``{"event": "error"}`` message."""
    error = from_wire(message["error"])
    trace = message.get("traceback")
    if trace:
        error.add_note(str(trace))
    return error


@asynccontextmanager
async def open_channel(
    workers: Workers,
    entry: Callable[[Worker], None],
    spec: WorkerSpec,
    *,
    prepare: Callable[[WorkerSpec], None] | None = None,
    looks: bool = False,
) -> AsyncIterator[Channel]:
    """Start a worker, wait until it is up, and see to its end.

    One that only ``looks``, and holds nothing of the store's, may still be going when the block
    has ended.  Raises the worker's own error if it could not start (NotFound, Denied for a root).
    """
    process, conn = await trio.to_thread.run_sync(
        partial(start_worker, workers, entry, spec, prepare=prepare)
    )
    channel = Channel(process, conn)
    try:
        with trio.fail_after(30):
            await channel.expect("up")
        yield channel
    finally:
        if looks:
            channel.close_soon()
        else:
            await channel.close()
