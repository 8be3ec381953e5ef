"""``goexfs jobs``."""

from __future__ import annotations

import sys
from typing import Any

import click

from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session
from goexfs.wire import Message


@declare("jobs", "goexfs jobs", "goexfs jobs server")
@click.argument("name", required=False)
@with_session
@with_json
def command(name: str | None, session: str | None) -> None:
    """List what was started with `run --background`; of NAME alone, print what it wrote.

    A bounded part of each stream is kept.
    """
    more: dict[str, Any] = {} if name is None else {"name": name, "output": True}
    result = ask("jobs", where(session, **more))
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
    elif name is None:
        _list(result["jobs"])
    else:
        _output(result["jobs"][0])


def _list(jobs: list[Message]) -> None:
    from goexfs.cli import show

    rows = [
        (show.name(job["name"]), _state(job), show.moment(job["started"]), _command(job))
        for job in jobs
    ]
    for line in show.table(rows, ("JOB", "STATE", "STARTED", "COMMAND")):
        print(line)


def _state(job: Message) -> str:
    from goexfs.names import visible

    if job["ended"] is None:
        return "running"
    return visible(job["why"]) if job["why"] else f"ended: {job['status']}"


def _command(job: Message) -> str:
    from goexfs.cli import show

    return " ".join(show.name(word) for word in job["command"])


def _output(job: Message) -> None:
    from goexfs.names import visible

    for stream, text in ((sys.stdout, job["stdout"]), (sys.stderr, job["stderr"])):
        stream.write(visible(text) if stream.isatty() else text)
        stream.flush()


def started(job: Message) -> None:
    """One that has just been started."""
    if state().json:
        from goexfs.cli.show import print_json

        print_json(job)
    else:
        from goexfs.cli.show import name

        print(f"job {name(job['name'])} runs in the background")
