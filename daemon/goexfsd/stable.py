"""The stable base: read-only snapshots of what the roots lie in, where the store shares its btrfs.

A session then sees its roots as they were when it opened, whatever others do to them meanwhile;
a commit is still checked against the real directories.  Roots that cannot have this (another
file system, a mount or a nested subvolume inside) are shown live.

The subvolumes are found by the owner's worker, from the root upwards with the owner's rights,
and reach the daemon as open descriptors: root follows no path of the user's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog
import trio

from goexfs.errors import GoexfsError
from goexfsd import kernel
from goexfsd.channel import open_channel
from goexfsd.store import Store
from goexfsd.worker import Root, Worker, Workers, WorkerSpec

log = structlog.get_logger("goexfsd.stable")

_TOP = 256
"""The inode number of every subvolume's own directory."""
_UP = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Lower:
    """Where a root is in a snapshot."""

    name: str
    """``<generation>/<place>``, see ``store.lowers``."""
    inner: str
    """The root's path below the snapshot's top."""


@dataclass(frozen=True, slots=True)
class _Top:
    fd: int
    inner: str


def tops(worker: Worker) -> None:
    """Worker entry: the subvolume that each root lies in.

    Sends ``{"event": "tops", "tops": [[descriptor, path of the root in it] | None, ...]}`` and
    waits until the daemon has opened the descriptors.
    """
    pairs = zip(worker.spec.roots, worker.root_fds, strict=True)
    worker.send({"event": "tops", "tops": [_climb(root.path, fd) for root, fd in pairs]})
    with contextlib.suppress(EOFError, OSError):
        worker.conn.recv()


def _climb(path: str, root_fd: int) -> tuple[int, str] | None:
    """Up from a root to the top of its subvolume; None if a mount ends before that."""
    parts = path.split("/")[1:]
    names: list[str] = []
    here = os.dup(root_fd)
    first = _whereabouts(here)
    while os.fstat(here).st_ino != _TOP:
        if not parts:
            return None
        names.append(parts.pop())
        try:
            above = os.open("..", _UP, dir_fd=here)
        except OSError:
            return None
        os.close(here)
        here = above
        if _whereabouts(here) != first:
            return None
    return here, "/".join(reversed(names))


def _whereabouts(fd: int) -> tuple[int, int]:
    """Device and mount."""
    return os.fstat(fd).st_dev, kernel.statx_extra(fd, b"")[1]


async def freeze(store: Store, workers: Workers, spec: WorkerSpec, sid: str) -> list[Lower | None]:
    """Take snapshots for a session's roots; None for each root that has to be shown live.

    Whatever stands in the way of a snapshot makes the root a live one: that is always right.
    """
    live: list[Lower | None] = [None] * len(spec.roots)
    if store.image is not None:
        return live
    try:
        async with open_channel(workers, tops, spec, looks=True) as channel:
            found = (await channel.expect("tops"))["tops"]
            with _opened(channel.pid, found) as opened:
                return await trio.to_thread.run_sync(_take, store, sid, spec.roots, opened)
    except (OSError, GoexfsError) as error:
        log.info("the base is shown live", session=sid, error=str(error))
        return live


@contextlib.contextmanager
def _opened(pid: int, found: Sequence[Sequence[object] | None]) -> Iterator[list[_Top | None]]:
    """The worker's descriptors, as our own."""
    with contextlib.ExitStack() as stack:
        opened: list[_Top | None] = []
        for each in found:
            if each is None:
                opened.append(None)
                continue
            number, inner = each
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            fd = os.open(f"/proc/{pid}/fd/{int(str(number))}", flags)
            stack.callback(os.close, fd)
            opened.append(_Top(fd, str(inner)))
        yield opened


def _take(
    store: Store, sid: str, roots: Sequence[Root], opened: Sequence[_Top | None]
) -> list[Lower | None]:
    """One snapshot for each subvolume that suits; several roots may lie in one."""
    mounts = [point for point, _, _ in kernel.mounts()]
    suited: list[_Top | None] = []
    for root, top in zip(roots, opened, strict=True):
        below = any(each.startswith(root.path + "/") for each in mounts)
        suits = top is not None and not below and store.can_hold(top.fd, top.inner)
        suited.append(top if suits else None)
    sources = {os.fstat(top.fd).st_dev: top.fd for top in suited if top is not None}
    if not sources:
        return [None] * len(roots)
    generation = store.take_lowers(sid, list(sources.values()))
    places = {device: place for place, device in enumerate(sources)}
    return [
        None if top is None else Lower(f"{generation}/{places[os.fstat(top.fd).st_dev]}", top.inner)
        for top in suited
    ]
