"""Waiting for the kernel's requests, more cheaply than pyfuse3 does by itself.

Before each request pyfuse3 takes a trio lock and waits in trio's event loop: two turns of the
scheduler, which cost more than most handlers do.  Its tasks find ``Waiting`` in place of trio:
one task keeps the turn to read for as long as its handlers do not wait, and sits in poll(2) for
a moment after each reply, because the next request mostly follows at once.

The moment is short and a burst bounded, since all else (the daemon's commands, threads that
have finished) waits meanwhile; an idle view is back in trio's loop after one moment.  A handler
that does wait says so with ``slow``, and another task reads on.

It knows nothing of what is read.
"""

from __future__ import annotations

import select
from collections import deque
from types import TracebackType
from typing import Any

import pyfuse3
import trio

_MOMENT_MS = 1
_BURST = 32
"""Requests after which everybody else has their turn."""


class Turn:
    """Who may read next: pyfuse3's lock.  Leaving it wakes nobody; ``pass_on`` does."""

    def __init__(self) -> None:
        self.taken = False
        self.over = False
        self.waiting: deque[trio.lowlevel.Task] = deque()

    async def __aenter__(self) -> None:
        while self.taken and not self.over:
            await self._park()
        self.taken = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.taken = False
        if error is not None or self.over:
            self.pass_on()

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()
        self.waiting.append(task)

        def abort(_: Any) -> trio.lowlevel.Abort:
            self.waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def pass_on(self) -> None:
        """Whoever had it is about to wait for something else."""
        if self.waiting and not self.taken:
            trio.lowlevel.reschedule(self.waiting.popleft())


class Lowlevel:
    """``trio.lowlevel`` with a ``wait_readable`` that looks for itself first."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._poll: select.poll | None = None
        self._burst = 0
        self.slow = 0
        """Handlers that wait for a thread: its end must not be missed for a moment."""

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        """Until there is a request (or the mount is no more)."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        self._burst += 1
        if self._burst <= _BURST and self._look(self._poll, 0 if self.slow else _MOMENT_MS):
            return
        self._burst = 0
        await trio.lowlevel.wait_readable(fd)
        self._look(self._poll, 0)

    def _look(self, poll: select.poll, milliseconds: int) -> bool:
        for _, event in poll.poll(milliseconds):
            self._turn.over = event != select.POLLIN
            return True
        return False


class Waiting:
    """What pyfuse3's tasks take for trio."""

    def __init__(self) -> None:
        self.turn = Turn()
        self.lowlevel = Lowlevel(self.turn)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    def Lock(self) -> Turn:
        return self.turn

    def __enter__(self) -> None:
        self.lowlevel.slow += 1
        self.turn.pass_on()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lowlevel.slow -= 1


slow = Waiting()
"""``with slow:`` around all that a handler awaits.  (pyfuse3 has one view a process.)"""


def install() -> None:
    """Let pyfuse3 wait our way."""
    names = vars(pyfuse3)
    if names.get("trio") is trio:  # else another pyfuse3, that waits in ways of its own
        names["trio"] = slow
