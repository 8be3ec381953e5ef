"""How a command ends: its exit status, its error as a sentence, its signals.

Every failure passes through ``run``.  A user's mistake never shows a traceback; a bug of ours
shows one only where ``$GOEXFS_DEBUG`` is set.  With ``--json`` an error is an object on stdout.

Exit statuses: those of ``goexfs.errors``; 2 for a wrong command line; 125 where a command whose
status is its script's failed itself; 141 where the reader of our output went away; Ctrl-C ends
us by SIGINT, so that a shell's loop ends too.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import NoReturn

import click

from goexfs.cli.group import goexfs
from goexfs.errors import GoexfsError, Internal, Usage

PIPE_GONE = 141
SCRIPT_NEVER_RAN = 125


@dataclass(slots=True)
class State:
    """What the outcome of a command depends on, besides the outcome."""

    json: bool = False
    own_failure: int | None = None
    """The status for failures of goexfs where the script has the others."""


def state() -> State:
    """The state of the command under way."""
    found = click.get_current_context().find_object(State)
    return State() if found is None else found


def run(argv: list[str]) -> int:
    """Run a command line; its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A locale that lacks a character of a name must not fail the command that shows it.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    about = State()
    try:
        outcome = _invoke(argv, about)
        sys.stdout.flush()
    except GoexfsError as error:
        return fail(error, about)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        about.json = about.json or "--json" in argv[: argv.index("--") if "--" in argv else None]
        about.own_failure = None
        return fail(_usage(error), about)
    except BrokenPipeError:
        return PIPE_GONE
    except (KeyboardInterrupt, click.Abort):
        die_of_interrupt()
    except Exception as error:
        if os.environ.get("GOEXFS_DEBUG"):
            raise
        return fail(_bug(error), about)
    return outcome if isinstance(outcome, int) else 0


def _invoke(argv: list[str], about: State) -> object:
    if "_GOEXFS_COMPLETE" in os.environ:
        return goexfs.main(argv, prog_name="goexfs")
    # Not ``goexfs.main``: that would take the end of our reader, and Ctrl-C, for its own.
    with goexfs.make_context("goexfs", argv, obj=about) as ctx:
        return goexfs.invoke(ctx)


def end(status: int) -> NoReturn:
    """Leave at once: the interpreter's own tidying up costs 4 ms and does nothing for us."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        status = status or PIPE_GONE
    os._exit(status)


def fail(error: GoexfsError, about: State) -> int:
    """Say what went wrong; the exit status."""
    try:
        if about.json:
            import json

            print(json.dumps(error.to_json()), flush=True)
        else:
            complain(error)
    except OSError:
        pass
    if about.own_failure is not None:
        return about.own_failure
    return error.exit_status


def complain(error: GoexfsError) -> None:
    from goexfs.names import visible

    print(f"goexfs: {visible(error.message)}", file=sys.stderr)
    conflicts = error.data.get("conflicts")
    if isinstance(conflicts, list):
        from goexfs.cli.show import print_conflicts

        print_conflicts(conflicts)
    if error.hint:
        print(f"  hint: {visible(error.hint)}", file=sys.stderr)


def _usage(error: click.ClickException) -> Usage:
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx is not None else "goexfs"
    message = error.format_message().rstrip(".")
    return Usage(message[:1].lower() + message[1:], hint=f"see `{where} --help`")


def _bug(error: Exception) -> GoexfsError:
    if isinstance(error, OSError) and error.strerror:
        name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return GoexfsError(f"{name}{error.strerror.lower()}")
    return Internal(
        f"goexfs failed in itself: {type(error).__name__}: {error}",
        hint="set GOEXFS_DEBUG=1 to see where; this is a bug",
    )


def die_of_interrupt() -> NoReturn:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(130)
