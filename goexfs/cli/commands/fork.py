"""``goexfs fork``."""

from __future__ import annotations

import click

from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import Name, with_json, with_session
from goexfs.cli.options import command as declare


@declare("fork", "goexfs fork", "goexfs fork --at 3 --name other-way", "goexfs fork --checkpoint 7")
@click.option(
    "--at",
    "step",
    type=click.IntRange(min=0),
    metavar="STEP",
    help="What the session was after this step; 0: before the first [else: what it is now].",
)
@click.option(
    "--checkpoint",
    type=click.IntRange(min=0),
    metavar="N",
    help="What it was at this checkpoint.",
)
@click.option(
    "--name", type=Name(), metavar="NAME", help="Name the new session [else one is made up]."
)
@with_session
@with_json
def command(
    step: int | None, checkpoint: int | None, name: str | None, session: str | None
) -> None:
    """Open an independent session that begins as another one is, or was.

    It has the same directories, and a view, steps and checkpoints of its own.  Each can be
    committed; the first wins, the others meet conflicts where they touch the same files.
    """
    result = ask("fork", where(session, step=step, checkpoint=checkpoint, name=name))
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
        return
    from goexfs.cli.show import opened

    opened(result)
