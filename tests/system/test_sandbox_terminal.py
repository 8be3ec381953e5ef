"""A terminal of the sandbox's own: controlling, sized, with job control."""

from __future__ import annotations

import os
import re
import time
import uuid
from pathlib import Path

import pytest
import trio

from confined import LOWERED, Box
from goexfsd import sandbox

pytestmark = pytest.mark.root


@pytest.fixture(params=["user", "root"])
def box(request: pytest.FixtureRequest, arena: Path) -> Box:
    if request.param == "user":
        return Box(arena)
    return Box(arena, uid=LOWERED, home="/root", dest="/root/project")


class Screen:
    """Types into a terminal and waits for what it shows."""

    def __init__(self) -> None:
        self.text = ""
        self.keys, self.stdin = trio.open_memory_channel[bytes](0)
        self._more = trio.Event()

    async def show(self, stream: str, data: bytes) -> None:
        assert stream == "pty"
        self.text += data.decode()
        self._more.set()
        self._more = trio.Event()

    async def wait(self, pattern: str) -> re.Match[str]:
        """Wait for a pattern, and forget the text up to its end."""
        with trio.fail_after(10):
            while not (match := re.search(pattern, self.text)):
                await self._more.wait()
        self.text = self.text[match.end() :]
        return match

    async def type(self, text: str, then: str) -> re.Match[str]:
        await self.keys.send(text.encode())
        return await self.wait(then)


def test_job_control(box: Box) -> None:
    screen = Screen()
    seconds = f"1000{uuid.uuid4().int % 10**9}"

    async def play(running: sandbox.Running) -> None:
        await screen.wait(r"ready> $")
        await screen.type("tty; stty size\n", r"/dev/\S+\s+30 100\s+ready> $")
        await screen.type(f"sleep {seconds}\n", "sleep")
        await trio.sleep(0.3)
        await screen.type("\x1a", r"Stopped[^\n]+\s+ready> $")
        await screen.type("jobs\n", r"\[1\]\+\s+Stopped[^\n]+\s+ready> $")
        await screen.type("fg\n", f"sleep {seconds}")
        await trio.sleep(0.2)
        await screen.type("\x03", r"\^C\s+ready> $")
        await screen.type("echo status $?\n", r"status 130\s+ready> $")
        running.resize(50, 132)
        await screen.type("stty size\n", r"50 132\s+ready> $")
        await screen.type("echo to the tty > /dev/tty\n", r"to the tty\s+ready> $")
        await screen.type("sleep 1001 &\n", r"\[1\] \d+\s+ready> $")
        await screen.keys.send(b"exit 5\n")
        await screen.wait("exit")

    job = box.job(
        "bash", "--norc", "--noprofile", "-i",
        env={"PS1": "ready> "}, pty=(30, 100, "dumb"),
    )  # fmt: skip
    result = box.drive(job, output=screen.show, beside=play, stdin=screen.stdin)
    assert result.status == 5
    assert set(result.streams) == {"pty"}


def test_every_stream_is_the_controlling_terminal(box: Box) -> None:
    code = """
        import os, termios
        print([os.isatty(fd) for fd in (0, 1, 2)], os.environ["TERM"])
        print(os.tcgetpgrp(0) == os.getpgrp(), os.getsid(0) == os.getpid())
        os.close(os.open("/dev/tty", os.O_RDWR))
        print(sorted(os.listdir("/proc/self/fd"))[:-1], os.ttyname(0))
    """
    result = box.python(code, pty=(24, 80, "vt100"))
    lines = result.streams["pty"].decode().split("\r\n")
    assert lines[0] == "[True, True, True] vt100"
    assert lines[1] == "True True"
    assert lines[2] == "['0', '1', '2'] /dev/console"


def test_typing_into_the_terminal_is_refused(box: Box) -> None:
    """TIOCSTI and TIOCLINUX, also with high bits set."""
    code = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for request in (0x5412, 0x541C, 0x100005412):
            libc.syscall(16, 0, ctypes.c_ulong(request), ctypes.c_char_p(b"x"))
            print(ctypes.get_errno(), end=" ")
    """
    assert box.python(code, pty=(24, 80, "vt100")).streams["pty"].strip() == b"1 1 1"


def test_control_d_and_end_of_input(box: Box) -> None:
    screen = Screen()

    async def play(_: sandbox.Running) -> None:
        await screen.keys.send(b"some words\n")
        await screen.keys.aclose()

    job = box.job("wc", "-w", pty=(24, 80, "vt100"))
    result = box.drive(job, output=screen.show, beside=play, stdin=screen.stdin)
    assert result.status == 0
    assert result.streams["pty"].decode().split()[-1] == "2"


def test_long_output_through_a_terminal_arrives_whole(box: Box) -> None:
    result = box.run("seq", "1", "60000", pty=(24, 80, "vt100"))
    assert result.streams["pty"].decode().split() == [str(n) for n in range(1, 60001)]


def test_hanging_processes_do_not_keep_the_terminal(box: Box) -> None:
    began = time.monotonic()
    result = box.run("sh", "-c", "setsid sleep 1002 & echo bye", pty=(24, 80, "vt100"))
    assert (result.status, result.streams["pty"]) == (0, b"bye\r\n")
    assert time.monotonic() - began < 2


def test_missing_command_is_127(box: Box) -> None:
    result = box.run("no-such-command", pty=(24, 80, "vt100"))
    assert result.status == 127
    assert b"no-such-command" in result.streams["pty"]


def test_the_host_s_terminals_are_not_there(box: Box) -> None:
    result = box.run("ls", "/dev/pts", pty=(24, 80, "vt100"))
    assert result.streams["pty"].split() in ([b"ptmx"], [])
    assert os.path.exists("/dev/pts")
