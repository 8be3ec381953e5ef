"""Whether the base is what it should be: after a commit or undo, or beneath an open session.

``commit``: every entry that a commit put, moved or set is the very one that it left, and where it
took something away nothing is.  ``session``: every base entry that a session touched is what it
was when the session saw it first.  Entries are told apart by device, inode, type, size, mtime,
mode and ctime, which any later write moves; nothing is read, so the cost is a look for each.

Messages::

    differences {differences: [{root, path, detail}...]}   in batches
    verified    {checked}                                  the end

It changes nothing, and cannot tell who changed what it finds changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from goexfs.names import to_wire
from goexfsd.commit.base import Base
from goexfsd.commit.conflicts import differs_from
from goexfsd.commit.past import Past
from goexfsd.commit.plan import Plan, path_of
from goexfsd.layer import seen
from goexfsd.layer.origins import Identity
from goexfsd.worker import Worker

_BATCH = 1000
Found = tuple[int, bytes, str]
"""Root, path, what is different: empty if nothing is."""


def commit(worker: Worker) -> None:
    """The commit whose records are layer ``before``."""
    past = Past(worker.layer_fds["before"], worker.spec.options.get("heirs"))
    base = Base(worker.root_fds)
    try:
        gone = list(_other_roots(worker, past.plan))
        _tell(worker, gone or _after(past, base))
    finally:
        base.close()


def session(worker: Worker) -> None:
    """The session whose layer is ``live``."""
    logs = seen.read(worker.layer_fds["live"], [root.index for root in worker.spec.roots])
    base = Base(worker.root_fds)
    try:
        _tell(
            worker,
            (
                (root, path, _compared(base, root, path, was))
                for root, log in logs.items()
                for path, was in sorted(log.first.items())
            ),
        )
    finally:
        base.close()


def _tell(worker: Worker, looks: Iterable[Found]) -> None:
    names = {root.index: root.name for root in worker.spec.roots}
    found: list[dict[str, Any]] = []
    checked = 0
    for root, path, detail in looks:
        checked += 1
        if detail:
            found.append({"root": names[root], "path": to_wire(path or b"."), "detail": detail})
        if len(found) == _BATCH:
            worker.send({"event": "differences", "differences": found})
            found = []
    worker.send({"event": "differences", "differences": found})
    worker.send({"event": "verified", "checked": checked})


def _other_roots(worker: Worker, plan: Plan) -> Iterator[Found]:
    for mark in plan.roots:
        fd = worker.root_fds[mark.index]
        if os.fstat(fd).st_ino != mark.ino or os.fstatvfs(fd).f_fsid != mark.fsid:
            yield mark.index, b"", "another directory or file system is there now"


def _after(past: Past, base: Base) -> Iterator[Found]:
    places = {}
    for node in past.here.values():
        path = path_of(past.plan, node.id)
        places[node.root, path] = node
        left = past.now.get(node.id)
        if left is None:
            yield node.root, path, "it was changed in the very moment of the commit"
        else:
            yield node.root, path, _compared(base, node.root, path, left)
    for node in past.gone.values():
        path = path_of(past.plan, node.id, old=True)
        if (node.root, path) not in places:
            there = _look(base, node.root, path) is not None
            yield node.root, path, "something is there again" if there else ""


def _compared(base: Base, root: int, path: bytes, was: Identity) -> str:
    st = _look(base, root, path)
    if st is None:
        return "it is gone"
    if isinstance(st, str):
        return st
    return differs_from(was, Identity.of(st, base.root_devs[root]))[1]


def _look(base: Base, root: int, path: bytes) -> os.stat_result | str | None:
    try:
        return base.look(root, path)
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
