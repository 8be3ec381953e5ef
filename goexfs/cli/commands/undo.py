"""``goexfs undo``."""

from __future__ import annotations

from typing import Any

import click

from goexfs.cli.asking import ask, remark, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json
from goexfs.errors import Conflict
from goexfs.wire import Message


@declare("undo", "goexfs undo", "goexfs undo c-0123456789ab")
@click.argument("commit", required=False)
@click.option("-m", "--message", default="", metavar="TEXT", help="Say why.")
@with_json
def command(commit: str | None, message: str) -> int:
    """Take COMMIT back: the real directories become what they were before it.

    Without COMMIT, your newest one that still stands is meant, one in this directory before
    others; asking again goes further back.  What was changed since is a conflict: then nothing
    is touched (exit status 3).  An undo is a commit itself, and `goexfs undo` with its id brings
    back what it took away.
    """
    from goexfs.cli import show
    from goexfs.cli.progress import Progress

    progress = Progress(state().json)

    def on_event(method: str, event: dict[str, Any]) -> None:
        if method == "progress":
            progress.update(event)

    try:
        result = ask("undo", where(None, commit=commit, message=remark(message)), on_event)
    finally:
        progress.clear()
    if state().json:
        show.print_json(result)
    else:
        report(result)
    return Conflict.exit_status if result.get("conflicts") else 0


def report(result: Message) -> None:
    """What was done, for people."""
    from goexfs.cli import show
    from goexfs.cli.commands.commit import losses

    if result["commit"] is None:
        conflicts = result.get("conflicts") or []
        what = show.plural(len(conflicts), "conflict")
        click.echo(
            f"goexfs: {result['undone']} was not undone: {what} with what changed since", err=True
        )
        show.print_conflicts(conflicts)
        return
    print(f"undid {result['undone']}: {show.summary(result['applied'])}, as {result['commit']}")
    print(f"`goexfs undo {result['commit']}` brings it back")
    losses(result)
