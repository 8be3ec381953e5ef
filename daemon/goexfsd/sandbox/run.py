"""Run one launch: carry its input and output, keep its time, end everything it started.

Whatever way it ends (the script's own end, the time limit, a signal, cancellation), when ``run``
returns or raises, no process of it is left, its control group is removed and its descriptors are
closed.  Output is flow-controlled: a slow receiver stops the script, not the daemon.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import trio

from goexfs.errors import SandboxFailed
from goexfsd.sandbox.cgroup import Cgroup
from goexfsd.sandbox.launch import Descriptors, Ends, Process, Stream, open_ends, start
from goexfsd.sandbox.look import Found, look
from goexfsd.sandbox.parked import CgroupRoot, Parked
from goexfsd.sandbox.plan import Launch, signal_number

Output = Callable[[Stream, bytes], Awaitable[None]]
Input = trio.abc.ReceiveChannel[bytes]
Limit = Literal["memory", "processes"]

TIMED_OUT = 124
FAILED = 125
_PIECE = 65536
_END_OF_FILE = b"\x04"  # VEOF: what Ctrl-D types
_MOST_REPORT = 16384
_TERMINAL_LINGERS = 2.0
_MOST_SIGNAL = 64
_MOST_STATUS = 255
_KILLED = 128 + 9


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended."""

    status: int
    """As a shell says it: 128 + n after signal n; 124 after the time limit; 126, 127."""
    signal: int | None
    timed_out: bool
    duration: float
    sandbox_error: str | None = None
    """Why the script never ran; ``status`` is 125 then."""
    exceeded: tuple[Limit, ...] = ()
    """Limits that it ran into."""


class Running:
    """The caller's handle on a run: signals and window sizes, in order, at any time."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[tuple[str, int, int]](math.inf)

    def signal(self, name: str) -> None:
        """Send INT, TERM, HUP, QUIT or KILL to everything that runs.

        What has not ended ``grace_seconds`` after one of the first four is killed.
        """
        signal_number(name)
        self._put((name, 0, 0))

    def resize(self, rows: int, cols: int) -> None:
        """Give the terminal, if there is one, a new size."""
        self._put(("", rows, cols))

    def _put(self, request: tuple[str, int, int]) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._send.send_nowait(request)

    async def next(self) -> tuple[str, int, int]:
        """For ``run`` alone: (signal, rows, columns)."""
        return await self._receive.receive()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


async def run(
    launch: Launch,
    *,
    cgroups: CgroupRoot,
    output: Output,
    stdin: Input | None = None,
    timeout: float | None = None,  # noqa: ASYNC109  (ends the script, not this function)
    running: Running | None = None,
    network: int | None = None,
) -> Outcome:
    """Run it to its end.

    ``stdin`` None: empty.  When the script no longer reads, the channel is closed, so that its
    sender gets BrokenResourceError.  ``timeout`` in seconds; the policy's limit counts as well.
    ``network``: a descriptor of the namespace that a launch joins.
    Raises SandboxFailed if this machine cannot keep the limits, or a process cannot be killed.
    """
    handle = running or Running()
    found = await look(launch.search)
    limits = [seconds for seconds in (timeout, launch.wall_seconds) if seconds is not None]
    parked = await cgroups.take(launch.limits)
    try:
        with Descriptors() as fds:
            step = _Step(launch, parked, output, min(limits, default=math.inf), fds)
            return await step.run(found, stdin, handle, network)
    finally:
        handle.close()
        await _end(parked.group, launch.label)
        parked.popen.wait(10)  # dead by now: this only takes its status
        cgroups.park_soon()


async def _end(group: Cgroup, label: str) -> None:
    if not await group.end():
        raise SandboxFailed(f"something that step {label} started cannot be killed")


class _Step:
    """The state that the tasks of one run share."""

    def __init__(
        self, launch: Launch, parked: Parked, output: Output, seconds: float, fds: Descriptors
    ) -> None:
        self.launch = launch
        self.parked = parked
        self.group = parked.group
        self.output = output
        self.seconds = seconds
        self.fds = fds
        self.report = bytearray()
        self.timed_out = False
        self.asked: int | None = None
        """The first deadly signal that the caller sent."""
        self.patience: float | None = None
        """Once nobody writes any more: until when to wait for what is still under way."""
        self._waits: set[trio.CancelScope] = set()

    async def run(
        self, found: Found, stdin: Input | None, running: Running, network: int | None = None
    ) -> Outcome:
        began = trio.current_time()
        process = Process(self.parked.popen, self.fds)
        try:
            ends = open_ends(self.launch, self.fds, with_input=stdin is not None)
            start(self.launch, found, self.parked, ends, self.fds, network)
            async with trio.open_nursery() as readers:
                readers.start_soon(self._read_report, ends.report)
                for stream, fd in ends.outputs.items():
                    readers.start_soon(self._read_output, stream, fd)
                async with trio.open_nursery() as helpers:
                    helpers.start_soon(self._obey, running, ends.terminal, process.pid)
                    helpers.start_soon(self._keep_time, process.pid)
                    if stdin is not None and ends.input is not None:
                        helpers.start_soon(self._write_input, stdin, ends)
                    await process.wait()
                    helpers.cancel_scope.cancel()
                duration = trio.current_time() - began
                exceeded = self._exceeded()
                await _end(self.group, self.launch.label)
                self._end_reading(ends)
        finally:
            await self._reap(process)
        return self._outcome(process.returncode, duration, exceeded)

    async def _reap(self, process: Process) -> None:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                self.group.kill()
                process.kill()
            with trio.move_on_after(10):
                await process.wait()

    # -- what goes in --------------------------------------------------------------------------

    async def _write_input(self, stdin: Input, ends: Ends) -> None:
        assert ends.input is not None
        async with stdin:
            try:
                async for data in stdin:
                    await _write_all(ends.input, data)
                if ends.terminal is not None:
                    await _write_all(ends.terminal, _END_OF_FILE)
            except OSError:
                pass  # it no longer reads
        if ends.terminal is None:
            self.fds.close(ends.input)

    async def _obey(self, running: Running, terminal: int | None, spare: int) -> None:
        """Carry out what the caller asks for."""
        async with trio.open_nursery() as nursery:
            while True:
                name, rows, cols = await running.next()
                if name:
                    number = signal_number(name)
                    self.asked = self.asked or number
                    nursery.start_soon(self._stop, number, spare)
                elif terminal is not None:
                    with contextlib.suppress(OSError, termios.error):
                        termios.tcsetwinsize(terminal, (rows, cols))

    async def _keep_time(self, spare: int) -> None:
        if self.seconds == math.inf:
            return
        await trio.sleep(self.seconds)
        self.timed_out = True
        await self._stop(signal_number("TERM"), spare)

    async def _stop(self, number: int, spare: int) -> None:
        """A signal for all but bubblewrap itself; then the end for what is left."""
        if number != signal_number("KILL"):
            await self.group.signal(number, spare)
            await trio.sleep(self.launch.grace_seconds)
        self.group.kill()

    # -- what comes out ------------------------------------------------------------------------

    async def _read_output(self, stream: Stream, fd: int) -> None:
        while data := await self._read(fd):
            await self.output(stream, data)

    async def _read_report(self, fd: int) -> None:
        while data := await self._read(fd):
            if len(self.report) < _MOST_REPORT:
                self.report += data

    async def _read(self, fd: int) -> bytes:
        """The next piece; empty at the end: nothing is left and nobody writes any more."""
        while True:
            try:
                return os.read(fd, _PIECE)
            except BlockingIOError:
                if self.patience is not None and self.patience <= trio.current_time():
                    return b""
            except OSError:  # EIO: the terminal's other side is closed
                return b""
            with trio.CancelScope() as wait:
                wait.deadline = math.inf if self.patience is None else self.patience
                self._waits.add(wait)
                await trio.lowlevel.wait_readable(fd)
            self._waits.discard(wait)

    def _end_reading(self, ends: Ends) -> None:
        """All writers are dead: what the pipes hold is the rest.

        A descriptor may have been handed to a process outside, so that end-of-file never comes.
        A terminal delivers late, but its end reliably.
        """
        lingers = 0.0 if ends.terminal is None else _TERMINAL_LINGERS
        self.patience = trio.current_time() + lingers
        for wait in self._waits:
            wait.deadline = self.patience

    # -- what it meant -------------------------------------------------------------------------

    def _exceeded(self) -> tuple[Limit, ...]:
        found: list[Limit] = []
        if self.group.oom_kills():
            found.append("memory")
        if self.group.fork_failures():
            found.append("processes")
        return tuple(found)

    def _outcome(
        self, returncode: int | None, duration: float, exceeded: tuple[Limit, ...]
    ) -> Outcome:
        status, complaints = _parse_report(bytes(self.report))
        error: str | None = None
        if self.timed_out:
            status = TIMED_OUT
        elif status is None and self.asked is not None:
            status = 128 + self.asked
        elif status is None and "memory" in exceeded:
            status = _KILLED
        elif status is None:
            status = FAILED
            error = complaints or f"bubblewrap ended with status {returncode}"
        number = status - 128 if 128 < status <= 128 + _MOST_SIGNAL else None
        return Outcome(status, number, self.timed_out, duration, error, exceeded)


def _parse_report(report: bytes) -> tuple[int | None, str]:
    """The script's exit status, if it ran to an end; and what bubblewrap complained of.

    A script can make the first process say anything, by writing to its memory.
    """
    status: int | None = None
    complaints: list[str] = []
    for line in report.decode("utf-8", "replace").splitlines():
        if line.startswith("{"):
            with contextlib.suppress(ValueError, RecursionError):
                said: Any = json.loads(line).get("exit-code")
                if type(said) is int and 0 <= said <= _MOST_STATUS:
                    status = said
        elif line.strip():
            complaints.append(line.removeprefix("bwrap: ").strip())
    return status, "; ".join(complaints)[:1000]


async def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(fd)
