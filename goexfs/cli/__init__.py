"""The command line: argv to a request, its reply to text or JSON, an exit status.

The only room that prints.  It speaks through ``goexfs.wire``, in dicts, so that a command pays
neither for pydantic nor for the typed library; each command's module is loaded when it is used.
click parses: it costs 15 ms a command more than argparse, and for that gives completion for
three shells, help, prompts and one way to be wrong; the whole start stays below 40 ms.
"""

from __future__ import annotations

import gc
import sys
from typing import NoReturn


def main() -> NoReturn:
    """The ``goexfs`` command; never returns."""
    # A start allocates much and frees nothing: collecting meanwhile costs 2 ms.
    gc.disable()
    from goexfs.cli.ending import end, run

    gc.freeze()
    gc.enable()
    end(run(sys.argv[1:]))
