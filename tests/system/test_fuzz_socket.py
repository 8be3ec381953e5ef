"""Whatever comes over the socket: an answer, or the end of that connection; others are served."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import Goexfs
from daemons import Daemon, User
from goexfs import protocol

SECONDS = 30.0
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["/", "/proc/self", "..", "a\0b", "\udcff", "-s", "s-1", "\x1b[2J"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner,
                                                               max_size=4),
    max_leaves=12,
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Something like a request: a method that there is, fields that it has, anything in them."""
    method = draw(st.sampled_from([*protocol.METHODS, "input", "signal", "resize", "cancel", ""]))
    fields: list[str] = []
    if method in protocol.METHODS:
        fields = list(protocol.METHODS[method][0].model_fields)
    params: Any = draw(st.fixed_dictionaries({}, optional={name: junk for name in fields}) | junk)
    message = {"jsonrpc": "2.0", "id": draw(st.integers() | st.text(max_size=5) | junk),
               "method": method, "params": params}  # fmt: skip
    for key in draw(st.sets(st.sampled_from(list(message)), max_size=1)):
        del message[key]
    return message | draw(st.dictionaries(st.text(max_size=5), junk, max_size=1))


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


lines = st.one_of(
    st.binary(max_size=300).map(lambda data: data + b"\n"),
    st.builds(_line, junk),
    st.builds(_line, requests()),
    st.builds(_line, requests()),
    st.builds(lambda value, cut: _line(value)[:cut], requests(), st.integers(0, 80)),
    st.sampled_from([b"[" * 60_000 + b"\n", b'{"a":' * 20_000 + b"\n", b"\n" * 1000,
                     b'"' + b"x" * 500_000 + b'"\n', b"1" * 50_000 + b"\n"]),
)  # fmt: skip


@contextmanager
def as_user(user: User) -> Iterator[None]:
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class Client:
    def __init__(self, daemon: Daemon, user: User) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        with as_user(user):
            self.socket.connect(str(daemon.socket))

    def say(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it had enough of us
            self.socket.sendall(data)

    def rest(self) -> list[Any]:
        """All that it answers until it hangs up; valid JSON, one object a line."""
        self.socket.shutdown(socket.SHUT_WR)
        data = b""
        try:
            while piece := self.socket.recv(1 << 16):
                data += piece
        except ConnectionResetError:
            return []
        return [json.loads(line) for line in data.splitlines()]


def test_nothing_that_is_sent_does_harm(
    daemon: Daemon, tree: Path, goexfs: Goexfs, ordinary_user: User
) -> None:
    goexfs("mount", tree, "--name", "mine", user=ordinary_user)
    before = sorted(os.walk(tree))
    stranger = User(ordinary_user.uid + 7, ordinary_user.gid + 7)
    witness = Client(daemon, ordinary_user)

    @settings(max_examples=70, deadline=None, suppress_health_check=list(HealthCheck))
    @example([_line({"jsonrpc": "2.0", "id": {"a": []}, "method": "ls", "params": {}})])
    @given(st.lists(lines, min_size=1, max_size=6))
    def send(sent: list[bytes]) -> None:
        client = Client(daemon, stranger)
        try:
            for line in sent:
                client.say(line)
            for answer in client.rest():
                error = answer.get("error")
                code = error.get("data", {}).get("code") if error else None
                assert code != "internal", (sent, answer)
        finally:
            client.socket.close()
        witness.say(_line({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}))
        assert b'"protocol"' in witness.socket.recv(1 << 16)

    try:
        send()
    finally:
        witness.socket.close()
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert "Traceback" not in daemon.said()
    assert goexfs("ls", user=ordinary_user).out.count("mine") == 1
    assert sorted(os.walk(tree)) == before
