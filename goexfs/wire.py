"""The socket as a client sees it: one JSON-RPC object a line, with the standard library alone.

``Connection`` sends requests and notices and yields what comes back.  It is what the command
line speaks, so it must stay cheap to import: no pydantic, no trio.  The typed library above it
is ``goexfs.client``.

Invariants: a line is sent whole, also when a signal handler sends one in between; replies are
matched by id; a reply may be of any length.  Every failure is a ``GoexfsError``: ``Unavailable``
when no daemon answers or it goes away, otherwise the error that it sent.

It knows no method and no model.
"""

from __future__ import annotations

import os

from goexfs import jsonlines
from goexfs.errors import Denied, GoexfsError, Limit, Unavailable, Usage, from_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    Message = dict[str, Any]
    OnEvent = Callable[[str, Message], None]
    """Called with an event's method and its params."""
else:
    import _socket as socket  # all of it but what this room does not need, at a tenth of the cost

    Message = OnEvent = dict

DEFAULT_SOCKET = "/run/goexfs/goexfs.sock"
MAX_LINE = 4 * 1024 * 1024
"""The daemon's limit on a request (``goexfs.protocol.MAX_LINE``; a test holds them equal)."""
MAX_AHEAD = 1024 * 1024
"""Input bytes that a client lets be under way before the script took them."""

_PIECE = 256 * 1024
_START = "start it with `sudo systemctl start goexfsd`, or point $GOEXFS_SOCKET at a running one"


def socket_path() -> str:
    """Where the daemon listens: ``$GOEXFS_SOCKET``, else the system's place."""
    return os.environ.get("GOEXFS_SOCKET") or DEFAULT_SOCKET


def connect(path: str | None = None) -> Connection:
    """A connection to the daemon at ``path``; Unavailable when none answers there."""
    where = path or socket_path()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(where)
    except OSError as error:
        sock.close()
        raise unreachable(where, error) from error
    return Connection(sock)


def unreachable(where: str, error: OSError) -> GoexfsError:
    """What to tell a user whose daemon could not be connected to."""
    if isinstance(error, PermissionError):
        return Denied(f"you may not connect to goexfsd's socket {where}")
    if error.errno is None:
        # CPython checks the length itself: "AF_UNIX path too long".
        return Usage(f"{where} is no socket path: {error}")
    if isinstance(error, FileNotFoundError):
        return Unavailable(f"no goexfs daemon runs here: there is no socket {where}", hint=_START)
    reason = os.strerror(error.errno).lower()
    return Unavailable(f"no goexfs daemon answers at {where}: {reason}", hint=_START)


def gone() -> Unavailable:
    return Unavailable(
        "goexfsd went away before it answered",
        hint="see its log (`journalctl -u goexfsd`), then `goexfs status`",
    )


def request_line(request: int, method: str, params: Message) -> bytes:
    return _line({"jsonrpc": "2.0", "id": request, "method": method, "params": params})


def notice_line(method: str, params: Message) -> bytes:
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


def _line(message: Message) -> bytes:
    line = jsonlines.dumps(message).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise Limit(f"the request is too long: {len(line)} bytes, at most {MAX_LINE} can be sent")
    return line


def parse(line: bytes) -> Message:
    """One line from the daemon; Unavailable if it is none that a goexfsd would send."""
    try:
        message = jsonlines.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise Unavailable("what answers at the socket does not speak goexfs's protocol")
    return message


def encode(data: bytes) -> Message:
    """``data`` and ``encoding`` of a message that carries bytes."""
    try:
        return {"data": data.decode("utf-8"), "encoding": "utf-8"}
    except UnicodeDecodeError:
        import binascii

        text = binascii.b2a_base64(data, newline=False).decode("ascii")
        return {"data": text, "encoding": "base64"}


def decode(params: Message) -> bytes:
    """The bytes that a message's ``data`` and ``encoding`` carry."""
    data: str = params["data"]
    if params.get("encoding") != "base64":
        return data.encode("utf-8", "surrogatepass")
    import binascii

    return binascii.a2b_base64(data)


class Lines:
    """Bytes in, whole lines out."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, piece: bytes) -> list[bytes]:
        self._buffer += piece
        end = self._buffer.rfind(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            return []
        whole = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = len(self._buffer)
        return [line for line in whole.split(b"\n") if line.strip()]


class Connection:
    """A connected daemon.  One thread uses it; a signal handler may send notices."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = Lines()
        self._next = 0
        self._sending = False
        self._deferred: list[bytes] = []

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the daemon ends what this connection asked for and is still under way."""
        self._sock.close()

    def give_up_after(self, seconds: float) -> None:
        """From here on, a daemon that says nothing for so long counts as gone."""
        self._sock.settimeout(seconds)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def last(self) -> int:
        """The id of the latest request, from before it is sent."""
        return self._next

    def request(self, method: str, params: Message) -> int:
        """Send a request; returns its id, which its events and its reply carry."""
        self._next += 1
        self._send(request_line(self._next, method, params))
        return self._next

    def notify(self, method: str, params: Message) -> None:
        self._send(notice_line(method, params))

    def _send(self, line: bytes) -> None:
        if self._sending:
            # A signal handler interrupted us in the middle of a line: send this one after it.
            self._deferred.append(line)
            return
        self._sending = True
        try:
            self._sock.sendall(line)
            while self._deferred:
                self._sock.sendall(self._deferred.pop(0))
        except OSError as error:
            # The reason, if the daemon gave one before it hung up, is still to be read.
            if not isinstance(error, BrokenPipeError | ConnectionResetError):
                raise gone() from error
        finally:
            self._sending = False

    def receive(self) -> list[Message]:
        """Wait for more from the daemon: the messages that it completes (perhaps none)."""
        try:
            piece = self._sock.recv(_PIECE)
        except OSError as error:
            raise gone() from error
        if not piece:
            raise gone()
        return [parse(line) for line in self._lines.feed(piece)]

    def call(self, method: str, params: Message, on_event: OnEvent | None = None) -> Message:
        """Ask, hand events to ``on_event``, return the result or raise the error."""
        request = self.request(method, params)
        while True:
            for message in self.receive():
                if answers(message, request):
                    return result(message)
                if on_event is not None and is_event(message, request):
                    on_event(message["method"], message["params"])


def answers(message: Message, request: int) -> bool:
    """Whether the message is the reply to ``request``.

    An error without an id answers a line that the daemon could not read: ours, then.
    """
    return "method" not in message and message.get("id", None) in (request, None)


def is_event(message: Message, request: int) -> bool:
    params = message.get("params")
    return "method" in message and isinstance(params, dict) and params.get("request") == request


def result(message: Message) -> Message:
    """The result that a reply carries; raises the error that it carries."""
    if "error" in message:
        raise from_wire(message["error"])
    found: Message = message.get("result") or {}
    return found
