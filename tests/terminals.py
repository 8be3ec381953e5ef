"""A person at a pseudo-terminal, with a ``goexfs`` on it: types, reads, resizes the window."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


class Terminal:
    """A person at a pseudo-terminal, with a ``goexfs`` on it."""

    def __init__(
        self, socket: str, *argv: str, env: dict[str, str] | None = None, **how: Any
    ) -> None:
        """``how`` goes to the process: ``cwd``, ``user``, ..."""
        self.master, slave = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(self.master)
        self.seen = b""
        basic = {"PATH": os.environ["PATH"], "HOME": "/", "TERM": "xterm", "PAGER": "cat"}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", BIN / "goexfs", *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**basic, "GOEXFS_SOCKET": socket, **(env or {})},
            **how,
        )
        os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def see(self, text: bytes, seconds: float = 10) -> bytes:
        """Read until the text has come; what came before it too."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} never came; there was {self.seen!r}"
            if not select.select([self.master], [], [], left)[0]:
                continue
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                piece = b""
            assert piece, f"{text!r} never came; there was {self.seen!r}"
            self.seen += piece
        found, _, self.seen = self.seen.partition(text)
        return found + text

    def rest(self) -> bytes:
        """Everything until the terminal is left."""
        try:
            while piece := os.read(self.master, 65536):
                self.seen += piece
        except OSError:
            pass
        return self.seen

    def pids(self) -> list[int]:
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(pid) for pid in Path(children).read_text().split()] or [self.process.pid]

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.master)[3] & termios.ICANON

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
