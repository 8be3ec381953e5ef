"""``goexfs status``."""

from __future__ import annotations

from collections.abc import Iterator

from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_session
from goexfs.wire import Message

_SHOWN = 10


@declare("status", "goexfs status", "goexfs status -s nightly --json")
@with_session
@with_json
def command(session: str | None) -> None:
    """Show a session: where it is mounted, what runs, how much it changed."""
    result = ask("status", where(session))
    from goexfs.cli import show, warned

    if state().json:
        show.print_json(result)
        return
    for line in warned.apart(warned.plain(result.get("warnings") or (), show.coloured())):
        print(line)
    for line in show.table(_rows(result)):
        print(line)
    for line in _stale(result.get("stale_reads") or []):
        print(line)


def _stale(found: list[Message]) -> Iterator[str]:
    """What scripts rest on that is not so any more."""
    from goexfs.cli import show
    from goexfs.names import visible

    for each in found[:_SHOWN]:
        place = f"{show.name(each['root'])}/{show.name(each['path'])}"
        yield f"stale read: {place}: {visible(each['detail'])}"
    if len(found) > _SHOWN:
        yield f"... and {len(found) - _SHOWN} more stale reads (--json lists them)"


def _rows(result: Message) -> Iterator[tuple[str, str]]:
    from goexfs.cli import show

    session = result["session"]
    yield "session", f"{show.name(session['name'])} ({session['session']})"
    yield "state", f"{session['state']}, at checkpoint {session.get('checkpoint', 0)}"
    for root in session["roots"]:
        yield "root", show.name(root["path"]) + (" (a snapshot)" if root.get("stable") else "")
        yield "view", show.name(root["view"])
    for rule in session.get("rules") or ():
        yield rule["kind"].replace("_", "-"), show.name(rule["pattern"])
    running = session.get("running") or []
    steps = ", ".join(str(number) for number in running)
    yield "steps", f"{result['steps']}, " + (f"running: {steps}" if running else "none running")
    if jobs := session.get("jobs"):
        yield "jobs", ", ".join(show.name(each) for each in jobs)
    yield "changes", show.summary(result["summary"])
    yield "layer", show.size(result["layer_bytes"])
