"""``goexfs policy``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from goexfs.cli import show
from goexfs.cli.asking import ask, where
from goexfs.cli.boundary import with_policy
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session
from goexfs.names import visible
from goexfs.units import size_text
from goexfs.wire import Message

_SIZES = ("memory", "file_bytes", "tmp_bytes", "output_bytes", "layer_bytes")
_FEW = 6


@declare("policy", "goexfs policy show", "goexfs policy show --policy strict --memory 512M --json")
@click.argument("action", type=click.Choice(["show"]), default="show", metavar="[show]")
@click.option("--all", "whole", is_flag=True, help="Every entry of long lists.")
@with_policy
@with_session
@with_json
def command(action: str, whole: bool, boundary: Message, session: str | None) -> int:
    """Show what a script may do and use, and where each of the values comes from.

    With the options of `goexfs run`, what that run would be held to.  Where a session is meant,
    the .goexfs.toml of its directories counts.  Your own policies are ~/.config/goexfs/NAME.toml.
    """
    result = ask("policy", {"run": where(session, **boundary)})
    if state().json:
        show.print_json(result)
        return 0
    on = show.coloured()
    meant = f", session {show.name(result['session'])}" if result["session"] else ""
    print(show.paint(f"policy {visible(result['policy'])}{meant}", "1", on))
    rows = [
        (f"  {each['key']}", line, show.paint(visible(each["source"]), "2", on))
        for each in result["settings"]
        for line in [_value(each, whole)]
    ]
    for row in show.table(rows):
        print(row)
    for note in result["notes"]:
        print(show.paint(f"  ! {visible(note)}", "33", on))
    print(f"available: {', '.join(visible(name) for name in result['available'])}")
    return 0


def _value(setting: dict[str, Any], whole: bool) -> str:
    key, value = setting["key"], setting["value"]
    if value is None:
        return "unlimited"
    if isinstance(value, bool):
        return "shown, read-only" if value else "not shown"
    if isinstance(value, list):
        shown = value if whole or len(value) <= _FEW else [*value[:_FEW], "..."]
        more = "" if len(shown) == len(value) else f" ({len(value)} in all: --all)"
        return (" ".join(visible(each) for each in shown) or "-") + more
    return size_text(value) if key in _SIZES else visible(f"{value}")


def explain(params: Message) -> int:
    """Print the sandbox that a run would get; ``run --explain``."""
    result = ask("policy", {"run": params, "explain": True})
    if state().json:
        show.print_json(result)
        return 0
    on = show.coloured()
    for title, lines in _sections(result["explanation"]):
        print(show.paint(title, "1", on))
        for line in lines:
            print(f"  {visible(line)}")
    for note in result["notes"]:
        print(show.paint(f"! {visible(note)}", "33", on))
    return 0


def _sections(found: Message) -> Iterator[tuple[str, list[str]]]:
    yield "command", list(_lines(found["argv"]))
    yield "environment", [f"{name}={value}" for name, value in found["environment"].items()]
    yield "network", found["network"]
    yield "hidden", found["hidden"]
    yield "control group", [f"{name}: {value}" for name, value in found["cgroup"].items()]
    yield "socket families", [" ".join(found["families"])]
    yield "system calls refused (EPERM)", [", ".join(found["refused"])]
    yield "system calls absent (ENOSYS)", [", ".join(found["absent"])]


def _lines(argv: list[str]) -> Iterator[str]:
    """An option and its arguments on a line, quoted as for a shell."""
    import shlex

    line = ""
    for word in argv:
        if line and (word.startswith("--") and word != "--"):
            yield line
            line = ""
        line += (" " if line else "") + shlex.quote(word)
    if line:
        yield line
