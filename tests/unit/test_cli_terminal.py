"""On a real terminal: the shell's raw mode, colours and the pager, the question of ``try``."""

from __future__ import annotations

import os
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from goexfs import errors
from scripted import NOTHING, RAN, SESSION, Answer, Exchange, Message, Scripted, change, serving
from terminals import Terminal

CHANGES: Message = {
    "session": "s-1",
    "from": None,
    "to": None,
    "changes": [change("deleted", "a"), change("created", "\x1b[2J")],
    "summary": {**NOTHING, "deleted": 1, "created": 1},
}
PATCH = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-old\n+new\x1b]0;x\x07\r\n"


@contextmanager
def terminal(
    tmp_path: Path, answers: dict[str, Answer], *argv: str, env: dict[str, str] | None = None
) -> Iterator[tuple[Terminal, Scripted]]:
    with serving(tmp_path, answers) as daemon:
        found = Terminal(daemon.path, *argv, env=env)
        try:
            yield found, daemon
        finally:
            found.close()


def shell(exchange: Exchange) -> None:
    """A prompt; says what it hears; `x` ends it."""
    exchange.emit("started", session="s-1", step=1)
    exchange.output("$ ", "pty")
    for notice in iter(exchange.notice, None):
        given = notice["params"]
        if notice["method"] == "resize":
            exchange.output(f"size {given['rows']} {given['cols']};", "pty")
        elif notice["method"] == "signal":
            exchange.output(f"signal {given['name']};", "pty")
            exchange.reply({**RAN, "status": 129})
            return
        elif given.get("data") == "x":
            exchange.reply({**RAN, "status": 4})
            return
        else:
            exchange.output(f"got {given['data'].encode().hex()};", "pty")


def test_a_shell_has_every_key_and_the_window_and_gives_the_terminal_back(tmp_path: Path) -> None:
    shells = {"SHELL": "/bin/sh"}
    with terminal(tmp_path, {"run": shell}, "shell", env=shells) as (person, daemon):
        person.see(b"$ ")
        assert person.raw
        for key in (b"\x03", b"\x1a", b"\x04", b"\r"):
            person.type(key)
            person.see(f"got {key.hex()};".encode())
        person.resize(11, 22)
        person.see(b"size 11 22;")
        person.type(b"x")
        person.see(b"goexfs: step 1: 1 created")
        assert person.process.wait(10) == 4
        assert termios.tcgetattr(person.master) == person.before
    sent = daemon.params("run")
    assert sent["pty"] == {"rows": 30, "cols": 100, "term": "xterm"}
    assert sent["command"] == ["/bin/sh"]


@pytest.mark.parametrize("how", ["signal", "error", "daemon"])
def test_a_shell_that_ends_badly_gives_the_terminal_back(tmp_path: Path, how: str) -> None:
    def fail(exchange: Exchange) -> None:
        exchange.emit("started", session="s-1", step=1)
        exchange.output("$ ", "pty")
        exchange.notice()
        if how == "daemon":
            raise BrokenPipeError
        exchange.fail(errors.ViewFailed("the view died"))

    answer = shell if how == "signal" else fail
    with terminal(tmp_path, {"run": answer}, "shell", "--", "python3") as (person, daemon):
        person.see(b"$ ")
        if how == "signal":
            os.kill(person.pids()[-1], signal.SIGTERM)
            person.see(b"signal TERM;")
        else:
            person.type(b"y")
        assert person.process.wait(10) == (129 if how == "signal" else 125)
        assert termios.tcgetattr(person.master) == person.before
    assert daemon.params("run")["command"] == ["python3"]


def test_run_reads_the_terminal_but_does_not_wait_for_it(tmp_path: Path) -> None:
    def echo(exchange: Exchange) -> None:
        notice = exchange.notice()
        assert notice is not None
        exchange.output("heard " + notice["params"]["data"])
        exchange.reply(RAN)

    with terminal(tmp_path, {"run": echo}, "run", "--", "cat") as (person, _):
        person.type(b"hello\n")
        person.see(b"heard hello")
        assert person.process.wait(10) == 0


def test_a_patch_on_a_terminal_is_coloured_and_harmless(tmp_path: Path) -> None:
    def diff(exchange: Exchange) -> None:
        exchange.emit("chunk", data=PATCH, encoding="utf-8")
        exchange.reply(CHANGES)

    with terminal(tmp_path, {"diff": diff}, "diff") as (person, _):
        shown = person.rest()
    assert b"\x1b[1mdiff --git a/a b/a\x1b[m" in shown
    assert b"\x1b[31m-old\x1b[m" in shown
    assert b"\x1b[32m+new\\x1b]0;x\\x07\\r\x1b[m" in shown
    with terminal(tmp_path, {"diff": diff}, "diff", env={"NO_COLOR": "1"}) as (person, _):
        shown = person.rest()
    assert b"\x1b" not in shown
    assert b"+new\\x1b]0;x\\x07\\r" in shown


def test_the_pager_is_gits(tmp_path: Path) -> None:
    def diff(exchange: Exchange) -> None:
        for _ in range(100):
            exchange.emit("chunk", data=PATCH * 100, encoding="utf-8")
        exchange.reply(CHANGES)

    pager = {"GOEXFS_PAGER": "head -n 1; echo paged with $LESS"}
    with terminal(tmp_path, {"diff": diff}, "diff", env=pager) as (person, _):
        assert b"paged with FRX" in person.rest()
        assert person.process.wait(10) == 0


def test_an_error_needs_no_pager(tmp_path: Path) -> None:
    pager = {"GOEXFS_PAGER": "echo paged"}
    answers: dict[str, Answer] = {"diff": errors.NotFound("no such step")}
    with terminal(tmp_path, answers, "diff", "--step", "9", env=pager) as (person, _):
        shown = person.rest()
        assert b"paged" not in shown
        assert b"goexfs: no such step" in shown
        assert person.process.wait(10) == 4


def test_long_work_shows_how_far_it_is(tmp_path: Path) -> None:
    def commit(exchange: Exchange) -> None:
        for done in range(0, 60, 10):
            exchange.emit("progress", stage="ap\x1bply", done=done, total=100)
            time.sleep(0.12)
        empty = {"session": "s-1", "applied": NOTHING, "remaining": NOTHING}
        exchange.reply({"commit": None, **empty, "conflicts": [], "closed": False})

    with terminal(tmp_path, {"commit": commit}, "commit") as (person, _):
        person.see(b"ap\\x1bply  [##########----------]  50%  50/100")
        assert person.rest().startswith(b"\r\x1b[Knothing to commit")


@pytest.mark.parametrize(
    ("typed", "fate"),
    [
        (b"c\n", b"committed as c-1"),
        (b"d\n", b"discarded"),
        (b"k\n", b"is kept, uncommitted"),
        (b"what\nl\nd\n", b"discarded"),
        (b"\x04", b"is kept, uncommitted, since there was no answer"),
        (b"\x03", b"is kept, uncommitted, since there was no answer"),
    ],
)
def test_try_asks(tmp_path: Path, typed: bytes, fate: bytes) -> None:
    def diff(exchange: Exchange) -> None:
        if exchange.params.get("patch"):
            exchange.emit("chunk", data=PATCH, encoding="utf-8")
        exchange.reply(CHANGES)

    committed = {"commit": "c-1", "session": "s-1", "applied": NOTHING, "remaining": NOTHING}
    answers: dict[str, Any] = {
        "mount": SESSION,
        "run": RAN,
        "diff": diff,
        "commit": {**committed, "conflicts": [], "closed": True},
        "discard": {"session": "s-1"},
    }
    with terminal(tmp_path, answers, "try", "--", "x") as (person, _):
        list_shown = person.see(b"ook closer? ")
        assert list_shown.index(b"D  a") < list_shown.index(b"A  \\x1b[2J")
        for line in typed.splitlines(keepends=True):
            person.type(line)
            if line in (b"what\n", b"l\n"):
                before = person.see(b"ook closer? ")
                assert (b"diff --git" in before) is (line == b"l\n")
        person.see(fate)
        assert person.process.wait(10) == 0
