"""How a command ends: its exit status, its error as a sentence, its signals.

Every failure passes through ``run``.  A user's mistake never shows a traceback; a bug of ours
shows one only where ``$GOEXFS_DEBUG`` is set.  With ``--json`` an error is an object on stdout.

Exit statuses: those of ``goexfs.errors``; 2 for a wrong command line; 141 where the reader of our
output went away.  Where the status is a script's, 125 for a failure of goexfs that would be 1,
and for any once the script ran.  Ctrl-C ends us by SIGINT, so that a shell's loop ends too.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, NoReturn

import click

from goexfs.cli.group import goexfs
from goexfs.errors import GoexfsError, Internal, Unavailable, Usage

PIPE_GONE = 141
GOEXFS_FAILED = 125


class State:
    """How the command under way wants its failures: as JSON; told from those of its script."""

    # No dataclass: importing and building it is 1.5 ms of every start.
    __slots__ = ("json", "script")

    def __init__(self) -> None:
        self.json = False
        self.script: Literal["none", "asked", "started"] = "none"

    def status(self, error: GoexfsError) -> int:
        """The exit status for an error."""
        told_apart = error.exit_status > (7 if self.script == "started" else 1)
        return error.exit_status if self.script == "none" or told_apart else GOEXFS_FAILED


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
    except Unavailable as error:
        return fail(_pending(error), about)
    except GoexfsError as error:
        return fail(error, about)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        about.json = about.json or "--json" in argv[: argv.index("--") if "--" in argv else None]
        about.script = "none"
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
    return about.status(error)


def complain(error: GoexfsError) -> None:
    from goexfs.names import visible

    print(f"goexfs: {visible(error.message)}", file=sys.stderr)
    conflicts = error.data.get("conflicts")
    if isinstance(conflicts, list):
        from goexfs.cli.show import print_conflicts

        print_conflicts(conflicts)
    if error.hint:
        print(f"  hint: {visible(error.hint)}", file=sys.stderr)


def _pending(error: Unavailable) -> Unavailable:
    """Say so if a commit to this directory, or one above it, was cut off with the daemon.

    Its staging directory is there as long as it is not settled.
    """
    prefix = ".goexfs-stage-"
    try:
        directory = os.getcwd()
    except OSError:
        return error
    while True:
        try:
            found = [name for name in os.listdir(directory) if name.startswith(prefix)]
        except OSError:
            found = []
        if found:
            from goexfs.names import display

            return Unavailable(
                f"{error.message}; commit {display(found[0][len(prefix) :])} to"
                f" {display(directory)} is pending",
                hint="start goexfsd, which finishes it; where it cannot start: sudo goexfs recover",
                data=error.data,
            )
        if directory == "/":
            return error
        directory = os.path.dirname(directory)


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
