"""The socket: accept, credentials, lines in, lines out.

JSON-RPC 2.0, one object a line (``goexfs.protocol``).  One task reads a connection's lines; each
request runs in a task of its own, so a slow one holds up nobody; replies and events are written
whole, under a lock.

Resource handling: when a connection ends (or its client stops mid-line), its requests are
cancelled, and a script that it ran is killed.  A line over ``MAX_LINE`` ends the connection.  A
client that does not read its events only holds up the script that makes them.

Error handling: a ``GoexfsError`` becomes the reply; any other exception is logged with its
traceback and becomes ``internal``: one request never takes the daemon down.

It knows nothing of sessions: ``service.dispatch`` does.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio
from pydantic import ValidationError

from goexfs.errors import BadJSON, BadRequest, GoexfsError, Internal, Limit, Usage
from goexfs.protocol import MAX_INPUT_AHEAD, MAX_LINE, NOTICES, Encoding, Envelope, Model
from goexfsd import kernel

log = structlog.get_logger("goexfsd.server")

MAX_CONNECTIONS_PER_UID = 256


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says (SO_PEERCRED, SO_PEERGROUPS)."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]


def peer_of(sock: socket.socket) -> Peer:
    pid, uid, gid = struct.unpack(
        "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return Peer(pid, uid, gid, kernel.peer_groups(sock.fileno()))


def encode_bytes(data: bytes) -> dict[str, str]:
    """``data`` and ``encoding`` of an event that carries bytes."""
    try:
        return {"data": data.decode("utf-8"), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"data": base64.b64encode(data).decode("ascii"), "encoding": "base64"}


def decode_bytes(data: str, encoding: Encoding) -> bytes:
    """The bytes of a request or notice that carries some; Usage where they are damaged."""
    if encoding == "utf-8":
        return data.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise Usage("damaged base64 in a request") from error


@dataclass(slots=True)
class Call:
    """One request under way: who asks, where events go, what the client sends meanwhile."""

    peer: Peer
    id: int | str
    _send: Callable[[dict[str, Any]], Awaitable[None]]
    notices: trio.MemoryReceiveChannel[Model]
    _post: trio.MemorySendChannel[Model]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ahead: int = 0
    """Bytes of input posted and not yet taken."""
    refused: GoexfsError | None = None

    async def emit(self, method: str, **params: Any) -> None:
        """Send an event of this request; waits while the client does not read."""
        await self._send(
            {"jsonrpc": "2.0", "method": method, "params": {"request": self.id, **params}}
        )

    async def emit_bytes(self, method: str, data: bytes, **params: Any) -> None:
        await self.emit(method, **params, **encode_bytes(data))

    async def taken(self, count: int) -> None:
        """The script took ``count`` bytes of input."""
        self.ahead -= count
        await self.emit("taken", bytes=count)

    def post(self, notice: Model) -> None:
        """Queue a notice of the client's; a client that ignores flow control ends its request."""
        self.ahead += len(getattr(notice, "data", ""))
        try:
            self._post.send_nowait(notice)
            flooded = self.ahead > MAX_INPUT_AHEAD
        except trio.WouldBlock:
            flooded = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if flooded:
            self.refused = Limit("too much input was sent ahead of what the script took")
            self.scope.cancel()


Dispatch = Callable[[Call, str, dict[str, Any]], Awaitable[dict[str, Any]]]


class _Connection:
    def __init__(self, stream: trio.SocketStream, peer: Peer, dispatch: Dispatch) -> None:
        self.stream = stream
        self.peer = peer
        self.dispatch = dispatch
        self.calls: dict[int | str, Call] = {}
        self.writing = trio.Lock()

    async def send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        async with self.writing:
            try:
                await self.stream.send_all(line)
            except trio.Cancelled:
                # Half a line may be out: nothing more can be said on this connection.
                await trio.aclose_forcefully(self.stream)
                raise

    async def fail(self, request: int | str | None, error: GoexfsError) -> None:
        await self.send({"jsonrpc": "2.0", "id": request, "error": error.to_wire()})

    async def serve(self) -> None:
        buffer = bytearray()
        async with trio.open_nursery() as nursery:
            while True:
                piece = await self.stream.receive_some(65536)
                if not piece:
                    break
                searched = len(buffer)
                buffer += piece
                while (end := buffer.find(b"\n", searched)) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    searched = 0
                    if line.strip():
                        await self.take(line, nursery)
                if len(buffer) > MAX_LINE:
                    await self.fail(None, BadRequest(f"a request may not exceed {MAX_LINE} bytes"))
                    break
            nursery.cancel_scope.cancel()

    async def take(self, line: bytes, nursery: trio.Nursery) -> None:
        """One line: start a request, or post a notice."""
        request: int | str | None = None
        try:
            message = parse(line)
            raw = message.get("id")
            request = raw if isinstance(raw, int | str) else None
            envelope = validate(message)
        except GoexfsError as error:
            await self.fail(request, error)
            return
        if envelope.id is None:
            self.notice(envelope)
        elif envelope.id in self.calls:
            await self.fail(envelope.id, BadRequest(f"request {envelope.id!r} is still under way"))
        else:
            post, notices = trio.open_memory_channel[Model](4096)
            call = Call(self.peer, envelope.id, self.send, notices, post)
            self.calls[envelope.id] = call
            nursery.start_soon(self.answer, call, envelope)

    def notice(self, envelope: Envelope) -> None:
        """Hand a notice to its request; JSON-RPC has no answer to a wrong one."""
        model = NOTICES.get(envelope.method)
        if model is None:
            return
        try:
            notice = model.model_validate(envelope.params)
        except ValidationError:
            return
        call = self.calls.get(notice.request)  # type: ignore[attr-defined]
        if call is not None:
            call.post(notice)

    async def answer(self, call: Call, envelope: Envelope) -> None:
        """Run one request to its reply."""
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": call.id}
        try:
            with call.scope:
                reply["result"] = await self.dispatch(call, envelope.method, envelope.params)
            if call.refused is not None:
                reply["error"] = call.refused.to_wire()
        except Exception as error:
            reply["error"] = _told(cause(error), envelope.method).to_wire()
        finally:
            del self.calls[call.id]
        await self.send(reply)


def cause(error: Exception) -> Exception:
    """What lies at the bottom of groups of one: nurseries wrap what comes out of them."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _told(error: Exception, method: str) -> GoexfsError:
    """What the client is told of an error; what is a bug is in the log, with where it was."""
    if not isinstance(error, GoexfsError):
        if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
            log.info("request cut off", method=method, error=str(error))  # by its client
        else:
            log.error("request failed", method=method, exc_info=error)
        return Internal(
            f"goexfsd failed at this request: {type(error).__name__}: {error}",
            hint="the daemon's log has the details; nothing was committed by it",
        )
    if isinstance(error, Internal):
        notes = getattr(error, "__notes__", None)
        log.error("request failed", method=method, notes=notes, error=error.message)
    return error


def parse(line: bytes) -> dict[str, Any]:
    """The line's JSON object; BadJSON or BadRequest."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadJSON("the line is not JSON", hint="one JSON-RPC 2.0 object a line") from error
    if not isinstance(message, dict):
        raise BadRequest("the line is no JSON-RPC 2.0 request object")
    if b"\\ud" in line or b"\\uD" in line:  # nothing else makes a lone surrogate
        _check_unicode(message)
    return message


def _check_unicode(message: dict[str, Any]) -> None:
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            "a text in the request is not Unicode",
            hint="names that are not UTF-8 travel as base64: and their bytes in base64",
        ) from error


def validate(message: dict[str, Any]) -> Envelope:
    try:
        return Envelope.model_validate(message)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"not a JSON-RPC 2.0 request: {where}: {first['msg']}") from error


@dataclass(slots=True)
class Server:
    """Serves connections on listening sockets until cancelled."""

    dispatch: Dispatch
    connections: dict[int, int] = field(default_factory=dict)

    async def serve(self, listeners: list[trio.SocketListener]) -> None:
        await trio.serve_listeners(self._serve_one, listeners)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        peer = peer_of(stream.socket._sock)  # type: ignore[attr-defined]
        count = self.connections.get(peer.uid, 0)
        self.connections[peer.uid] = count + 1
        connection = _Connection(stream, peer, self.dispatch)
        try:
            async with stream:
                if count >= MAX_CONNECTIONS_PER_UID:
                    await connection.fail(None, Limit("too many connections of yours are open"))
                else:
                    await connection.serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            log.debug("client gone", uid=peer.uid, pid=peer.pid)
        finally:
            self.connections[peer.uid] -= 1
            if not self.connections[peer.uid]:
                del self.connections[peer.uid]


def listen(path: str) -> trio.SocketListener:
    """A listening unix socket at ``path`` that anybody may connect to (the kernel names them).

    The caller holds the daemon's lock, so a socket file that lies there is a dead one.
    """
    if os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    mask = os.umask(0o111)
    try:
        sock._sock.bind(path)  # type: ignore[attr-defined]
    finally:
        os.umask(mask)
    sock.listen(128)
    return trio.SocketListener(sock)
