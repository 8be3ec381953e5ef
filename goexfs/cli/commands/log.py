"""``goexfs log``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import click

from goexfs.cli import show
from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.graph import graph
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session
from goexfs.names import visible
from goexfs.wire import Message

_WIDEST = 60
"""Characters shown of a command; --json has all of it."""


@declare("log", "goexfs log", "goexfs log -s nightly --json", "goexfs log --network")
@click.option("--network", is_flag=True, help="List what steps asked of the network instead.")
@with_session
@with_json
def command(session: str | None, network: bool) -> None:
    """List a session's steps, checkpoints and commits, oldest first.

    Beside them the tree of checkpoints is drawn; `@` is the one that the view descends from.
    `goexfs rewind N` goes to any of them, those on branches that an earlier rewind left included.
    """
    result = ask("log", where(session, network=network or None))
    if state().json:
        show.print_json(result)
        return
    from goexfs.cli.pager import paged

    with paged() as stream:
        for line in requests(result) if network else lines(result):
            stream.write(line.encode("utf-8", "backslashreplace") + b"\n")


def lines(result: Message) -> Iterator[str]:
    """Everything that happened, in the order it happened, beside the tree of checkpoints."""
    session = result["session"]
    yield f"session {show.name(session['name'])} ({session['session']}), {session['state']}"
    for each in result.get("inherited", ()):
        yield f"forked from {show.name(each['name'])} ({each['session']}), with these steps of it:"
        yield from show.table([("", *_step(step)) for step in each["steps"]] or [("", "none")])
    yield from show.table(_rows(result), ("", "CHECKPOINT", "WHEN", "WHAT", "RESULT", "CHANGED"))


def requests(result: Message) -> Iterator[str]:
    """Every connection that steps asked their proxy for."""
    rows: list[tuple[str, ...]] = []
    for step in result.get("network", ()):
        for each in step["requests"]:
            what = f"{visible(each['method'])} {visible(each['host'])}:{each['port']}"
            verdict = "allowed" if each["allowed"] else "refused"
            why = visible(each["why"] or "")
            if each["rule"]:
                why += f" (--allow-host {visible(each['rule'])} would allow it)"
            moved = f"{show.size(each['sent'])} out, {show.size(each['received'])} in"
            status = "-" if each["status"] is None else str(each["status"])
            at = show.moment(each["at"])
            rows.append((str(step["step"]), at, verdict, what, status, moved, why))
        if step["total"] > len(step["requests"]):
            more = f"{step['total'] - len(step['requests'])} more"
            rows.append((str(step["step"]), "", "", more, "", "", ""))
    yield from show.table(rows, ("STEP", "WHEN", "", "WHAT", "STATUS", "BYTES", ""))


def _rows(result: Message) -> Iterator[tuple[str, ...]]:
    checkpoints, steps = result["checkpoints"], result["steps"]
    after = {each["checkpoint"]: each for each in steps if each["checkpoint"] is not None}
    found: list[tuple[float, int | None, tuple[str, str, str]]] = []
    last = 0.0
    for each in checkpoints:  # in the order of their numbers, whatever the clock said
        last = max(last, each["created"])
        step = after.get(each["number"])
        found.append((last, each["number"], _by_hand(each) if step is None else _step(step)))
    found += [(each["started"], None, _step(each)) for each in steps if each["checkpoint"] is None]
    found += [(each["created"], None, _commit(each)) for each in result["commits"]]
    found.sort(key=lambda row: row[0])
    created = {each["number"]: each["created"] for each in checkpoints}
    tree = graph(
        {each["number"]: each["parent"] for each in checkpoints},
        result["session"].get("checkpoint", 0),
    )
    for at, number, what in found:
        if number is None:
            yield tree.between(), "-", show.moment(at), *what
            continue
        before, below = tree.at(number)
        yield before, str(number), show.moment(created[number]), *what
        if below is not None:
            yield below, "", "", "", "", ""


def _step(step: dict[str, Any]) -> tuple[str, str, str]:
    command = visible(shlex.join(step["command"])).replace("\n", "\\n")
    if len(command) > _WIDEST:
        command = f"{command[: _WIDEST - 3]}..."
    changed = "" if step["summary"] is None else show.summary(step["summary"])
    return f"step {step['number']}: {command}", _outcome(step), changed


def _outcome(step: dict[str, Any]) -> str:
    if step["state"] != "done":
        return str(step["state"])
    took = show.span((step["ended"] or step["started"]) - step["started"])
    if step["timed_out"]:
        return f"timed out, {took}"
    return f"exit {step['status']}, {took}"


def _by_hand(checkpoint: dict[str, Any]) -> tuple[str, str, str]:
    what = "start" if checkpoint["parent"] is None else "checkpoint"
    label = checkpoint["label"]
    return what if label is None else f"{what}: {visible(label)}", "", ""


def _commit(commit: dict[str, Any]) -> tuple[str, str, str]:
    first = visible(commit["message"]).split("\n")[0]
    what = f"commit {commit['commit']}"
    if commit.get("undoes"):
        what += f" undoes {commit['undoes']}"
    what += f": {first}" if first else ""
    return what, _standing(commit), show.summary(commit["applied"])


def _standing(commit: dict[str, Any]) -> str:
    """Whether it can be undone, and until when."""
    parts = ["partial"] if commit["partial"] else []
    if commit.get("undone_by"):
        parts.append(f"undone by {commit['undone_by']}")
    elif commit.get("undo_until") is not None:
        last = show.moment(commit["undo_until"]).rpartition(":")[0]
        parts.append(f"undo until {last} ({show.size(commit.get('before_bytes', 0))} kept)")
    elif "undo_until" in commit:  # an older daemon does not say
        parts.append("cannot be undone any more")
    return ", ".join(parts)
