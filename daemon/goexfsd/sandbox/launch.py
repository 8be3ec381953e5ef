"""Start the process of a launch: its descriptors and its arguments.

A parked process, which is in its control group already, so that nothing it starts can be
outside, executes the chain: sh (root) → setpriv → bubblewrap (the job's uid) → sh → the command.

It does not know what the output is for, nor how long the script may run.
"""

from __future__ import annotations

import os
import resource
import subprocess
import termios
from dataclasses import dataclass
from typing import Literal

import trio

from goexfs.errors import SandboxFailed
from goexfsd.sandbox.look import Found
from goexfsd.sandbox.parked import Parked
from goexfsd.sandbox.plan import NAMESPACE, Data, Launch, arguments

Stream = Literal["stdout", "stderr", "pty"]


class Descriptors:
    """Descriptors that are closed at the end if not before; each belongs to one place."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def own(self, fd: int) -> int:
        self._open.add(fd)
        return fd

    def pipe(self) -> tuple[int, int]:
        """(read end, write end), close-on-exec."""
        read, write = os.pipe2(os.O_CLOEXEC)
        return self.own(read), self.own(write)

    def memory(self, content: bytes) -> int:
        """A file that holds ``content``, at its beginning."""
        fd = self.own(os.memfd_create("goexfs", os.MFD_CLOEXEC))
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def close(self, *fds: int) -> None:
        for fd in fds:
            if fd in self._open:
                self._open.remove(fd)
                os.close(fd)

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(*tuple(self._open))


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of everything that connects the daemon with the script."""

    stdin: int
    stdout: int
    stderr: int
    report_write: int
    report: int
    """bubblewrap's status lines and complaints."""
    outputs: dict[Stream, int]
    input: int | None
    """Where the script's input is written; a terminal's is its output's descriptor, too."""
    terminal: int | None

    def theirs(self) -> set[int]:
        return {self.stdin, self.stdout, self.stderr, self.report_write}


def open_ends(launch: Launch, fds: Descriptors, *, with_input: bool) -> Ends:
    """Pipes, or a terminal; the script's ends are its own, so that /dev/stdout can be opened."""
    report, report_write = fds.pipe()
    if launch.pty is not None:
        return _terminal_ends(launch, launch.pty, fds, report, report_write)
    out, out_write = fds.pipe()
    err, err_write = fds.pipe()
    for fd in (out_write, err_write):
        os.fchown(fd, launch.uid, launch.gid)
    feed: int | None = None
    if with_input:
        stdin, feed = fds.pipe()
        os.fchown(stdin, launch.uid, launch.gid)
        os.set_blocking(feed, False)
    else:
        stdin = fds.own(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    for fd in (report, out, err):
        os.set_blocking(fd, False)
    return Ends(
        stdin,
        out_write,
        err_write,
        report_write,
        report,
        {"stdout": out, "stderr": err},
        feed,
        None,
    )


def _terminal_ends(
    launch: Launch, size: tuple[int, int], fds: Descriptors, report: int, report_write: int
) -> Ends:
    master, slave = (fds.own(fd) for fd in os.openpty())
    termios.tcsetwinsize(master, size)
    os.fchown(slave, launch.uid, -1)
    os.fchmod(slave, 0o600)
    os.set_blocking(master, False)
    os.set_blocking(report, False)
    return Ends(slave, slave, slave, report_write, report, {"pty": master}, master, master)


class Process:
    """The process that was parked."""

    def __init__(self, popen: subprocess.Popen[bytes], fds: Descriptors) -> None:
        self._popen = popen
        self._pidfd = fds.own(os.pidfd_open(popen.pid))
        self.pid = popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    async def wait(self) -> int:
        await trio.lowlevel.wait_readable(self._pidfd)
        return self._popen.wait()

    def kill(self) -> None:
        self._popen.kill()


def start(
    launch: Launch,
    found: Found,
    parked: Parked,
    ends: Ends,
    fds: Descriptors,
    network: int | None = None,
) -> None:
    """Let the parked process become the launch's chain; SandboxFailed if it is gone.

    ``network``: a descriptor of the network namespace that a launch joins.
    """
    passed = _Numbers([ends.stdin, ends.stdout, ends.stderr])
    if launch.joins:
        if network is None:
            raise SandboxFailed("the script's network is missing")
        passed.pairs.append((network, NAMESPACE))
    options = _encode(launch, found, fds, passed)
    fill = {
        "{report}": passed.number(ends.report_write),
        "{args}": passed.number(fds.memory(options)),
        "{seccomp}": passed.number(fds.memory(launch.seccomp)),
        "{open_files}": _open_files(launch),
    }
    argv = [str(fill.get(part, part)) for part in launch.program] + list(launch.command)
    try:
        parked.become(argv, passed.pairs, fill["{report}"], walled=launch.walled)
    except OSError as error:
        raise SandboxFailed(f"the script's process is gone: {error}") from error
    fds.close(*(ours for ours, _ in passed.pairs))


class _Numbers:
    """Which of our descriptors the process gets under which number: from 10 on, since the
    shells in the chain use those below."""

    def __init__(self, standard: list[int]) -> None:
        self.pairs = [(fd, number) for number, fd in enumerate(standard)]
        self._next = 10

    def number(self, fd: int) -> int:
        self.pairs.append((fd, self._next))
        self._next += 1
        return self._next - 1


def _open_files(launch: Launch) -> int:
    """The limit that the policy sets, or the daemon's own where that is lower."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return launch.open_files if hard == resource.RLIM_INFINITY else min(hard, launch.open_files)


def _encode(launch: Launch, found: Found, fds: Descriptors, passed: _Numbers) -> bytes:
    """The arguments as bubblewrap reads them, with a descriptor for each piece of data."""
    parts: list[bytes] = []
    for argument in arguments(launch, found):
        if isinstance(argument, Data):
            parts.append(b"%d" % passed.number(fds.memory(argument.content)))
        else:
            parts.append(os.fsencode(argument))
    return b"\0".join(parts) + b"\0"
