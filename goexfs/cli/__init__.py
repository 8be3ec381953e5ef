"""The command line: argv to a request, its reply to text or JSON, an exit status.

The only room that prints.  It speaks through ``goexfs.wire``, in dicts, so that a command pays
neither for pydantic nor for the typed library; each command's module is loaded when it is used.
click parses: it costs 15 ms a command more than argparse, and for that gives completion for
three shells, help, prompts and one way to be wrong; the whole start stays below 40 ms.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """The ``goexfs`` command; never returns."""
    # A start allocates much and frees nothing: collecting meanwhile costs 2 ms.
    gc.disable()
    fill_standard_streams()
    from goexfs.cli import quick

    status = quick.run(sys.argv[1:])
    if status is None:
        from goexfs.cli.ending import run

        gc.freeze()
        gc.enable()
        status = run(sys.argv[1:])
    end(status)


def end(status: int) -> NoReturn:
    """Leave at once: the interpreter's own tidying up costs 4 ms and does nothing for us."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        from goexfs.cli.state import PIPE_GONE

        status = status or PIPE_GONE
    os._exit(status)


def fill_standard_streams() -> None:
    """Open /dev/null in place of each standard stream that the caller closed.

    Else the daemon's socket would get its number, and what is meant for stderr (a script's
    output, too) would arrive as requests of ours.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)  # the lowest number free: that of the stream
            os.set_inheritable(fd, True)
            stream = open(fd, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
