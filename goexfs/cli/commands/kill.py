"""``goexfs kill``."""

from __future__ import annotations

import click

from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session


@declare("kill", "goexfs kill server", "goexfs kill job-1 --signal KILL")
@click.argument("name")
@click.option("--signal", type=click.Choice(["INT", "TERM", "HUP", "QUIT", "KILL"]), default="TERM")
@with_session
@with_json
def command(name: str, signal: str, session: str | None) -> None:
    """End the job NAME, with everything that it started.

    What has not ended a while after a polite signal is killed.
    """
    job = ask("kill", where(session, name=name, signal=signal))
    if state().json:
        from goexfs.cli.show import print_json

        print_json(job)
    else:
        from goexfs.cli.show import name as shown

        print(f"job {shown(job['name'])} has ended")
