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
from typing import NoReturn

import click

from goexfs.cli.group import goexfs
from goexfs.cli.state import PIPE_GONE, State
from goexfs.errors import GoexfsError, Internal, Unavailable, Usage


def state() -> State:
    """The state of the command under way."""
    found = click.get_current_context().find_object(State)
    return State() if found is None else found


def run(argv: list[str]) -> int:
    """Run a command line; its exit status."""
    about = State()
    _bear_any_character()
    try:
        outcome = _invoke(argv, about)
        sys.stdout.flush()
    except BaseException as error:
        return told(error, about, argv)
    return outcome if isinstance(outcome, int) else 0


def told(error: BaseException, about: State, argv: list[str]) -> int:
    """Say how a command line ended that ended by an exception; its exit status."""
    _bear_any_character()
    match error:
        case Unavailable():
            return fail(_pending(error), about)
        case GoexfsError():
            return fail(error, about)
        case click.exceptions.Exit():
            return error.exit_code
        case click.ClickException():
            ours = argv[: argv.index("--") if "--" in argv else None]
            about.json = about.json or "--json" in ours
            about.script = "none"
            return fail(_usage(error), about)
        case BrokenPipeError():
            return PIPE_GONE
        case KeyboardInterrupt() | click.Abort():
            die_of_interrupt()
        case Exception() if not os.environ.get("GOEXFS_DEBUG"):
            return fail(_bug(error), about)
    raise error


def _bear_any_character() -> None:
    """A locale that lacks a character of a name must not fail the command that shows it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _invoke(argv: list[str], about: State) -> object:
    if "_GOEXFS_COMPLETE" in os.environ:
        return goexfs.main(argv, prog_name="goexfs")
    # Not ``goexfs.main``: that would take the end of our reader, and Ctrl-C, for its own.
    with goexfs.make_context("goexfs", argv, obj=about) as ctx:
        return goexfs.invoke(ctx)


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
