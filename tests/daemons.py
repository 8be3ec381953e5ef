"""A private daemon and its command line, for tests and the demo: real processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

_BIN = Path(sys.executable).parent
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class User:
    """Somebody on the machine: numbers only, no entry in /etc/passwd needed."""

    uid: int
    gid: int

    def own(self, top: Path) -> Path:
        """Give a tree to this user; returns it."""
        for directory, names, files in os.walk(top):
            os.chown(directory, self.uid, self.gid)
            for name in names + files:
                os.chown(os.path.join(directory, name), self.uid, self.gid, follow_symlinks=False)
        return top


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


def _open_to_all(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


class Goexfs(Protocol):
    """The ``goexfs`` fixture: run the command line, check how it ended."""

    def __call__(self, *arguments: str | Path, status: int | None = 0, **how: Any) -> Done: ...


@dataclass(slots=True)
class Daemon:
    """``goexfsd`` on a state and a runtime directory of its own."""

    directory: Path
    """Holds ``state``, ``run``, ``log`` and, if there is one, ``goexfsd.toml``."""
    config: str = ""
    """Text of the configuration file."""
    arguments: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None)
    wrapper: Sequence[str] = ()
    """A command that starts what follows it."""
    patience: float = _START_SECONDS
    """How long it may take to answer."""

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def runtime(self) -> Path:
        return self.directory / "run"

    @property
    def socket(self) -> Path:
        return self.runtime / "goexfs.sock"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def start(self) -> None:
        """Start it and wait until its socket answers."""
        config = self.directory / "goexfsd.toml"
        config.write_text(self.config, encoding="utf-8")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.wrapper,
                    str(_BIN / "goexfsd"),
                    "--state-dir", str(self.state),
                    "--runtime-dir", str(self.runtime),
                    "--config", str(config),
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + self.patience
        while not self._answers():
            if self.process.poll() is not None:
                raise RuntimeError(f"goexfsd ended at once:\n{self.said()}")
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"goexfsd does not answer:\n{self.said()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def stop(self) -> int:
        """SIGTERM, then its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self.process = None if self.process.returncode is not None else self.process

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self) -> None:
        """Stop cleanly and start again."""
        self.stop()
        self.start()

    def said(self) -> str:
        """What it logged."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def environment(self) -> dict[str, str]:
        """What a client needs to find this daemon: a clean environment otherwise."""
        kept = ("PATH", "LANG", "LC_ALL", "TERM", "TMPDIR")
        known = {name: os.environ[name] for name in kept if name in os.environ}
        return {"HOME": "/", **known, "GOEXFS_SOCKET": str(self.socket), "PAGER": "cat"}

    def run(
        self,
        *arguments: str | Path,
        user: User | None = None,
        input: str | None = None,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Done:
        """Run ``goexfs`` with these arguments, as ``user`` (default: root)."""
        done = subprocess.run(
            [*self._command(user), *map(str, arguments)],
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            errors="surrogateescape",
            cwd=cwd or "/",
            env={**self.environment(), **(env or {})},
            timeout=timeout,
            check=False,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def _command(self, user: User | None) -> list[str]:
        """``goexfs`` where this user can execute it.

        In a clone that only root may enter, a copy of the client and what it imports is made,
        and run with the system's interpreter.
        """
        if user is None or user.uid == 0 or _open_to_all(_BIN):
            return [str(_BIN / "goexfs")]
        copy = self.directory / "client"
        if not copy.exists():
            for name in ("goexfs", "click"):
                source = importlib.util.find_spec(name)
                assert source is not None
                assert source.origin is not None
                shutil.copytree(Path(source.origin).parent, copy / name)
        code = f"import sys; sys.path.insert(0, {str(copy)!r}); from goexfs.cli import main; main()"
        return [os.path.realpath(sys.executable), "-c", code]


class MakeDaemon(Protocol):
    """The ``make_daemon`` fixture: start a daemon with a configuration of one's own."""

    def __call__(self, config: str = "", *arguments: str) -> Daemon: ...
