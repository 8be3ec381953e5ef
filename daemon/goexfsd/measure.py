"""How much a layer holds, measured again and again by its owner while a script runs.

A worker walks the layer's upper tree and counts entries and bytes on disk, what is not yet
written back included (btrfs counts delayed allocations in ``st_blocks``).  The walk costs what
the session changed, so the pause after it is ten times what it took.  What a script writes
between two looks is not bounded; docs/policy.md says so.

It knows nothing of limits.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from goexfsd import kernel
from goexfsd.worker import Worker

PAUSE = 0.1
"""Seconds between looks, at least."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@dataclass(slots=True)
class Held:
    """What was counted; a file with several names once."""

    bytes: int = 0
    inodes: int = 0
    _seen: set[int] = field(default_factory=set)

    def count(self, st: os.stat_result) -> None:
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            if st.st_ino in self._seen:
                return
            self._seen.add(st.st_ino)
        self.bytes += st.st_blocks * 512
        self.inodes += 1


def measure(worker: Worker) -> None:
    """Worker entry.  Layer ``live``.  Sends ``{"event": "held", "bytes", "inodes"}`` until its
    pipe is closed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    layer = worker.layer_fds["live"]
    while True:
        began = time.monotonic()
        held = look(layer)
        worker.send({"event": "held", "bytes": held.bytes, "inodes": held.inodes})
        took = time.monotonic() - began
        if worker.conn.poll(max(PAUSE, 10 * took)):
            return  # the daemon says nothing: its end is closed


def look(layer_fd: int) -> Held:
    """Count what a layer holds now; the directories of the roots themselves do not count."""
    held = Held()
    upper = kernel.open_beneath(layer_fd, b"upper", _DIRECTORY)
    roots = len(os.listdir(upper))
    _walk(upper, held)
    held.inodes = max(0, held.inodes - roots)
    return held


def _walk(top: int, held: Held) -> None:
    """Count what is below a directory, whose descriptor it closes.

    A descriptor is open for each level, not for each directory: trees are wide, seldom deep.
    """
    above: list[tuple[int, Iterator[str]]] = [(top, iter(os.listdir(top)))]
    try:
        while above:
            here, names = above[-1]
            name = next(names, None)
            if name is None:
                os.close(above.pop()[0])
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or closed to its own owner
                st = os.lstat(name, dir_fd=here)
                held.count(st)
                if stat.S_ISDIR(st.st_mode):
                    below = kernel.open_beneath(here, os.fsencode(name), _DIRECTORY)
                    above.append((below, iter(os.listdir(below))))
    finally:
        for fd, _ in above:
            os.close(fd)
