"""Fault points: places where the crash tests kill a commit or a recovery.

``fault(name)`` stands before and between all steps that change anything.  Armed with N (the
worker's option ``fault`` or ``$GOEXFS_FAULT``), the N-th point that is reached ends the process
with SIGKILL.  The points number themselves as they are met, so there is no list to maintain:
N = 1, 2, 3, ... until a run completes.  Off, a point costs one comparison.

The daemon has some of its own, in a commit by switch and where one is settled at a start; they
are armed with ``$GOEXFS_SWITCH_FAULT`` and ``$GOEXFS_SETTLE_FAULT``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

_left = 0


def arm(options: Mapping[str, Any]) -> None:
    """Take N from a worker's options or the environment; 0 is off."""
    global _left
    _left = int(options.get("fault") or os.environ.get("GOEXFS_FAULT") or 0)


def fault(name: str) -> None:
    """A point at which the process may be killed; ``name`` says where, for a reader."""
    global _left
    if _left:
        _left -= 1
        if not _left:
            os.kill(os.getpid(), signal.SIGKILL)
