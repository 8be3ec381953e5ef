"""``goexfs ls``."""

from __future__ import annotations

import click

from goexfs.cli.asking import ask
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json


@declare("ls", "goexfs ls", "goexfs ls --all --json")
@click.option("-a", "--all", "every", is_flag=True, help="Also sessions that have ended.")
@with_json
def command(every: bool) -> None:
    """List your sessions."""
    result = ask("ls", {"all": True} if every else {})
    from goexfs.cli import show

    if state().json:
        show.print_json(result)
        return
    rows = [
        (
            show.name(each["name"]),
            each["session"],
            each["state"] + (", running" if each.get("running") else ""),
            show.moment(each["created"]),
            " ".join(show.name(root["path"]) for root in each["roots"]),
        )
        for each in result["sessions"]
    ]
    if not rows:
        click.echo("no sessions; `goexfs mount DIR` opens one", err=True)
    for line in show.table(rows, ("NAME", "SESSION", "STATE", "OPENED", "ROOTS") if rows else ()):
        print(line)
