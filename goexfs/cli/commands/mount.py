"""``goexfs mount``."""

from __future__ import annotations

from typing import Any

import click

from goexfs.cli.asking import ask, real
from goexfs.cli.ending import state
from goexfs.cli.options import Name, with_json
from goexfs.cli.options import command as declare
from goexfs.wire import Message


@declare(
    "mount",
    "goexfs mount ~/project",
    "goexfs mount ~/project --root ~/data --name nightly",
    "goexfs mount . --at /mnt/view",
    "goexfs mount . --hide .env --read-only .git/hooks",
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
@click.option("--name", type=Name(), metavar="NAME", help="Name the session [else one is made up].")
@click.option("--policy", metavar="NAME", help="strict, default, dev, or one of yours.")
@click.option("--hide", multiple=True, metavar="GLOB", help="Show this to nobody in the view.")
@click.option("--mask", multiple=True, metavar="GLOB", help="Show this empty.")
@click.option("--read-only", multiple=True, metavar="GLOB", help="Let nobody change this.")
@click.option(
    "--view",
    type=click.Choice(["fuse", "kernel", "auto"]),
    default="fuse",
    help="Who serves it [fuse]; kernel: fast, but knows less.",
)
@with_json
def command(
    directory: str,
    roots: tuple[str, ...],
    at: str | None,
    name: str | None,
    view: str,
    **rules: Any,
) -> None:
    """Open a session over DIRECTORY and mount its view.

    The view shows the directory as it is; what is changed in it stays in the session until it is
    committed.  What is hidden, masked or read-only in it stays so for every run; a GLOB without a
    slash matches at any depth.
    """
    params: Message = {"roots": [real(each) for each in (directory, *roots)]}
    if at is not None:
        params["at"] = real(at)
    if name is not None:
        params["name"] = name
    if view != "fuse":
        params["view"] = view
    params |= {key: value for key, value in rules.items() if value}
    session = ask("mount", params)
    if state().json:
        from goexfs.cli.show import print_json

        print_json(session)
    else:
        from goexfs.cli.show import opened

        opened(session)
