"""The socket as a client sees it: lines, replies, events, and every way to be cut off."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from goexfs import protocol, wire
from goexfs.errors import Denied, Limit, NotFound, Unavailable, Usage
from scripted import Exchange, serving


def test_limits_are_the_protocols() -> None:
    assert wire.MAX_LINE == protocol.MAX_LINE
    assert wire.MAX_AHEAD < protocol.MAX_INPUT_AHEAD


@pytest.mark.parametrize("data", [b"", b"plain", "ünï".encode(), b"\xff\x00\n", bytes(range(256))])
def test_bytes_go_round(data: bytes) -> None:
    assert wire.decode(wire.encode(data)) == data


def test_lines_come_whole_however_they_are_cut() -> None:
    whole = b'{"a":1}\n\n{"b":2}\n{"c"'
    for size in range(1, len(whole)):
        lines, found = wire.Lines(), []
        for start in range(0, len(whole), size):
            found += lines.feed(whole[start : start + size])
        assert found == [b'{"a":1}', b'{"b":2}']
        assert lines.feed(b":3}\n") == [b'{"c":3}']


def test_a_call_hands_on_its_own_events_only(tmp_path: Path) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send({"method": "progress", "params": {"request": 99, "stage": "theirs"}})
        exchange.emit("progress", stage="ours", done=1, total=2)
        exchange.send({"id": 99, "result": {}})
        exchange.reply({"ok": True})

    seen: list[Any] = []
    with serving(tmp_path, {"diff": answer}) as daemon, wire.connect(daemon.path) as connection:
        result = connection.call("diff", {"x": 1}, lambda *event: seen.append(event))
    assert result == {"ok": True}
    assert seen == [("progress", {"request": 1, "stage": "ours", "done": 1, "total": 2})]
    assert daemon.params("diff") == {"x": 1}


def test_an_error_is_raised_as_itself(tmp_path: Path) -> None:
    error = NotFound("there is no session x", hint="goexfs ls", data={"tried": 1})
    with (
        serving(tmp_path, {"status": error}) as daemon,
        wire.connect(daemon.path) as connection,
        pytest.raises(NotFound) as caught,
    ):
        connection.call("status", {})
    assert (caught.value.hint, caught.value.data) == ("goexfs ls", {"tried": 1})


def test_a_daemon_that_goes_away(tmp_path: Path) -> None:
    def hang_up(exchange: Exchange) -> None:
        exchange._file.write(b'{"half":')
        exchange._file.flush()
        raise BrokenPipeError

    with (
        serving(tmp_path, {"ls": hang_up}) as daemon,
        wire.connect(daemon.path) as connection,
        pytest.raises(Unavailable, match="went away"),
    ):
        connection.call("ls", {})


def test_something_else_that_answers(tmp_path: Path) -> None:
    def junk(exchange: Exchange) -> None:
        exchange._file.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        exchange._file.flush()

    with (
        serving(tmp_path, {"ls": junk}) as daemon,
        wire.connect(daemon.path) as connection,
        pytest.raises(Unavailable, match="does not speak"),
    ):
        connection.call("ls", {})


def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no goexfs daemon runs here") as caught:
        wire.connect(str(tmp_path / "none"))
    assert "systemctl start goexfsd" in str(caught.value.hint)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    with pytest.raises(Unavailable, match="refused"):
        wire.connect(str(tmp_path / "dead"))
    with pytest.raises(Usage, match="no socket path"):
        wire.connect("/" + "x" * 200)
    assert isinstance(wire.unreachable("/s", PermissionError(13, "denied")), Denied)


def test_a_request_that_is_too_long_is_not_sent(tmp_path: Path) -> None:
    with serving(tmp_path, {"ls": {}}) as daemon, wire.connect(daemon.path) as connection:
        with pytest.raises(Limit, match="too long"):
            connection.call("run", {"script": "x" * wire.MAX_LINE})
        assert connection.call("ls", {}) == {}


def test_a_notice_from_a_signal_handler_does_not_break_a_line(tmp_path: Path) -> None:
    got: list[str] = []

    def slow(exchange: Exchange) -> None:
        while not connection._sending:
            time.sleep(0.01)
        time.sleep(0.1)  # the client is now in the middle of a line that no buffer holds
        signal.pthread_kill(main, signal.SIGUSR1)
        while (notice := exchange.notice()) is not None:
            got.append(notice["method"])
            if len(got) == 2:
                break
        exchange.reply({})

    with serving(tmp_path, {"run": slow}) as daemon, wire.connect(daemon.path) as connection:

        def handler(_number: int, _frame: FrameType | None) -> None:
            connection.notify("signal", {"request": 1, "name": "INT"})

        before = signal.signal(signal.SIGUSR1, handler)
        main = threading.main_thread().ident or 0
        try:
            connection.request("run", {})
            connection.notify("input", {"request": 1, "data": "x" * 3_000_000})
            while not connection.receive():
                pass
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert got == ["input", "signal"]
