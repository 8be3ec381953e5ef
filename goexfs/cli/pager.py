"""Long output, paged as git does it: ``$GOEXFS_PAGER``, else ``$PAGER``, else ``less -FRX``.

Only where stdout is a terminal.  A user who leaves the pager early has seen enough: no error.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO


def chosen() -> str | None:
    """The pager's command line; None where nothing is to be paged."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return None
    for variable in ("GOEXFS_PAGER", "PAGER"):
        if variable in os.environ:
            command = os.environ[variable].strip()
            return None if command in ("", "cat") else command
    return "less"


@contextmanager
def paged() -> Iterator[IO[bytes]]:
    """A stream for bytes: the pager's, or stdout."""
    command = chosen()
    if command is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    environment = {"LESS": "FRX", "LV": "-c", **os.environ}
    pager = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, env=environment)
    stream = pager.stdin
    assert stream is not None
    # Ctrl-C belongs to the pager: less stops reading on it and goes on showing.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield stream
    except BrokenPipeError:
        pass
    finally:
        _finish(pager, stream)
        signal.signal(signal.SIGINT, before)


def _finish(pager: subprocess.Popen[bytes], stream: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        stream.close()
    pager.wait()
