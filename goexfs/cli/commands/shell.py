"""``goexfs shell``."""

from __future__ import annotations

import os
import sys

import click

from goexfs.cli import terminal
from goexfs.cli.asking import text, where
from goexfs.cli.boundary import with_policy
from goexfs.cli.commands.run import environment
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session
from goexfs.cli.script import tell_limits
from goexfs.cli.stream import Driver, Source
from goexfs.wire import Message, connect


@declare(
    "shell",
    "goexfs shell",
    "goexfs shell -s nightly -- python3",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND]...")
@click.option(
    "-e",
    "--env",
    "variables",
    multiple=True,
    metavar="VAR[=VALUE]",
    help="Set a variable, or pass ours on.",
)
@with_policy
@with_session
@with_json
def command(
    argv: tuple[str, ...], variables: tuple[str, ...], boundary: Message, session: str | None
) -> int:
    """Open an interactive shell, or COMMAND, in the sandbox, on a terminal of its own.

    Leave it as any shell; what it changed is one step, to be seen with `goexfs diff`.
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise click.UsageError("a shell needs a terminal; `goexfs run` needs none")
    rows, columns = terminal.size(1)
    params = where(
        session,
        command=[text(word, "an argument") for word in argv] or [_login_shell()],
        pty={"rows": rows, "cols": columns, "term": os.environ.get("TERM", "xterm-256color")[:64]},
        env=environment(variables) or None,
        stdin=True,
        **boundary,
    )
    result = interact(params)
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
    else:
        _say(result)
    status: int = result["status"]
    return status


def interact(params: Message) -> Message:
    """The terminal is the script's until it ends."""
    about = state()
    about.script = "asked"
    with connect() as connection:
        driver = Driver(connection, Source(0), about)

        def resized(rows: int, columns: int) -> None:
            driver.notify("resize", rows=rows, cols=columns)

        with terminal.following(1, resized), terminal.raw(0):
            return driver.finish(params)


def _login_shell() -> str:
    shell = os.environ.get("SHELL", "")
    return shell if os.path.isabs(shell) and os.access(shell, os.X_OK) else "/bin/sh"


def _say(result: Message) -> None:
    from goexfs.cli.show import summary

    tell_limits(result)
    print(f"goexfs: step {result['step']}: {summary(result['summary'])}", file=sys.stderr)
