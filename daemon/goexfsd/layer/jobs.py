"""What a worker does with layers: the change list and the patch, streamed to the daemon.

``changes`` reads two views of the session's roots (layers ``from`` and ``to``; without ``from``
the base alone, without ``to`` too) with the owner's rights, and sends, in this order::

    {"event": "newer", "also": [inode]}                  with options["newer"]; the answer is
                                                         {"newer": (device, inodes, names) | None}
    {"event": "progress", "stage", "done", "total"}      now and then
    {"event": "changes", "changes": [...]}               as goexfs.protocol.Change, in batches
    {"event": "chunk", "data": bytes}                    the patch, if options["patch"];
                                                         for reading, without options["binary"]
    {"event": "done", "summary": {kind: count}, "sha256", "warnings": [...], "counts": [...]}

``options["select"]``: a ``Selection``; only changes that it means, at either end of a rename, are
sent.  ``options["list"]``: "all" (the
default), "flagged" (only changes that have warnings) or "none".  ``options["review"]``: whether
to look for warnings (the default); ``options["rules"]``: further rules, as keywords of
``goexfsd.warn.rules.Rule``.  A patch begins with the warnings, in lines that ``git apply`` and
``patch`` pass over.  It knows nothing of sessions.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from goexfs import names
from goexfsd.layer import reads, unpatch
from goexfsd.layer.changes import Change, Difference, Root, Views, differences, open_views
from goexfsd.layer.digest import digest
from goexfsd.layer.evidence import Evidence
from goexfsd.layer.patch import patch
from goexfsd.layer.selection import Chosen, Selection, places_of
from goexfsd.layer.since import Newer
from goexfsd.warn.review import Review
from goexfsd.warn.rules import Rule

BATCH = 1000
PIECE = 256 * 1024
_PROGRESS_SECONDS = 0.2
_FEW = 20
"""Names for which a patch says the same warning one by one."""
_STALE = 1000
"""Stale reads that are listed."""


class PlacedRoot(Root, Protocol):
    @property
    def path(self) -> str: ...


class Spec(Protocol):
    @property
    def roots(self) -> Sequence[PlacedRoot]: ...

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

    @property
    def lower_fds(self) -> list[int]: ...

    def send(self, message: dict[str, Any]) -> None: ...

    def ask(self, message: dict[str, Any]) -> dict[str, Any]: ...


def changes(worker: Worker) -> None:
    """Compare two views and tell the daemon."""
    with _without_collections():
        _changes(worker)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Nothing here is cyclic, and every collection looks at all entries there are."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _changes(worker: Worker) -> None:
    spec = worker.spec
    old, new = worker.layer_fds.get("from"), worker.layer_fds.get("to")
    tell = _Teller(worker)
    roots = spec.roots
    ask = partial(_ask, worker) if spec.options.get("newer") else None
    with open_views(old, new, roots, worker.lower_fds, progress=tell.progress, ask=ask) as views:
        found = select(differences(views, progress=tell.progress), meant(spec))
        review = Reviewed(found, views, spec)
        root_names = {root.index: root.name for root in roots}
        for batch in review.batches(spec.options.get("list", "all")):
            told = [wire(each.change, root_names, warnings) for each, warnings in batch]
            worker.send({"event": "changes", "changes": told})
        if spec.options.get("patch"):
            binary = bool(spec.options.get("binary", True))
            pieces = itertools.chain(review.head(), patch(views, found, binary=binary))
            for piece in _gathered(pieces):
                worker.send({"event": "chunk", "data": piece})
    summary = dict(Counter(d.change.kind for d in found))
    sha256 = digest(each.change for each in found)
    done: dict[str, Any] = {"summary": summary, "sha256": sha256, **review.result()}
    if spec.options.get("stale") and new is not None:
        done["stale"] = _stale(worker, new)
    worker.send({"event": "done", **done})


def _ask(worker: Worker, also: list[int]) -> Newer | None:
    """Have the daemon ask the file system what of the new layer is newer than the old one."""
    found = worker.ask({"event": "newer", "also": also})["newer"]
    if found is None:
        return None
    device, changed, places = found
    if device != os.fstat(worker.layer_fds["to"]).st_dev:
        return None  # the live layer was exchanged meanwhile
    return Newer(changed, places)


def _stale(worker: Worker, layer_fd: int) -> list[dict[str, str]]:
    """What scripts read and others changed since, as far as it is listed."""
    read, _ = reads.load(layer_fd)
    found = itertools.islice(reads.stale(read, worker.root_fds), _STALE)
    return [
        {"root": worker.spec.roots[root].name, "path": names.to_wire(path), "detail": happened}
        for (root, path), happened, _ in found
    ]


class Reviewed:
    """The differences with their warnings, looked for as they are asked for."""

    def __init__(self, found: Sequence[Difference], views: Sequence[Views], spec: Spec) -> None:
        self._found = found
        self._views = {pair.new.root_index: pair for pair in views}
        self._names = {root.index: root.name for root in spec.roots}
        self._flagged: list[tuple[Change, list[str]]] = []
        self._review: Review | None = None
        self._root = os.geteuid() == 0
        if spec.options.get("review", True):
            places = {root.index: os.fsencode(root.path) for root in spec.roots}
            rules = [Rule(**each) for each in spec.options.get("rules") or ()]
            self._review = Review((each.change for each in found), places, rules)

    def batches(self, wanted: str) -> Iterator[list[tuple[Difference, list[str]]]]:
        """The changes that are wanted, with their warnings; everything is looked at in any case."""
        batch: list[tuple[Difference, list[str]]] = []
        for each in self._found:
            warnings = self._warnings(each)
            if wanted == "all" or (wanted == "flagged" and warnings):
                batch.append((each, warnings))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _warnings(self, difference: Difference) -> list[str]:
        if self._review is None:
            return []
        change = difference.change
        warnings = self._review.of(
            change, Evidence(self._views[change.root], difference, self._root)
        )
        if warnings:
            self._flagged.append((change, warnings))
        return warnings

    def lines(self) -> list[str]:
        """The warnings of a commit, each with the name that it is about: those of all changes
        together first."""
        several = len(self._names) > 1
        found: list[str] = []
        for each, warnings in itertools.chain.from_iterable(self.batches("flagged")):
            shown = names.display(each.change.path or b".")
            if several:
                shown = f"{self._names[each.change.root]}/{shown}"
            for warning in warnings:
                code, _, sentence = warning.partition(": ")
                found.append(f"{code}: {shown}: {sentence}")
        return [*self._whole(), *found]

    def head(self) -> Iterator[bytes]:
        """The warnings as a patch has them: above everything, in lines of their own."""
        for warning in self._whole():
            yield b"# goexfs: warning: %s\n" % warning.encode()
        named: dict[str, list[str]] = {}
        for change, warnings in self._flagged:
            shown = names.display(change.path or b".")
            if len(self._names) > 1:
                shown = f"{self._names[change.root]}/{shown}"
            for warning in warnings:
                named.setdefault(warning, []).append(shown)
        for warning, places in named.items():
            lines = [f"{place}: {warning}" for place in places]
            if len(places) > _FEW:
                found = names.folders(places)
                lines = [f"{folder}: {count} changes: {warning}" for folder, count in found]
            yield from (f"# goexfs: warning: {each}\n".encode("utf-8", "replace") for each in lines)

    def _whole(self) -> list[str]:
        return [] if self._review is None else self._review.whole(self._names)

    def result(self) -> dict[str, list[str]]:
        """Warnings of all changes together, and how many changes have which."""
        counts = [] if self._review is None else self._review.counts()
        return {"warnings": self._whole(), "counts": counts}


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


def meant(spec: Spec) -> Selection:
    """What is selected; of a patch, the places that it names."""
    wanted: Selection = spec.options.get("select") or Selection()
    if wanted.patch is None:
        return wanted
    return Selection.of(unpatch.places(unpatch.parse(wanted.patch), spec.roots))


def select(found: list[Difference], wanted: Selection) -> list[Difference]:
    """The differences that are meant, at either end of a rename; all if nothing is selected."""
    if not wanted:
        return found
    changes = [each.change for each in found]
    chosen = wanted.among(places_of(changes))
    return [each for each in found if _is_meant(each.change, chosen)]


def _is_meant(change: Change, chosen: Chosen) -> bool:
    if chosen.leaves(change):
        return False
    ends = (change.path, change.old_path)
    return any(path is not None and chosen.takes(change.root, path) for path in ends)


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


def wire(
    change: Change, root_names: dict[int, str], warnings: Sequence[str] = ()
) -> dict[str, Any]:
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
        "warnings": list(warnings),
    }


def _mode(st: os.stat_result | None) -> int | None:
    return None if st is None else stat.S_IMODE(st.st_mode)


def _size(st: os.stat_result | None) -> int | None:
    if st is None or not (stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode)):
        return None
    return st.st_size
