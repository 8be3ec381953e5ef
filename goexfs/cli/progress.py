"""How far long work is: one line on stderr, where that is a terminal, gone when it is over."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from goexfs.names import visible

_PATIENCE = 0.3
"""Seconds of work before it is worth a line."""
_EVERY = 0.1


class Progress:
    """Give it ``progress`` events; ``clear`` before anything else is printed."""

    def __init__(self, quiet: bool = False) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._next = time.monotonic() + _PATIENCE
        self._shown = False

    def update(self, params: dict[str, Any]) -> None:
        now = time.monotonic()
        if not self._on or now < self._next:
            return
        self._next = now + _EVERY
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        text = line(params["stage"], params["done"], params.get("total"))
        sys.stderr.write(f"\r\x1b[K{text[: width - 1]}")
        sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def line(stage: str, done: int, total: int | None) -> str:
    """``apply  [########------------]  40%  120/300``."""
    if not total:
        return f"{visible(stage)}  {done}"
    part = min(1.0, done / total)
    bar = "#" * int(part * 20)
    return f"{visible(stage)}  [{bar:-<20}] {part:4.0%}  {done}/{total}"
