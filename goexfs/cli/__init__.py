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
from typing import NoReturn


def main() -> NoReturn:
    """The ``goexfs`` command; never returns."""
    # A start allocates much and frees nothing: collecting meanwhile costs 2 ms.
    gc.disable()
    fill_standard_streams()
    from goexfs.cli.ending import end, run

    gc.freeze()
    gc.enable()
    end(run(sys.argv[1:]))


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
