"""The short way of ``goexfs run``: its plainest forms go to the daemon without click.

``run [-s SESSION] [--json] [--] COMMAND...``, which is nearly every run there is, is parsed here;
click, and the declarations for it, cost three times as much as all the rest of a start.  What is
spelled in any other way, and every mistake, is click's to judge: ``words`` answers None.  A test
holds both to the same request.
"""

from __future__ import annotations

import os
import sys

from goexfs.cli.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from goexfs.wire import Message


def run(argv: list[str]) -> int | None:
    """Run a command line; its exit status, or None where click is to parse it."""
    found = words(argv)
    if found is None:
        return None
    about = State()
    try:
        return _run(*found, about)
    except BaseException as error:
        from goexfs.cli.ending import told

        return told(error, about, argv)


def words(argv: list[str]) -> tuple[list[str], str | None, bool] | None:
    """(command, session, whether as JSON); None for what is not as plain as that."""
    if argv[:1] != ["run"] or "_GOEXFS_COMPLETE" in os.environ:
        return None
    session, as_json = os.environ.get("GOEXFS_SESSION") or None, False
    rest = iter(argv[1:])
    for word in rest:
        if word == "--":
            break
        if word == "--json":
            as_json = True
        elif word in ("-s", "--session"):
            session = next(rest, "")
            if not session or session.startswith("-"):
                return None
        elif word.startswith("-"):
            return None
        else:
            command = [word, *rest]
            return command, session, as_json
    command = list(rest)
    return (command, session, as_json) if command else None


def _run(command: list[str], session: str | None, as_json: bool, about: State) -> int:
    from goexfs.cli import script
    from goexfs.cli.stream import stdin_source

    about.json = as_json
    source = stdin_source()
    result = script.run(params(command, session), source, not as_json, about)
    if as_json:
        from goexfs.cli.show import print_json

        print_json(result)
        sys.stdout.flush()
    status: int = result["status"]
    return status


def params(command: list[str], session: str | None) -> Message:
    """What the daemon is asked for."""
    from goexfs.cli.asking import text, where

    return where(session, command=[text(word, "an argument") for word in command])
