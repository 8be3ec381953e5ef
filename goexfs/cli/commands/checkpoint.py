"""``goexfs checkpoint``."""

from __future__ import annotations

import click

from goexfs.cli.asking import ask, remark, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session


@declare("checkpoint", "goexfs checkpoint", 'goexfs checkpoint "before the upgrade"')
@click.argument("label", required=False)
@with_session
@with_json
def command(label: str | None, session: str | None) -> None:
    """Remember the view as it is now; every step also ends with a checkpoint of its own."""
    result = ask("checkpoint", where(session, label=remark(label)))
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
    else:
        print(f"checkpoint {result['number']}; `goexfs rewind {result['number']}` comes back to it")
