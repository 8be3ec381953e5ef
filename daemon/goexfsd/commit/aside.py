"""The review of many changes goes on in a process of its own, beside the staging.

It reads and says what it finds, and nothing waits for it before the intent.  Few changes are
reviewed on the spot: a process costs more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from goexfs.errors import Internal, from_wire
from goexfsd import kernel
from goexfsd.worker import Worker, decode_message, encode_message, error_message

MANY = 500
"""Changes from which on a process is worth it."""


def is_worth_it(changes: int) -> bool:
    """Whether to review so many aside."""
    return changes >= MANY and len(os.sched_getaffinity(0)) > 1


class Aside:
    """Lines that are worked out in a child process; ``lines`` waits for them."""

    def __init__(self, worker: Worker, work: Callable[[], list[str]]) -> None:
        """The child has copies of all that this process has, and closes its way to the daemon:
        that must not stay open when this process dies.  OSError where there can be no child: the
        owner may have no more processes."""
        ours, theirs = os.pipe()
        self._from = ours
        parent = os.getpid()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(ours)
            os.close(theirs)
            raise
        if self._pid == 0:
            os.close(ours)
            _child(parent, worker, work, theirs)
        os.close(theirs)

    def lines(self) -> list[str]:
        """What the child found; raises what it raised.  Once only."""
        with open(self._from, "rb") as file:
            self._from = -1
            data = file.read()
        os.waitpid(self._pid, 0)
        self._pid = 0
        if not data:
            raise Internal("the review of the changes was killed; nothing was changed")
        message = decode_message(data)
        if "errno" in message:
            raise OSError(message["errno"], os.strerror(message["errno"]))
        if "error" in message:
            raise from_wire(message["error"])
        lines: list[str] = message["lines"]
        return lines

    def close(self) -> None:
        """End it, if nobody waited for it."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        if self._from >= 0:
            os.close(self._from)
            self._from = -1


def _child(parent: int, worker: Worker, work: Callable[[], list[str]], out: int) -> None:
    status = 1
    try:
        worker.conn.close()
        kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            return  # it died before
        message: dict[str, Any]
        try:
            message = {"lines": work()}
        except OSError as error:
            message = {"errno": error.errno}
        except BaseException as error:
            message = error_message(error)
        with open(out, "wb") as file:
            file.write(encode_message(message))
        status = 0
    finally:
        os._exit(status)
