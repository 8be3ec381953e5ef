"""``goexfs mount``."""

from __future__ import annotations

import click

from goexfs.cli.asking import ask, real
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json
from goexfs.wire import Message


@declare(
    "mount",
    "goexfs mount ~/project",
    "goexfs mount ~/project --root ~/data --name nightly",
    "goexfs mount . --at /mnt/view",
)
@click.argument("directory", type=click.Path(readable=False))
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="DIR",
    type=click.Path(readable=False),
    help="A further directory.",
)
@click.option(
    "--at", metavar="DIR", type=click.Path(readable=False), help="Mount the view here as well."
)
@click.option("--name", metavar="NAME", help="Name the session [else one is made up].")
@with_json
def command(directory: str, roots: tuple[str, ...], at: str | None, name: str | None) -> None:
    """Open a session over DIRECTORY and mount its view.

    The view shows the directory as it is; what is changed in it stays in the session until it is
    committed.
    """
    params: Message = {"roots": [real(each) for each in (directory, *roots)]}
    if at is not None:
        params["at"] = real(at)
    if name is not None:
        params["name"] = name
    session = ask("mount", params)
    if state().json:
        from goexfs.cli.show import print_json

        print_json(session)
    else:
        from goexfs.cli.show import opened

        opened(session)
