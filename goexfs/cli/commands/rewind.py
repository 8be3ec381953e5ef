"""``goexfs rewind``."""

from __future__ import annotations

import click

from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session


@declare("rewind", "goexfs log", "goexfs rewind 2")
@click.argument("checkpoint", type=click.IntRange(min=0))
@with_session
@with_json
def command(checkpoint: int, session: str | None) -> None:
    """Take the live view to CHECKPOINT, without unmounting it.

    Nothing is lost: later steps stay in the log, and what no checkpoint had yet is saved as one
    first.  Rewinding to a later number goes forward again.
    """
    result = ask("rewind", where(session, to=checkpoint))
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
        return
    print(f"the view is at checkpoint {result['checkpoint']}")
    if result["saved"] is not None:
        print(f"what it held before is checkpoint {result['saved']}")
