"""Commit workers without a daemon: the entry runs in a forked child, the test plays the daemon."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from goexfsd.commit import jobs
from goexfsd.layer.selection import Selection
from goexfsd.worker import (
    Owner,
    Root,
    Worker,
    WorkerSpec,
    become,
    decode_message,
    encode_message,
    error_message,
    open_lower,
    open_root,
    open_top,
)

ROOT_USER = Owner(os.getuid(), os.getgid(), ())


@dataclass
class Ran:
    """What a worker said, and how it ended."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    killed: bool = False

    def get(self, event: str) -> dict[str, Any] | None:
        found = [message for message in self.messages if message["event"] == event]
        return found[-1] if found else None

    @property
    def last(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def intent(self) -> bool:
        return self.get("intent") is not None


@dataclass
class Bench:
    """One session's layer and roots, and the directory of its commit."""

    layer: str | bytes
    roots: Sequence[Root]
    before: Path
    owner: Owner = ROOT_USER
    live: str | bytes | None = None

    def spec(self, **options: Any) -> WorkerSpec:
        layers = {"source": os.fsdecode(self.layer), "before": os.fsdecode(self.before)}
        if self.live is not None:
            layers["live"] = os.fsdecode(self.live)
        return WorkerSpec(self.owner, tuple(self.roots), layers, options)

    def commit(
        self,
        paths: Sequence[tuple[int, bytes]] = (),
        *,
        exclude: Sequence[tuple[int, bytes]] = (),
        patch: bytes | None = None,
        fault: int = 0,
        at_intent: Callable[[], bool] = lambda: True,
        **options: Any,
    ) -> Ran:
        """Run a commit; ``at_intent`` is called when it asks, and says whether it may go on."""
        self.before.mkdir(exist_ok=True)
        os.chown(self.before, self.owner.uid, self.owner.gid)
        select = replace(Selection.of(paths, exclude), patch=patch)
        spec = self.spec(commit="c-test", select=select, fault=fault, **options)
        return run(jobs.commit, spec, at_intent)

    def undo(
        self,
        name: str,
        *,
        undos: Sequence[str] = (),
        of: Path | None = None,
        fault: int = 0,
        at_intent: Callable[[], bool] = lambda: True,
    ) -> Ran:
        """Take back the commit in ``of`` (else this one's) in a directory ``name`` beside it;
        ``undos`` are those of the undos since."""
        bench = self.beside(name)
        bench.before.mkdir(exist_ok=True)
        os.chown(bench.before, self.owner.uid, self.owner.gid)
        layers = {"before": str(bench.before), "undone": str(of or self.before)}
        for number, each in enumerate(undos):
            layers[f"undo-{number:06}"] = str(self.before.parent / each)
        options = {"commit": "c-undo", "fault": fault}
        spec = WorkerSpec(self.owner, tuple(self.roots), layers, options)
        return run(jobs.undo, spec, at_intent)

    def beside(self, name: str) -> Bench:
        """The same with another commit's directory."""
        return replace(self, before=self.before.parent / name)

    def recover(self, state: str, *, fault: int = 0) -> Ran:
        return run(jobs.recover, self.spec(commit="c-test", state=state, fault=fault))


def run(
    entry: Callable[[Worker], None],
    spec: WorkerSpec,
    at_intent: Callable[[], bool] = lambda: True,
) -> Ran:
    """Run ``entry`` to its end in a process of its own."""
    ours, theirs = Pipe(duplex=True)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _child(entry, spec, theirs)
    theirs.close()
    ran = Ran()
    try:
        while True:
            try:
                message = decode_message(ours.recv_bytes())
            except (EOFError, ConnectionResetError):
                break
            ran.messages.append(message)
            if message["event"] == "intent":
                if not at_intent():
                    ours.close()
                    break
                ours.send({"cmd": "go"})
    finally:
        _, status = os.waitpid(pid, 0)
        if not ours.closed:
            ours.close()
    ran.killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return ran


def _child(entry: Callable[[Worker], None], spec: WorkerSpec, conn: Any) -> None:
    os.umask(0)
    try:
        layer_fds = {
            label: os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for label, path in spec.layers.items()
        }
        tops = [open_top(root) for root in spec.roots]
        if spec.owner.uid != os.getuid():
            become(spec.owner)
        fds = [open_root(root) for root in spec.roots]
        shown = [
            fd if top is None else open_lower(root, top)
            for root, fd, top in zip(spec.roots, fds, tops, strict=True)
        ]
        worker = Worker(spec, conn, layer_fds, fds, shown)
        entry(worker)
    except BaseException as error:
        conn.send_bytes(encode_message(error_message(error)))
        if os.environ.get("GOEXFS_TEST_TRACE"):
            traceback.print_exc()
        os._exit(1)
    os._exit(0)


def litter(top: str | bytes) -> list[str]:
    """Staging directories left anywhere below ``top``."""
    return [
        os.path.join(os.fsdecode(here), name)
        for here, names, _ in os.walk(os.fsdecode(top))
        for name in names
        if name.startswith(".goexfs-stage-")
    ]
