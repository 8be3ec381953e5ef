"""Worker processes: forked from a warm fork server, they become the owner, then do one thing.

``start_worker(entry, spec)`` runs ``entry(worker)`` in a process of its own that

1. (still root) opens the layer directories named in the spec and runs ``entry.prepare`` if the
   entry needs root for one thing more (the view mounts FUSE there);
2. becomes the owner for good: groups, gid, uid, bounding set, no_new_privs, not dumpable;
3. (the owner) opens the roots, checking that they are still the directories they were, and
   below the snapshots that root has opened what the session sees of them;
4. calls the entry with all that in a ``Worker``.

The daemon holds the other end of ``conn``; when that closes, the worker ends.  Modules that a
worker may need are in ``PRELOAD``: after step 2 nothing more can be imported from an
installation that only root may read.

It knows nothing of what the entries do.
"""

from __future__ import annotations

import base64
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Protocol

from goexfs.errors import Denied, GoexfsError, Internal, NotFound
from goexfs.names import display
from goexfsd import kernel

PRELOAD = [
    "encodings.idna",
    "goexfsd.probe",
    "goexfsd.stable",
    "goexfsd.seat",
    "goexfsd.rulebook",
    "goexfsd.measure",
    "goexfsd.egress.worker",
    "goexfsd.view.worker",
    "goexfsd.overlay.worker",
    "goexfsd.commit.jobs",
    "goexfsd.commit.verify",
    "goexfsd.layer.jobs",
    "multiprocessing.reduction",
    "multiprocessing.popen_fork",
    "multiprocessing.popen_forkserver",
    "goexfsd.frozen",
]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose credentials the worker takes."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Root:
    """One root of a session: index in the session, name in the view, real path, and the
    (st_ino) it had at open; 0 = not yet known."""

    index: int
    name: str
    path: str
    ino: int = 0
    lower: str | None = None
    """A read-only snapshot in the store that holds the root as the session sees it; None: the
    session sees the real directory."""
    inner: str = ""
    """Where the root is below the snapshot's top."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker needs, picklable.

    ``layers`` maps a label ("live", "from", "to", "source", "before") to a directory in the
    store that root opens before the drop; ``options`` is the entry's own.
    """

    owner: Owner
    roots: tuple[Root, ...]
    layers: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    lock: str | None = None
    """A file that the worker holds a shared flock on while it lives (see ``recovery.py``)."""


class Entry(Protocol):
    """What a worker runs; must be importable (a module-level function)."""

    def __call__(self, worker: Worker) -> None: ...


@dataclass(slots=True)
class Worker:
    """A worker's world, after the drop."""

    spec: WorkerSpec
    conn: Connection
    layer_fds: dict[str, int]
    """O_RDONLY|O_DIRECTORY descriptors of ``spec.layers``."""
    root_fds: list[int]
    """O_PATH|O_DIRECTORY descriptors of the roots, by index."""
    lower_fds: list[int] = field(default_factory=list)
    """The same of what the session sees of the base: a root's snapshot where there is one, else
    the root itself."""

    def __post_init__(self) -> None:
        self.lower_fds = self.lower_fds or list(self.root_fds)

    def send(self, message: dict[str, Any]) -> None:
        """One message to the daemon: JSON, for root must not unpickle what a worker says.

        ``bytes`` values travel as ``{"$b64": ...}`` and arrive as bytes.
        """
        self.conn.send_bytes(encode_message(message))

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message that the daemon answers; its answer."""
        self.send(message)
        answer = self.conn.recv()
        assert isinstance(answer, dict)
        return answer


def encode_message(message: dict[str, Any]) -> bytes:
    """A worker's message as it goes over the pipe."""
    return json.dumps(message, default=_plain, separators=(",", ":")).encode()


def decode_message(data: bytes) -> dict[str, Any]:
    """The message that ``encode_message`` made; ValueError if it is none."""
    message = json.loads(data, object_hook=_rich)
    if not isinstance(message, dict):
        raise ValueError("a worker's message must be an object")
    return message


def _plain(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"not a plain value: {value!r}")


def _rich(value: dict[str, Any]) -> Any:
    if len(value) == 1 and "$b64" in value:
        return base64.b64decode(value["$b64"])
    return value


_Order = tuple[Callable[[Worker], None], WorkerSpec, Callable[[WorkerSpec], None] | None]
"""What a worker is to run, on what, and what root does there before."""
_Started = tuple[ForkServerProcess, Connection]


class Workers:
    """The fork server, and a few workers that wait for their orders.

    To fork one takes some 4 ms, which a worker kept ready saves whoever asks for the next; it is
    replaced in the background.  It holds nothing yet, and ends when its pipe closes, so with us.
    """

    READY = 2
    """A mount needs two in a row, a run too."""

    def __init__(self, ctx: ForkServerContext) -> None:
        self._ctx = ctx
        self._starting = threading.Lock()
        self._keeping = False
        self._ready: list[_Started] = []

    def keep_ready(self) -> None:
        """Keep a worker ready from now on."""
        self._keeping = True
        self._fill()

    def close(self) -> None:
        """Keep none ready any more."""
        with self._starting:
            self._keeping = False
            for process, conn in self._ready:
                conn.close()
                process.join(5.0)
            self._ready.clear()

    def start(self, order: _Order) -> _Started:
        """A worker that carries out ``order``."""
        try:
            while True:
                ready = self._ready.pop(0)  # atomic
                if _ordered(ready, order):
                    return ready
        except IndexError:
            with self._starting:
                return self._fork(order)
        finally:
            if self._keeping:
                threading.Thread(target=self._fill, name="spare workers").start()

    def _fill(self) -> None:
        with self._starting:
            while self._keeping and len(self._ready) < self.READY:
                self._ready.append(self._fork(None))

    def _fork(self, order: _Order | None) -> _Started:
        ours, theirs = self._ctx.Pipe(duplex=True)
        process = self._ctx.Process(target=_main, args=(theirs, order), daemon=True)
        process.start()
        # Or the next start, in another thread, would poll it too, while we may be closing it.
        multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]
        theirs.close()
        return process, ours


def _ordered(ready: _Started, order: _Order) -> bool:
    """Whether the worker that waits took the order; else somebody has killed it."""
    process, conn = ready
    if process.is_alive():
        try:
            conn.send(order)
        except OSError:
            pass
        else:
            return True
    conn.close()
    return False


def context(directory: str | None = None) -> Workers:
    """The fork server, with everything preloaded.

    Call once, from the daemon's main thread, before any worker starts.  The fork server's
    socket lies in ``directory`` (default: a temporary one).
    """
    _forget_main()
    if directory is not None:
        multiprocessing.current_process()._config["tempdir"] = directory  # type: ignore[attr-defined]
    ctx = multiprocessing.get_context("forkserver")
    ctx.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
    return Workers(ctx)


def _forget_main() -> None:
    """Keep multiprocessing from running the daemon's main module again in every worker.

    It would (see ``multiprocessing.spawn.get_preparation_data``) to find pickled functions of
    ``__main__``, of which there are none here; that took 0.4 s a worker.
    """
    main = sys.modules["__main__"]
    main.__spec__ = None
    main.__dict__.pop("__file__", None)


def start_worker(
    workers: Workers,
    entry: Callable[[Worker], None],
    spec: WorkerSpec,
    *,
    prepare: Callable[[WorkerSpec], None] | None = None,
) -> tuple[ForkServerProcess, Connection]:
    """Start a worker; returns the process and the daemon's end of its connection.

    The first message is ``{"event": "up"}``, or ``{"event": "error", ...}`` (see
    ``error_message``) if it could not start.  Blocks for some milliseconds.
    """
    return workers.start((entry, spec, prepare))


def error_message(error: BaseException) -> dict[str, Any]:
    """The message that carries an error to the daemon; ``channel.error_of`` is its other half."""
    if isinstance(error, GoexfsError):
        return {"event": "error", "error": error.to_wire()}
    text = "".join(traceback.format_exception(error))
    bug = Internal(f"a worker failed: {type(error).__name__}: {error}")
    return {"event": "error", "error": bug.to_wire(), "traceback": text}


def _main(conn: Connection, order: _Order | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.umask(0)
    if order is None:
        try:
            order = conn.recv()
        except (EOFError, OSError):
            os._exit(0)
    _carry_out(conn, *order)


def _carry_out(
    conn: Connection,
    entry: Callable[[Worker], None],
    spec: WorkerSpec,
    prepare: Callable[[WorkerSpec], None] | None,
) -> None:
    try:
        if spec.lock is not None:
            kernel.lock_shared(os.open(spec.lock, os.O_RDONLY | os.O_CLOEXEC))
        layer_fds = {
            label: os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for label, path in spec.layers.items()
        }
        tops = [open_top(root) for root in spec.roots]
        if prepare is not None:
            prepare(spec)
        become(spec.owner)
        root_fds = [open_root(root) for root in spec.roots]
        lower_fds = [
            fd if top is None else open_lower(root, top)
            for root, fd, top in zip(spec.roots, root_fds, tops, strict=True)
        ]
        worker = Worker(spec, conn, layer_fds, root_fds, lower_fds)
        worker.send({"event": "up"})
        entry(worker)
    except BaseException as error:
        with contextlib.suppress(OSError):
            conn.send_bytes(encode_message(error_message(error)))
        if not isinstance(error, GoexfsError):
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    conn.close()
    os._exit(0)  # no atexit handlers of the fork server's


def become(owner: Owner) -> None:
    """Take the owner's credentials for good.  A session of root keeps root's."""
    kernel.no_new_privs()
    if owner.uid != 0:
        kernel.drop_bounding_set()
        os.setgroups(owner.groups)
        os.setresgid(owner.gid, owner.gid, owner.gid)
        os.setresuid(owner.uid, owner.uid, owner.uid)
    kernel.not_dumpable()


def open_root(root: Root) -> int:
    """The root's descriptor, opened as the owner; NotFound, Denied if it is not what it was."""
    shown = display(root.path)
    try:
        fd = os.open(root.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"{shown} is not a directory (any more)",
            hint="name an existing directory; a session whose root vanished can be discarded",
        ) from error
    except PermissionError as error:
        raise Denied(f"{shown} cannot be opened: permission denied") from error
    except OSError as error:
        raise NotFound(f"{shown} cannot be opened: {error.strerror}") from error
    if root.ino and os.fstat(fd).st_ino != root.ino:
        os.close(fd)
        raise NotFound(
            f"{shown} is not the directory it was when the session opened",
            hint="put the original directory back, or discard the session",
        )
    return fd


def open_top(root: Root) -> int | None:
    """As root: the top of the snapshot that holds ``root``, if the session sees one."""
    if root.lower is None:
        return None
    return os.open(root.lower, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_lower(root: Root, top: int) -> int:
    """As the owner: the root below the snapshot's ``top``, which is closed; NotFound, Denied.

    The directories on the way have the modes that they had in the base, so whoever could not
    enter them there cannot here; what lies above the root is not kept open.
    """
    shown = display(root.path)
    try:
        fd = kernel.open_dir_beneath(top, os.fsencode(root.inner))
    except PermissionError as error:
        raise Denied(f"{shown} cannot be opened in its snapshot: permission denied") from error
    except OSError as error:
        raise NotFound(f"{shown} is not in its snapshot: {error.strerror}") from error
    finally:
        os.close(top)
    if root.ino and os.fstat(fd).st_ino != root.ino:
        os.close(fd)
        raise NotFound(f"{shown} is not the same directory in its snapshot")
    return fd
