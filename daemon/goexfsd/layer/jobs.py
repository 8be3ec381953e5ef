"""What a worker does with layers: the change list and the patch, streamed to the daemon.

``changes`` reads two views of the session's roots (layers ``from`` and ``to``; without ``from``
the base alone, without ``to`` too) with the owner's rights, and sends, in this order::

    {"event": "progress", "stage", "done", "total"}      now and then
    {"event": "changes", "changes": [...]}               as goexfs.protocol.Change, in batches
    {"event": "chunk", "data": bytes}                    the patch, if options["patch"];
                                                         for reading, without options["binary"]
    {"event": "done", "summary": {kind: count}}

``options["paths"]``: pairs of root index and path (bytes, or text in wire form); only changes at
or below one of them, at either end of a rename, are sent.  It knows nothing of sessions.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from goexfs import names
from goexfsd.layer.changes import Change, Difference, Root, differences, open_views
from goexfsd.layer.patch import patch

BATCH = 1000
PIECE = 256 * 1024
_PROGRESS_SECONDS = 0.2

Selection = tuple[int, bytes]


class Spec(Protocol):
    @property
    def roots(self) -> Sequence[Root]: ...

    @property
    def options(self) -> dict[str, Any]: ...


class Worker(Protocol):
    """What is needed of a worker (``goexfsd.worker.Worker`` is one, and above this room)."""

    @property
    def spec(self) -> Spec: ...

    @property
    def layer_fds(self) -> dict[str, int]: ...

    @property
    def root_fds(self) -> list[int]: ...

    def send(self, message: dict[str, Any]) -> None: ...


def changes(worker: Worker) -> None:
    """Compare two views and tell the daemon."""
    spec = worker.spec
    old, new = worker.layer_fds.get("from"), worker.layer_fds.get("to")
    tell = _Teller(worker)
    roots = spec.roots
    with open_views(old, new, roots, worker.root_fds, progress=tell.progress) as views:
        wanted = [_selection(each) for each in spec.options.get("paths") or ()]
        found = select(differences(views, progress=tell.progress), wanted)
        root_names = {root.index: root.name for root in roots}
        for at in range(0, len(found), BATCH):
            batch = [wire(each.change, root_names) for each in found[at : at + BATCH]]
            worker.send({"event": "changes", "changes": batch})
        if spec.options.get("patch"):
            binary = bool(spec.options.get("binary", True))
            for piece in _gathered(patch(views, found, binary=binary)):
                worker.send({"event": "chunk", "data": piece})
    worker.send({"event": "done", "summary": dict(Counter(d.change.kind for d in found))})


class _Teller:
    """Passes progress on, a few times a second."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._next = time.monotonic() + _PROGRESS_SECONDS

    def progress(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_SECONDS
            message = {"event": "progress", "stage": stage, "done": done, "total": total}
            self._worker.send(message)


def _selection(pair: Sequence[Any]) -> Selection:
    root, path = pair
    return int(root), names.from_wire(path) if isinstance(path, str) else bytes(path)


def select(found: list[Difference], wanted: Iterable[Selection]) -> list[Difference]:
    """The differences at or below one of the paths; all of them if there are none."""
    chosen = {(root, b"" if path == b"." else path.strip(b"/")) for root, path in wanted}
    if not chosen:
        return found
    return [each for each in found if _is_below(each.change, chosen)]


def _is_below(change: Change, chosen: set[Selection]) -> bool:
    for path in (change.path, change.old_path):
        at = path
        while at is not None:
            if (change.root, at) in chosen:
                return True
            at = at.rpartition(b"/")[0] if at else None
    return False


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of a good size."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def wire(change: Change, root_names: dict[int, str]) -> dict[str, Any]:
    """A change as ``goexfs.protocol.Change`` has it."""
    now, was = change.st, change.old_st
    if now is None:  # a deletion: what it was
        now, was = was, None
    return {
        "kind": change.kind,
        "root": root_names[change.root],
        "path": names.to_wire(change.path or b"."),
        "type": change.type,
        "old_path": None if change.old_path is None else names.to_wire(change.old_path),
        "old_type": change.old_type if change.kind == "retyped" else None,
        "aspects": sorted(change.aspects),
        "mode": _mode(now),
        "old_mode": _mode(was),
        "size": _size(now),
        "old_size": _size(was),
        "links": change.links,
        "warnings": [],
    }


def _mode(st: os.stat_result | None) -> int | None:
    return None if st is None else stat.S_IMODE(st.st_mode)


def _size(st: os.stat_result | None) -> int | None:
    if st is None or not (stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode)):
        return None
    return st.st_size
