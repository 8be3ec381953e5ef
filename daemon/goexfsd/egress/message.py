"""HTTP messages: read strictly, and written anew from what was understood (h11).

Nothing that a script sends is passed on as it came: method, target, headers and body are parsed,
and serialised again.  What two parsers may read in two ways is refused: folded lines, bare CR or
LF, a length together with a transfer coding, several hosts.  One request a connection: what
follows the first is not looked at.

It knows nothing of who may reach what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import trio

from goexfsd.hosts import Address, join, parse_host, port_number

MOST_HEAD = 64 * 1024
HEAD_SECONDS = 60.0
_PIECE = 65536
_PORTS = {"http": 80, "https": 443}
_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer"
    b" transfer-encoding upgrade http2-settings expect".split()
)
"""Headers that are about one connection."""
_FRAMING = frozenset((b"host", b"content-length"))
_TOO_MUCH = re.compile(rb"[\x00-\x20\x7f-\xff]")

Headers = list[tuple[bytes, bytes]]


class Unfit(Exception):
    """A message that is not passed on; ``status`` answers it."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.why = why
        self.status = status


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked."""

    host: str | Address
    port: int
    tls: bool

    def __str__(self) -> str:
        return join(self.host, self.port)

    @property
    def header(self) -> bytes:
        """What the Host header says."""
        usual = self.port == (443 if self.tls else 80)
        text = join(self.host, self.port)
        return (text.rpartition(":")[0] if usual else text).encode("ascii")


@dataclass(slots=True)
class Asked:
    """A request's head, and the connection that the rest of it is read from."""

    conn: h11.Connection
    method: str
    uri: bytes
    headers: Headers
    rest: bytes
    """What came after the head; of a CONNECT, the tunnel's first bytes."""

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


async def read_head(stream: trio.abc.ReceiveStream) -> Asked | None:
    """The next request's head; None where the other side has nothing to say.  Unfit."""
    data = bytearray()
    try:
        with trio.fail_after(HEAD_SECONDS):
            while (end := data.find(b"\r\n\r\n")) < 0:
                if len(data) > MOST_HEAD:
                    raise Unfit("the request's head is too long", 431)
                piece = await stream.receive_some(_PIECE)
                if not piece:
                    if data:
                        raise Unfit("the request ends in its head")
                    return None
                data += piece
    except trio.TooSlowError:
        raise Unfit("the request did not come in time", 408) from None
    head, rest = bytes(data[: end + 4]), bytes(data[end + 4 :])
    if len(head) > MOST_HEAD:
        raise Unfit("the request's head is too long", 431)
    _check_lines(head)
    return _parse(head, rest)


def _check_lines(head: bytes) -> None:
    for line in head[:-4].split(b"\r\n"):
        if b"\r" in line or b"\n" in line or b"\0" in line:
            raise Unfit("a line of the request's head holds a control character")
        if line[:1] in (b" ", b"\t"):
            raise Unfit("a header of the request is folded")


def _parse(head: bytes, rest: bytes) -> Asked:
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD)
    conn.receive_data(head)
    try:
        event = conn.next_event()
    except h11.RemoteProtocolError as error:
        raise Unfit(f"this is no HTTP request: {error}", error.error_status_hint) from error
    if not isinstance(event, h11.Request):
        raise Unfit("this is no HTTP request")
    asked = Asked(conn, event.method.decode("ascii"), event.target, list(event.headers), rest)
    coded, sized = asked.values(b"transfer-encoding"), asked.values(b"content-length")
    if coded and (sized or event.http_version < b"1.1"):
        raise Unfit("the request's length is told in two ways")
    if len(asked.values(b"host")) > 1:
        raise Unfit("the request names several hosts")
    return asked


def connect_target(asked: Asked) -> Target:
    """Whom a CONNECT asks for; Unfit."""
    text = asked.uri.decode("ascii", "replace")
    host, colon, port = text.rpartition(":")
    if not colon or asked.values(b"transfer-encoding") or asked.values(b"content-length"):
        raise Unfit("CONNECT takes HOST:PORT, and no body")
    try:
        target = Target(parse_host(host), port_number(port), tls=True)
    except ValueError as error:
        raise Unfit(f"CONNECT: {error}") from error
    _check_host(asked, target, target.port)
    return target


def absolute_target(asked: Asked) -> tuple[Target, bytes]:
    """Whom a request to a proxy asks for, and for what (origin form); Unfit."""
    if _TOO_MUCH.search(asked.uri):
        raise Unfit("the request's target is no URL")
    try:
        url = urlsplit(asked.uri.decode("ascii"))
        if url.scheme not in _PORTS or not url.netloc or "@" in url.netloc:
            raise Unfit("this is a proxy: it takes http://HOST/..., https://HOST/... and CONNECT")
        host, colon, port = url.netloc.rpartition(":")
        if not colon or url.netloc.endswith("]"):
            host, port = url.netloc, str(_PORTS[url.scheme])
        target = Target(parse_host(host), port_number(port), url.scheme == "https")
    except ValueError as error:
        raise Unfit(f"the request's target: {error}") from error
    _check_host(asked, target)
    path = asked.uri.split(b"://", 1)[1]
    at = min((found for mark in b"/?#" if (found := path.find(mark)) >= 0), default=len(path))
    below = path[at:].partition(b"#")[0]
    return target, below if below.startswith(b"/") else b"/" + below


def origin_target(asked: Asked, target: Target) -> bytes:
    """What a request inside a tunnel to ``target`` asks for; Unfit."""
    whole = asked.uri == b"*" and asked.method == "OPTIONS"
    if not (asked.uri.startswith(b"/") or whole) or _TOO_MUCH.search(asked.uri):
        raise Unfit("the request's target is no path")
    if not asked.values(b"host"):
        raise Unfit("the request names no host")
    _check_host(asked, target)
    return asked.uri


def _check_host(asked: Asked, target: Target, usual: int | None = None) -> None:
    """The Host header must name the target: the server behind it goes by that.

    ``usual`` is the port that it means when it names none.
    """
    usual = (443 if target.tls else 80) if usual is None else usual
    for value in asked.values(b"host"):
        text = value.decode("ascii", "replace").strip()
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, str(usual)
        try:
            same = (parse_host(host), port_number(port)) == (target.host, target.port)
        except ValueError:
            same = False
        if not same:
            raise Unfit("the Host header is not that of the target", 421)


def passed_on(headers: Headers) -> Headers:
    """Without those that are about the connection; Host is for the caller to say."""
    named = {
        token.strip().lower()
        for key, value in headers
        if key == b"connection"
        for token in value.split(b",")
    }
    gone = (_HOP | named | {b"host"}) - {b"content-length"}
    return [(key, value) for key, value in headers if key not in gone]


def answer(asked: Asked | None, status: int, text: str, reason: str = "") -> bytes:
    """A short answer of our own, which ends the connection."""
    body = b"" if asked is not None and asked.method == "HEAD" else f"goexfs: {text}\n".encode()
    words = re.sub(r"[^ -~]", "?", reason) or "goexfs"
    head = (
        f"HTTP/1.1 {status} {words}\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
