"""A user-mode Linux as one process: the host's tree is its root, ``kill`` is a crash of it.

Everything of it runs in a process namespace of its own, so that all of it dies at once: the kernel,
its disks' thread, the processes in it.  What had not been written to a disk by then is gone.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

INIT = Path(__file__).with_name("init")
KERNEL = "linux.uml"
_TREE = Path(__file__).parents[2]
_PATH = [str(_TREE / "benchmarks"), str(_TREE / "tests")]
MARK = "goexfs: "
"""How a line of the guest's begins; all others are the kernel's."""


@dataclass
class Machine:
    """Boot it by ``start``; what the guest says comes by ``until`` and ``rest``."""

    home: Path
    images: Sequence[Path]
    plan: Path
    synced: bool = False
    """Whether the host writes through to its own disk."""
    memory: str = "512M"
    process: subprocess.Popen[bytes] | None = None
    lines: list[str] = field(default_factory=list)
    """What the guest has said."""
    console: list[str] = field(default_factory=list)
    """All lines, the kernel's too."""
    _partial: bytes = b""

    def start(self) -> None:
        letter = "s" if self.synced else ""
        disks = [f"ubd{n}{letter}={image}" for n, image in enumerate(self.images)]
        words = [
            KERNEL, f"mem={self.memory}", f"uml_dir={self.home}", "root=/dev/root",
            "rootfstype=hostfs", "rootflags=/", "rw", f"init={INIT}", "quiet", *disks,
            "con=null", "con0=null,fd:1", "ssl=null", f"goexfs_plan={self.plan}",
            f"goexfs_python={sys.executable}", f"goexfs_path={':'.join(_PATH)}",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            ["unshare", "--fork", "--pid", "--kill-child", "sh", "-c", '"$@"; :', "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(self.home)},
        )

    def until(self, word: str, seconds: float) -> str:
        """Wait for a line that starts with ``word``; raises when the machine ends before."""
        deadline = time.monotonic() + seconds
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if line.startswith(word):
                    return line
            seen = len(self.lines)
            if not self._more(deadline):
                raise RuntimeError(f"no “{word}” from the machine:\n" + self.said())

    def rest(self, seconds: float) -> None:
        """Wait until the machine has ended, or for so long."""
        deadline = time.monotonic() + seconds
        while self._more(deadline):
            pass

    def kill(self) -> None:
        """The crash; returns when nothing of it is left, and what it had said is in ``lines``."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.rest(60)
        self.end()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def said(self) -> str:
        return "\n".join(self.console[-40:])

    def _more(self, deadline: float) -> bool:
        """Read a piece of what is said; False at its end, or when it is too late."""
        assert self.process is not None
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return False
        piece = os.read(self.process.stdout.fileno(), 65536)
        *lines, self._partial = (self._partial + piece).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            self.console.append(text)
            if text.startswith(MARK):
                self.lines.append(text.removeprefix(MARK))
        return bool(piece)
