"""A view without a daemon: a loop btrfs, a layer, the real worker, commands by hand."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

import btrfsutil

from goexfsd import backing, kernel
from goexfsd.view.worker import entry, prepare
from goexfsd.worker import Owner, Root, WorkerSpec, context, decode_message, start_worker

ROOT = Owner(0, 0, ())


@contextlib.contextmanager
def store(directory: Path, size: int = 1 << 30) -> Iterator[Path]:
    """A fresh btrfs in an image below ``directory``, mounted."""
    image, at = directory / "store.img", directory / "store"
    at.mkdir()
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.btrfs", "-q", "-K", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)
        image.unlink()
        at.rmdir()


def create_layer(at: Path, owner: Owner, names: list[str]) -> Path:
    """A subvolume laid out as the store does it."""
    btrfsutil.create_subvolume(str(at))
    for inner in ("upper", "work", "index", *(f"upper/{name}" for name in names)):
        (at / inner).mkdir()
    (at / "origins").touch()
    for path in (at, *at.rglob("*")):
        os.chown(path, owner.uid, owner.gid)
    return at


@dataclass
class View:
    """A mounted view and the worker behind it."""

    roots: list[Path]
    layer: Path
    mountpoint: Path
    owner: Owner = ROOT
    options: dict[str, Any] = field(default_factory=dict)
    lower: Path | None = None
    """A snapshot of the only root, which the view shows in its place."""
    conn: Connection | None = None
    process: Any = None
    _asked: int = 0
    _backer: int = 0

    @property
    def top(self) -> Path:
        return self.mountpoint

    def start(self) -> View:
        self.mountpoint.mkdir(exist_ok=True)
        options = {"mountpoint": str(self.mountpoint), "session": "test", **self.options}
        spec = WorkerSpec(
            self.owner,
            self.told_roots(),
            {"live": str(self.layer)},
            options,
        )
        self.process, self.conn = start_worker(context(), entry, spec, prepare=prepare)
        for event in ("up", "ready"):
            message = self.receive()
            assert message["event"] == event, message
        if self.options.get("passthrough"):
            self.pass_through()
        return self

    def pass_through(self) -> None:
        """Serve the worker's backing files, as the daemon does."""
        assert self.conn is not None
        os.stat(self.mountpoint)  # the handshake is over
        self._asked += 1
        self.conn.send({"cmd": "passthrough", "id": self._asked})
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A process of its own, for tests change the rights of all threads of this one.
        self._backer = os.fork()
        if self._backer == 0:
            theirs.close()
            self.conn.close()
            with contextlib.suppress(BaseException):
                backing.answer(ours, self.layer, self.owner)
            os._exit(0)
        ours.close()
        with theirs:
            send_handle(self.conn, theirs.fileno(), self.process.pid)
        self.answer()

    def told_roots(self) -> tuple[Root, ...]:
        lower = None if self.lower is None else str(self.lower)
        return tuple(Root(i, path.name, str(path), 0, lower) for i, path in enumerate(self.roots))

    def receive(self) -> dict[str, Any]:
        assert self.conn is not None
        assert self.conn.poll(30), "the worker says nothing"
        return decode_message(self.conn.recv_bytes())

    def command(self, name: str, **fields: Any) -> dict[str, Any]:
        assert self.conn is not None
        self._asked += 1
        self.conn.send({"cmd": name, "id": self._asked, **fields})
        if name == "rewind":
            return {}
        return self.answer()

    def answer(self) -> dict[str, Any]:
        reply = self.receive()
        assert reply["event"] == "reply"
        assert reply["id"] == self._asked
        return reply

    def rewind(self, layer: Path, lower: Path | None = None) -> dict[str, Any]:
        """Go over to another layer, and to another snapshot of the root beneath it if given."""
        assert self.conn is not None
        self.command("rewind", **({} if lower is None else {"lowers": [""]}))
        for path in (layer,) if lower is None else (layer, lower):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                send_handle(self.conn, fd, self.process.pid)
            finally:
                os.close(fd)
        self.layer = layer
        return self.answer()

    def stop(self) -> None:
        """Stop the worker and take the mount away."""
        if self.conn is None:
            return
        self.command("stop")
        self.conn.close()
        self.process.join(10)
        status = self.process.exitcode
        self.process.close()
        self.conn = None
        kernel.umount(str(self.mountpoint), kernel.MNT_DETACH)
        self._reap()
        assert status == 0, status

    def _reap(self) -> None:
        if self._backer:
            os.waitpid(self._backer, 0)
            self._backer = 0

    def kill(self) -> None:
        """The worker dies without a word."""
        assert self.conn is not None
        self.process.kill()
        self.process.join(10)
        self.process.close()
        self.conn.close()
        self.conn = None
        kernel.umount(str(self.mountpoint), kernel.MNT_DETACH)
        self._reap()

    def remount(self) -> None:
        self.stop()
        self.start()


@contextlib.contextmanager
def mounted(
    directory: Path,
    roots: list[Path],
    at: Path,
    owner: Owner = ROOT,
    lower: Path | None = None,
    **options: Any,
) -> Iterator[View]:
    """A view of ``roots`` with a new layer on the btrfs ``at``."""
    layer = create_layer(at / f"layer-{os.urandom(4).hex()}", owner, [r.name for r in roots])
    view = View(roots, layer, directory / "mnt", owner, dict(options), lower)
    view.start()
    try:
        yield view
    finally:
        view.stop()
