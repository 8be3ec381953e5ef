"""The caller's terminal while an interactive shell has it: raw, resized, always given back."""

from __future__ import annotations

import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def size(fd: int) -> tuple[int, int]:
    """Rows and columns."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 24, 80
    return max(rows, 1), max(columns, 1)


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """The terminal passes every key on; afterwards it is as it was, whatever happens."""
    before = termios.tcgetattr(fd)

    def again(_number: int, _frame: FrameType | None) -> None:
        # Stopped from outside and continued: the shell that stopped us reset the terminal.
        tty.setraw(fd, termios.TCSADRAIN)

    continued = signal.signal(signal.SIGCONT, again)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        signal.signal(signal.SIGCONT, continued)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def following(fd: int, resized: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``resized(rows, columns)`` whenever the window changes."""

    def changed(_number: int, _frame: FrameType | None) -> None:
        resized(*size(fd))

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
