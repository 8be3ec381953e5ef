"""Start the process of a launch: its descriptors, its group and limits, its arguments.

The chain is: sh (root) → setpriv → bubblewrap (the job's uid) → sh → the command.  Bubblewrap
waits for its arguments until they are written; before that the process is put into its control
group and gets its limits, so that nothing it starts can be outside.

It does not know what the output is for, nor how long the script may run.
"""

from __future__ import annotations

import os
import resource
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import trio

from goexfs.errors import SandboxFailed
from goexfsd import kernel
from goexfsd.sandbox.cgroup import Cgroup
from goexfsd.sandbox.look import Found
from goexfsd.sandbox.plan import Data, Launch, arguments

Stream = Literal["stdout", "stderr", "pty"]

# Never the caller's: root's shell would obey ENV, its loader LD_PRELOAD.
_CLEAN_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_FIRST_FREE = 10


class Descriptors:
    """Descriptors that are closed at the end if not before; each belongs to one place."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def own(self, fd: int) -> int:
        """Take it over; its number may change: the shells that pass it on use 0 to 9."""
        if fd < _FIRST_FREE:
            low, fd = fd, kernel.dup_from(fd, _FIRST_FREE)
            os.close(low)
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

    def release(self, fd: int) -> int:
        """Somebody else closes it from now on."""
        self._open.remove(fd)
        return fd

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
    """A child of the thread that runs the event loop.

    Not trio's: that forks in a worker thread, and --die-with-parent means the thread that forked
    (man PR_SET_PDEATHSIG), which trio ends when it has been idle for ten seconds.
    """

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


@contextmanager
def _complaint(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SandboxFailed(f"{what}: {error.strerror or error}") from error


def start(
    launch: Launch, found: Found, group: Cgroup, ends: Ends, fds: Descriptors
) -> tuple[Process, int, bytes]:
    """The process, waiting; the descriptor and the bytes that let it go on.

    Blocks for about a millisecond, until the child has executed the shell.
    """
    gate, gate_write = fds.pipe()
    fill = {
        "{report}": ends.report_write,
        "{args}": gate,
        "{seccomp}": fds.memory(launch.seccomp),
    }
    passed = set(fill.values())
    encoded, data = _encode(launch, found, fds)
    passed.update(data)
    fill["{open_files}"] = _open_files(launch)
    argv = [str(fill.get(part, part)) for part in launch.program] + list(launch.command)
    with _complaint(f"{argv[0]} could not be started"):
        popen = subprocess.Popen(
            argv,
            stdin=ends.stdin,
            stdout=ends.stdout,
            stderr=ends.stderr,
            pass_fds=tuple(passed),
            start_new_session=True,
            env=_CLEAN_ENV,
            cwd="/",
            umask=0o022,
        )
    process = Process(popen, fds)
    fds.close(*ends.theirs(), *passed)
    try:
        with _complaint("the script's process could not be put into its control group"):
            group.add(process.pid)
    except SandboxFailed as error:
        if not isinstance(error.__cause__, ProcessLookupError):
            process.kill()
            popen.wait()
            raise
        # It is gone already: its report says why.
    return process, gate_write, encoded


def _open_files(launch: Launch) -> int:
    """The limit that the policy sets, or the daemon's own where that is lower."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return launch.open_files if hard == resource.RLIM_INFINITY else min(hard, launch.open_files)


def _encode(launch: Launch, found: Found, fds: Descriptors) -> tuple[bytes, list[int]]:
    """The arguments as bubblewrap reads them, and a descriptor for each piece of data."""
    data: list[int] = []
    parts: list[bytes] = []
    for argument in arguments(launch, found):
        if isinstance(argument, Data):
            data.append(fds.memory(argument.content))
            parts.append(b"%d" % data[-1])
        else:
            parts.append(os.fsencode(argument))
    return b"\0".join(parts) + b"\0", data
