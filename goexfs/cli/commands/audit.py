"""``goexfs audit``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from goexfs.cli import show
from goexfs.cli.asking import ask
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json
from goexfs.names import visible


@declare("audit", "goexfs audit", "goexfs audit -s nightly -n 20", "goexfs audit --verify")
@click.option("-s", "--session", metavar="NAME", help="Only about this session, by id or name.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0, max=100_000),
    default=100,
    show_default=True,
    help="The newest so many entries.",
)
@click.option(
    "--verify", is_flag=True, help="Check that no entry was edited or removed; 1 if one was."
)
@with_json
def command(session: str | None, limit: int, verify: bool) -> int:
    """Show who did what and when: your entries, and those about your sessions; root sees all.

    --verify checks the chain of all entries against itself and against the daemon's catalog.
    """
    params: dict[str, Any] = {"limit": limit, "verify": verify}
    if session is not None:
        params["session"] = session
    result = ask("audit", params)
    problems = result.get("problems") or []
    if state().json:
        show.print_json(result)
        return 1 if problems else 0
    for line in show.table(_rows(result["entries"]), _HEAD if result["entries"] else ()):
        print(line)
    for problem in problems:
        print(f"goexfs: {visible(problem)}", file=sys.stderr)
    if verify and not problems:
        print(f"the chain holds, all {result['checked']} entries of it")
    return 1 if problems else 0


_HEAD = ("ENTRY", "WHEN", "UID", "SESSION", "WHAT", "RESULT", "")


def _rows(entries: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for each in entries:
        uid = each["uid"]
        said = ", ".join(f"{key}={value}" for key, value in each["said"].items())
        yield (
            str(each["number"]),
            show.moment(each["at"]),
            "-" if uid is None else str(uid),
            visible(each["session"] or "-"),
            visible(each["what"]),
            visible(each["result"]),
            visible(said),
        )
