"""``goexfs run``."""

from __future__ import annotations

import os
import sys

import click

from goexfs.cli import script as scripts
from goexfs.cli.asking import ask, text, where
from goexfs.cli.boundary import with_policy
from goexfs.cli.ending import state
from goexfs.cli.options import Duration, Name, with_json, with_session
from goexfs.cli.options import command as declare
from goexfs.cli.stream import stdin_source
from goexfs.wire import Message, encode


@declare(
    "run",
    "goexfs run -- make test",
    "goexfs run --timeout 5m --script fix.py -- --all",
    "echo 'sed -i s/a/b/ *.txt' | goexfs run --script -",
    "goexfs run --policy strict --memory 512M --hide .env -- ./untrusted.sh",
    "goexfs run --background --name server -- npm start",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND]...")
@click.option(
    "--script",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Run this file, or stdin for `-`; COMMAND is then its arguments.",
)
@click.option(
    "--timeout", type=Duration(), metavar="TIME", help="Stop it after 30, 30s, 5m, 2h: status 124."
)
@click.option(
    "-e",
    "--env",
    "variables",
    multiple=True,
    metavar="VAR[=VALUE]",
    help="Set a variable, or pass ours on.",
)
@click.option("--explain", is_flag=True, help="Print the sandbox that it would get; run nothing.")
@click.option("--background", is_flag=True, help="Let it run on: see goexfs jobs, goexfs kill.")
@click.option(
    "--name", type=Name(), metavar="NAME", help="Of what runs in the background [job-1, ...]."
)
@with_policy
@with_session
@with_json
def command(
    argv: tuple[str, ...],
    script: str | None,
    timeout: float | None,
    variables: tuple[str, ...],
    explain: bool,
    background: bool,
    name: str | None,
    boundary: Message,
    session: str | None,
) -> int:
    """Run COMMAND, or a script, in the sandbox against the view.

    It sees the session's directories at their own paths, the rest of the system read-only and no
    network but the hosts that are allowed.  stdin, stdout and stderr are ours; its exit status is
    ours too, but: 124 timed out, 125 goexfs itself failed, 126 not executable, 127 not found.
    Ctrl-C interrupts it, a second one kills it and everything it started.  The interpreter of a
    script is the one in its first line, else that of its suffix, else sh.
    """
    params = where(session, **request(argv, script, timeout, variables), **boundary)
    if explain:
        from goexfs.cli.commands.policy import explain as print_sandbox

        return print_sandbox(params)
    if background:
        from goexfs.cli.commands.jobs import started

        started(ask("start", params if name is None else {**params, "name": name}))
        return 0
    if name is not None:
        raise click.UsageError("--name is for --background")
    source = None if script == "-" else stdin_source()
    result = scripts.run(params, source, not state().json, state())
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
    status: int = result["status"]
    return status


def request(
    argv: tuple[str, ...],
    script: str | None,
    timeout: float | None,
    variables: tuple[str, ...],
) -> Message:
    """Params of a run; UsageError, or Usage, where they make no sense."""
    if script is None and not argv:
        raise click.UsageError("there is nothing to run: give a command, or --script")
    params: Message = {"command": [text(word, "an argument") for word in argv]}
    if script is not None:
        params["script"] = read_script(script)
    if timeout is not None:
        params["timeout"] = timeout
    if variables:
        params["env"] = environment(variables)
    return params


def read_script(name: str) -> Message:
    """The script's text, and the name that chooses its interpreter."""
    if name == "-":
        data, called = sys.stdin.buffer.read(), "script"
    else:
        try:
            with open(name, "rb") as file:
                data, called = file.read(), os.path.basename(name)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise click.UsageError(f"cannot read the script {name!r}: {reason}") from None
    coded = encode(data)
    return {"text": coded["data"], "encoding": coded["encoding"], "name": text(called, "its name")}


def environment(variables: tuple[str, ...]) -> dict[str, str]:
    """``VAR=VALUE``, or ``VAR`` for ours if we have it."""
    found = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not name or "\0" in variable:
            raise click.UsageError(f"{variable!r} is no VAR or VAR=VALUE")
        if not equals and name not in os.environ:
            continue
        found[text(name, "-e")] = text(value if equals else os.environ[name], f"-e {name}")
    return found
