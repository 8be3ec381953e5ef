"""``goexfs output``."""

from __future__ import annotations

import sys

import click

from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session


@declare("output", "goexfs output 3", "goexfs output 3 2>/dev/null | less")
@click.argument("step", type=click.IntRange(min=1))
@with_session
@with_json
def command(step: int, session: str | None) -> None:
    """Print what STEP wrote: its stdout on stdout, its stderr on stderr.

    Of each stream the daemon keeps a bounded part; bytes that are not UTF-8 are shown replaced.
    """
    result = ask("output", where(session, step=step))
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
        return
    for stream, text in ((sys.stdout, result["stdout"]), (sys.stderr, result["stderr"])):
        stream.write(_safe(text) if stream.isatty() else text)
        stream.flush()
    if result["truncated"]:
        print("goexfs: there was more; only a part was kept", file=sys.stderr)


def _safe(text: str) -> str:
    from goexfs.names import visible

    return visible(text)
