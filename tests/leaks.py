"""What a test may leave behind: nothing.  Compares cheap snapshots of what the kernel knows.

Only what is ours counts, so that several runs on one machine do not blame each other: mounts and
loop devices below this run's temporary directory, descendants of this process (it is a
subreaper, so orphans come back to it), its own descriptors, entries of its temporary directory,
control groups whose name holds one of its processes' or sessions' marks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 15.0
_CGROUPS = "/sys/fs/cgroup"
# Interpreter-wide descriptors that open at first use and stay.
_STANDING = ("/dev/urandom", "/dev/null")


@dataclass(frozen=True, slots=True)
class Traces:
    """What is there now."""

    mounts: frozenset[str]
    loops: frozenset[str]
    processes: frozenset[int]
    descriptors: frozenset[str]
    files: frozenset[str]


def become_reaper() -> None:
    """Let orphaned descendants come to this process, where they are seen."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def take(temporary: Path) -> Traces:
    """The traces now; ``temporary`` is this run's own directory for temporary files."""
    return Traces(
        frozenset(mounts_below(temporary)),
        frozenset(_loops(str(temporary))),
        frozenset(_descendants(os.getpid())),
        frozenset(_descriptors()),
        # multiprocessing's own directory lives as long as the process that first needed it.
        frozenset(name for name in os.listdir(temporary) if not name.startswith("pymp-")),
    )


def left_behind(before: Traces, temporary: Path) -> list[str]:
    """What came since ``before``, in words; waits a moment for what is just going."""
    deadline = time.monotonic() + _PATIENCE
    pause = 0.005
    while True:
        _reap(before.processes)
        found = _differences(before, take(temporary))
        if not found or time.monotonic() > deadline:
            return found
        gc.collect()  # sockets and files whose last reference is in a cycle
        time.sleep(pause)
        pause = min(pause * 2, 0.2)


def _differences(before: Traces, after: Traces) -> list[str]:
    processes = after.processes - before.processes
    old = {pid for known in before.processes for pid in _descendants(known)}
    return [
        *(f"mount {at}" for at in sorted(after.mounts - before.mounts)),
        *(f"loop device {loop}" for loop in sorted(after.loops - before.loops)),
        *(f"process {pid}: {_command(pid)}" for pid in sorted(processes - old - _standing())),
        *(f"open descriptor {fd}" for fd in sorted(after.descriptors - before.descriptors)),
        *(f"temporary file {name}" for name in sorted(after.files - before.files)),
    ]


def mounts_below(directory: Path) -> Iterator[str]:
    """Where something is mounted at or below a directory."""
    below = str(directory)
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            target = os.fsdecode(line.split()[4])
            if target.startswith(below):
                yield target


def _loops(below: str) -> Iterator[str]:
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop"):
            continue
        try:
            backing = Path(f"/sys/block/{name}/loop/backing_file").read_text().strip()
        except OSError:
            continue
        if backing.startswith(below):
            yield f"{name} ({backing})"


def _descendants(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


def _standing() -> set[int]:
    """multiprocessing's own helpers live as long as the process that first needed them."""
    found = set()
    server = sys.modules.get("multiprocessing.forkserver")
    if server is not None:
        found.add(server._forkserver._forkserver_pid)
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None:
        found.add(tracker._resource_tracker._pid)
    return {pid for pid in found if pid is not None}


def _standing_fds() -> set[int]:
    found = set()
    server = sys.modules.get("multiprocessing.forkserver")
    if server is not None:
        found.add(server._forkserver._forkserver_alive_fd)
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None:
        found.add(tracker._resource_tracker._fd)
    return {fd for fd in found if fd is not None}


def _reap(known: frozenset[int]) -> None:
    """Collect orphans that came to us and are dead; a Popen's own child is left to it."""
    for pid in set(_descendants(os.getpid())) - known - _standing():
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
            if state == "Z":
                os.waitpid(pid, os.WNOHANG)
        except (OSError, IndexError):
            continue


def _descriptors() -> Iterator[str]:
    standing = _standing_fds()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
        if int(name) not in standing and target not in _STANDING:
            yield f"{name} → {target}"


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "(gone)"
    return os.fsdecode(b" ".join(words)).strip()[:200] or "(zombie)"


def cgroups() -> set[str]:
    """The control groups of goexfs daemons that there are (of every run on this machine)."""
    return {
        os.path.join(path, name)
        for path, names, _ in os.walk(_CGROUPS)
        for name in names
        if name.startswith("goexfs-")
    }
