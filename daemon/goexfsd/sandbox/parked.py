"""A process that waits, already in a control group of its own, for what it is to become.

Moving a process into a group makes the kernel wait for a grace period: 10 to 20 ms on an idle
machine, most of what starting a sandbox costs.  So one process is started and moved ahead of
time; when a script is to run, it gets descriptors and arguments and executes them.

Made in the thread that runs the event loop: bubblewrap's --die-with-parent means the thread that
forked.  Only the waiting for the move happens elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import trio

from goexfs.errors import SandboxFailed
from goexfsd.sandbox.cgroup import Cgroup, Groups, Limits, Mounts, open_groups

_WAITER = str(Path(__file__).with_name("waiter.py"))
_SECONDS = 10.0
_SOON = 0.05
# Not 0: that keeps the kernel from writing a core file, but not from handing the core to a program
# (a core_pattern with a pipe), which runs as root outside.  1 keeps it from both: core(5).  That a
# script lowers it is the filter's to prevent.
_CORE = (1, 1)


class Parked:
    """One waiting process and its group."""

    def __init__(self, group: Cgroup) -> None:
        self.group = group
        self._socket, theirs = socket.socketpair()
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-I", "-S", _WAITER, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={},
                cwd="/",
            )
        resource.prlimit(self.popen.pid, resource.RLIMIT_CORE, _CORE)
        self._failure: OSError | None = None
        self._mover = threading.Thread(target=self._move, name="parking", daemon=True)
        self._mover.start()

    def _move(self) -> None:
        try:
            self.group.add(self.popen.pid)
        except OSError as error:
            self._failure = error

    async def ready(self) -> None:
        """Wait until it is in its group; OSError if it could not be moved there."""
        if self._mover.is_alive():
            await trio.to_thread.run_sync(self._mover.join, _SECONDS)
            if self._mover.is_alive():
                raise TimeoutError(f"not moved within {_SECONDS} s")
        if self._failure is not None:
            raise self._failure

    def become(
        self, argv: list[str], numbers: list[tuple[int, int]], report: int, *, walled: bool
    ) -> None:
        """Execute ``argv`` with descriptors: ours → theirs.  OSError if it is gone.

        ``walled``: not to reach abstract sockets and processes outside.
        """
        theirs = ",".join(str(number) for _, number in numbers)
        parts = (str(report), theirs, "w" if walled else "", *argv)
        task = b"\0".join(os.fsencode(part) for part in parts)
        fd = os.memfd_create("goexfs", os.MFD_CLOEXEC)
        try:
            os.pwrite(fd, task, 0)
            socket.send_fds(self._socket, [b"x"], [*(ours for ours, _ in numbers), fd])
        finally:
            os.close(fd)
            self._socket.close()

    def gone(self) -> bool:
        """Whether somebody killed it while it waited."""
        return self.popen.poll() is not None

    def dismiss(self) -> None:
        """It is not needed any more; blocks until it is gone, its group too."""
        self._mover.join(_SECONDS)
        self._socket.close()
        self.popen.kill()
        self.popen.wait(_SECONDS)
        self.group.end_blocking(_SECONDS)


class CgroupRoot:
    """The daemon's control groups, with a process parked in one of them."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._parked: Parked | None = None
        self._lock = threading.Lock()
        """``close`` may come from another thread."""
        self._closed = False

    def park(self) -> None:
        """Park one process, if none is; takes about a millisecond."""
        with self._lock:
            if self._parked is None and not self._closed:
                self._parked = Parked(self._groups.new())

    def park_soon(self) -> None:
        """Park one when what is urgent now has had its time."""
        trio.lowlevel.spawn_system_task(self._park_later)

    async def _park_later(self) -> None:
        await trio.sleep(_SOON)
        with contextlib.suppress(SandboxFailed, OSError):  # ``take`` tries again, and says so
            self.park()

    async def take(self, limits: Limits) -> Parked:
        """A waiting process in a group with these limits; the caller ends both.

        SandboxFailed if the limits cannot be enforced.
        """
        self._groups.check(limits)
        self.park()
        parked, self._parked = self._parked, None
        if parked is not None and parked.gone():
            await trio.to_thread.run_sync(parked.dismiss)
            self.park()
            parked, self._parked = self._parked, None
        if parked is None:
            raise SandboxFailed("the daemon is stopping")
        try:
            await parked.ready()
            parked.group.bound(limits)
        except OSError as error:
            parked.dismiss()
            raise SandboxFailed(f"the script's limits could not be set: {error}") from error
        except BaseException:
            parked.dismiss()
            raise
        return parked

    def running(self) -> list[str]:
        """Groups of steps."""
        spare = None if self._parked is None else self._parked.group.name
        return [name for name in self._groups.leftovers() if name != spare]

    def close(self) -> None:
        """End everything that runs, and remove the groups; blocks."""
        with self._lock:
            self._closed = True
            parked, self._parked = self._parked, None
        if parked is not None:
            parked.dismiss()
        self._groups.close()


def open_cgroups(mounts: Mounts) -> CgroupRoot:
    """The daemon's groups; call in the thread that will run the event loop."""
    root = CgroupRoot(open_groups(mounts))
    root.park()
    return root
