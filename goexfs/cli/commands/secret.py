"""``goexfs secret``."""

from __future__ import annotations

import os
import sys

import click

from goexfs.cli import show
from goexfs.cli.asking import ask
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json
from goexfs.names import visible
from goexfs.wire import Message

_MOST = 64 * 1024


@declare(
    "secret",
    "pass show github | goexfs secret set github --host api.github.com",
    "goexfs secret list",
    "goexfs secret rm github",
)
@click.argument("action", type=click.Choice(["set", "list", "rm"]), metavar="set|list|rm")
@click.argument("words", nargs=-1, metavar="[NAME]")
@click.option(
    "--host", "hosts", multiple=True, metavar="HOST", help="Policies may bind it to this alone."
)
@with_json
def command(action: str, words: tuple[str, ...], hosts: tuple[str, ...]) -> None:
    """Keep secrets that requests of scripts carry, and no script sees.

    `set` reads the value from stdin, or asks for it; it is never an argument.  A policy binds a
    secret to a host and a header, and the proxy of `--network allow` puts it in on the way there:
    docs/policy.md tells how.  `list` shows names, hosts and dates, no values.
    """
    if action == "list":
        if words:
            raise click.UsageError("list takes no NAME")
        _list()
        return
    if len(words) != 1:
        # None of them is shown: one may be the value.
        raise click.UsageError("give one NAME; the value comes from stdin, or is asked for")
    if action == "rm":
        _tell(ask("secret_remove", {"name": words[0]}), "removed")
        return
    params = {"name": words[0], "value": _value(words[0]), "hosts": list(hosts)}
    _tell(ask("secret_set", params), "kept")


def _list() -> None:
    found = ask("secret_list", {})
    if state().json:
        show.print_json(found)
        return
    rows = [
        (
            visible(each["name"]),
            " ".join(visible(host) for host in each["hosts"]) or "any host",
            show.moment(each["changed"]),
        )
        for each in found["secrets"]
    ]
    for row in show.table(rows):
        print(row)


def _value(name: str) -> str:
    """From stdin, without the line's end; from a terminal, without an echo."""
    if os.isatty(0):
        from getpass import getpass

        return getpass(f"{visible(name)}: ")
    data = sys.stdin.buffer.read(_MOST)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise click.UsageError("the value on stdin is not printable ASCII") from None
    return text.removesuffix("\n").removesuffix("\r")


def _tell(found: Message, what: str) -> None:
    if state().json:
        show.print_json(found)
    else:
        again = ", in place of the old value" if found.get("replaced") else ""
        print(f"secret {visible(found['secret'])} {what}{again}")
