"""``goexfs`` itself: the verbs, each in a module of its own that is loaded when it is used."""

from __future__ import annotations

from typing import Any, NamedTuple

import click


class Verb(NamedTuple):
    """Where a command lives, and its line in ``goexfs --help``."""

    module: str
    short: str


VERBS = {
    "mount": Verb("mount", "Open a session over a directory and mount its view."),
    "ls": Verb("ls", "List sessions."),
    "run": Verb("run", "Run a command or script against the view, in the sandbox."),
    "jobs": Verb("jobs", "List what runs in the background, or print its output."),
    "kill": Verb("kill", "End what runs in the background."),
    "shell": Verb("shell", "Open an interactive shell in the sandbox."),
    "try": Verb("try_", "Mount, run, show what changed, and ask what to do with it."),
    "status": Verb("status", "Show a session and how much it changed."),
    "diff": Verb("diff", "Show what a session changed, as a patch or a list."),
    "log": Verb("log", "List a session's steps, checkpoints and commits."),
    "output": Verb("output", "Print the kept output of a step."),
    "checkpoint": Verb("checkpoint", "Remember the view as it is now."),
    "rewind": Verb("rewind", "Take the view back, or forward, to a checkpoint."),
    "fork": Verb("fork", "Open an independent session from what another is, or was."),
    "commit": Verb("commit", "Apply a session's changes to the real directories."),
    "undo": Verb("undo", "Take a commit back by a new one."),
    "discard": Verb("discard", "Throw a session and its changes away."),
    "verify": Verb("verify", "Check that the real directories are what they should be."),
    "audit": Verb("audit", "Show who did what and when, and check that record."),
    "doctor": Verb("doctor", "Check what goexfs needs of this machine."),
    "recover": Verb("recover", "Finish commits that were cut off, where no daemon can."),
    "policy": Verb("policy", "Show what a script may do and use, and why."),
    "secret": Verb("secret", "Keep secrets that requests carry and scripts never see."),
    "completion": Verb("completion", "Print the completion script of a shell."),
}

_HELP = """Transactions for scripts on real files.

A session is a copy-on-write view of real directories: run anything against it, look at exactly
what it changed, then commit or discard it.  Until commit nothing real changes.
"""

_EPILOG = """\b
Example:
  goexfs mount ~/project
  cd ~/project && goexfs run -- make test
  goexfs diff
  goexfs commit -m "what the tests generate"

\b
Environment:
  GOEXFS_SESSION  the session, where -s is not given
  GOEXFS_SOCKET   the daemon's socket (/run/goexfs/goexfs.sock)
"""


class Verbs(click.Group):
    """Loads a command when it is named, in the order of ``VERBS``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        from importlib import import_module

        found: click.Command = import_module(f"goexfs.cli.commands.{verb.module}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.short) for name, verb in VERBS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"goexfs {version('goexfs')}")
        ctx.exit()


_VERSION: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False}


@click.group(
    cls=Verbs, help=_HELP, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--version", callback=_version, help="Print the version.", **_VERSION)
def goexfs() -> None:
    """The group only leads to its verbs."""
