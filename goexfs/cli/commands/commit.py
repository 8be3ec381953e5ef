"""``goexfs commit``."""

from __future__ import annotations

from typing import IO, Any

import click

from goexfs.cli.asking import ask, path, remark, selected, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_selection, with_session
from goexfs.errors import Conflict, GoexfsError
from goexfs.wire import Connection, Message, connect


class Resolution(click.ParamType):  # type: ignore[type-arg]  # generic only from 8.5 on
    """``PATH=mine``: what becomes of the conflicts at a path."""

    name = "resolution"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        place, _, way = value.rpartition("=")
        if not place or way not in ("mine", "theirs", "merge"):
            self.fail(f"{value!r} is not PATH=mine, PATH=theirs or PATH=merge", param, ctx)
        return {"path": path(place), "way": way}


@declare(
    "commit",
    'goexfs commit -m "rename the module"',
    "goexfs commit src/ README.md",
    "goexfs commit 'src/**/*.py' --exclude 'test_*'",
    "goexfs commit --on-conflict merge --resolve notes.txt=mine",
    "goexfs commit --switch -s site",
)
@with_selection
@click.option("-m", "--message", default="", metavar="TEXT", help="Say what this commit is.")
@click.option(
    "--checkpoint",
    type=click.IntRange(min=0),
    metavar="N",
    help="Commit exactly checkpoint N; refused if the view has moved on.",
)
@click.option("--hunks", is_flag=True, help="Ask about each change and hunk, as git add -p does.")
@click.option(
    "--patch",
    "patch_file",
    type=click.File("rb"),
    metavar="FILE",
    help="Commit what is in FILE, an edited `goexfs diff`; - is stdin.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option(
    "--on-conflict",
    type=click.Choice(["abort", "mine", "theirs", "merge"]),
    default="abort",
    help="What becomes of conflicts: nothing is committed [the default], the session's version"
    " wins, the real directory's stays, or the two are merged where that is possible.",
)
@click.option(
    "--resolve",
    type=Resolution(),
    multiple=True,
    metavar="PATH=mine|theirs|merge",
    help="The same for the conflicts at and below PATH; may be given again and again.",
)
@click.option(
    "--isolation",
    type=click.Choice(["snapshot", "serializable"]),
    default="snapshot",
    help="With serializable, a file that a script read and that changed since is a conflict too.",
)
@click.option(
    "--switch",
    is_flag=True,
    help="Let others see all of it at one instant, or do nothing: for a root that is a btrfs"
    " subvolume beside the store (docs/switch.md).",
)
@click.option(
    "--leave-behind",
    is_flag=True,
    help="With --switch: processes that stand in the root may be left in the tree before.",
)
@with_session
@with_json
def command(
    names: tuple[str, ...],
    exclude: tuple[str, ...],
    message: str,
    checkpoint: int | None,
    hunks: bool,
    patch_file: IO[bytes] | None,
    dry_run: bool,
    on_conflict: str,
    resolve: tuple[Message, ...],
    isolation: str,
    switch: bool,
    leave_behind: bool,
    session: str | None,
) -> int:
    """Apply a session's changes, or those at PATHs, to the real directories.

    A PATH may be a glob as in .gitignore (quote it); what is not committed stays in the session.
    If anything there changed meanwhile, nothing is applied and every conflict is named (exit
    status 3); --on-conflict and --resolve decide.  A commit of everything ends the session.
    Ctrl-C stops it as long as nothing was applied, and ends it as any other command; after that
    it is carried out to its end, and says so.
    """
    params = where(session, message=remark(message), checkpoint=checkpoint)
    text = _patch(session, names, exclude, hunks, patch_file)
    if text is None:
        selected(params, names, exclude)
    else:
        params["patch"] = _coded(text)
    if dry_run:
        params["dry_run"] = True
    if on_conflict != "abort":
        params["on_conflict"] = on_conflict
    if isolation != "snapshot":
        params["isolation"] = isolation
    if leave_behind and not switch:
        raise click.UsageError("--leave-behind goes with --switch")
    if switch:
        params |= {"switch": True, "leave_behind": leave_behind}
    if resolve:
        params["resolve"] = list(resolve)
    result = commit(params, quiet=state().json)
    if state().json:
        from goexfs.cli.show import print_json

        print_json(result)
    elif dry_run and not result.get("conflicts"):
        warnings(result)
        plan(result)
    else:
        warnings(result)
        report(result)
    return Conflict.exit_status if result.get("conflicts") else 0


def _patch(
    session: str | None,
    names: tuple[str, ...],
    exclude: tuple[str, ...],
    hunks: bool,
    file: IO[bytes] | None,
) -> bytes | None:
    """The patch that says what is to be committed, if one does."""
    if hunks and file is not None:
        raise click.UsageError("--hunks cannot go with --patch")
    if file is not None:
        if names or exclude:
            raise click.UsageError("PATHs cannot go with --patch: take out of it what is to stay")
        return file.read()
    if not hunks:
        return None
    if state().json:
        raise click.UsageError("--hunks asks a person; for programs there is --patch")
    from goexfs.cli import picking, show
    from goexfs.cli.hunks import pieces
    from goexfs.wire import decode

    chunks: list[bytes] = []

    def on_event(method: str, event: dict[str, Any]) -> None:
        if method == "chunk":
            chunks.append(decode(event))

    params = selected(where(session, patch=True, binary=False), names, exclude)
    ask("diff", params, on_event)
    return picking.pick(pieces(b"".join(chunks)), show.coloured())


def _coded(text: bytes) -> Message:
    from goexfs.wire import encode

    coded = encode(text)
    return {"text": coded["data"], "encoding": coded["encoding"]}


def commit(params: Message, quiet: bool) -> Message:
    """Ask for it, with a progress line.

    Ctrl-C asks the daemon to stop, which it does where that is still possible; then its answer
    says what was done.  A second one leaves without it.
    """
    import signal

    from goexfs.cli.progress import Progress

    progress = Progress(quiet)

    def on_event(method: str, event: dict[str, Any]) -> None:
        if method == "progress":
            progress.update(event)

    try:
        with connect() as connection:
            stop = _Stop(connection)
            before = signal.signal(signal.SIGINT, stop)
            try:
                return connection.call("commit", params, on_event)
            except GoexfsError as error:
                if not stop.asked:
                    raise
                click.echo(f"goexfs: {error.message}", err=True)
                raise KeyboardInterrupt from error
            finally:
                signal.signal(signal.SIGINT, before)
    finally:
        progress.clear()


class _Stop:
    """What Ctrl-C does: the first asks the daemon to stop, the second leaves."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.asked = False

    def __call__(self, *_: object) -> None:
        if self.asked:
            click.echo("goexfs: it may be committed or not: goexfs log says", err=True)
            raise KeyboardInterrupt
        if not self._connection.last:
            raise KeyboardInterrupt  # nothing was asked for yet
        self.asked = True
        request = {"request": self._connection.last, "name": "INT"}
        self._connection.notify("signal", request)
        click.echo("\ngoexfs: stopping, if it still can be stopped", err=True)


def warnings(result: Message) -> None:
    """What a reviewer should look at of what was to be committed."""
    import sys

    from goexfs.cli import show, warned

    warned.on_stderr(
        warned.plain(warned.summed(result.get("warnings") or ()), show.coloured(sys.stderr))
    )


def report(result: Message) -> None:
    """What was done, for people."""
    from goexfs.cli import show

    if result.get("conflicts"):
        conflicts = result["conflicts"]
        what = show.plural(len(conflicts), "conflict")
        click.echo(f"goexfs: nothing was committed: {what} with the real directory", err=True)
        show.print_conflicts(conflicts)
        if any(each.get("choices") for each in conflicts):
            click.echo(
                "goexfs: hint: --resolve PATH=mine|theirs|merge decides one,"
                " --on-conflict all of them",
                err=True,
            )
        return
    resolved(result)
    if result["commit"] is None:
        print("nothing to commit; the session stays open")
    else:
        print(f"committed {show.summary(result['applied'])} as {result['commit']}")
        if show.total(result["remaining"]):
            print(f"left in the session: {show.summary(result['remaining'])}")
        elif result["closed"]:
            print("the session is closed")
        if result.get("kept"):
            print(f"the tree before it is kept, for root: {show.name(result['kept'])}")
        losses(result)


def resolved(result: Message) -> None:
    """How conflicts were decided."""
    from goexfs.cli import show
    from goexfs.names import visible

    for each in result.get("resolved") or ():
        place = f"{show.name(each['root'])}/{show.name(each['path'])}"
        print(f"resolved as {each['way']}: {place}: {visible(each['detail'])}")


def plan(result: Message) -> None:
    """What a commit would do, in its order."""
    from goexfs.cli import show

    resolved(result)
    roots = len({each["root"] for each in result["plan"]}) > 1
    for each in result["plan"]:
        prefix = f"{show.name(each['root'])}/" if roots else ""
        text = f"{each['action']:<8}  {prefix}{show.name(each['path'])}"
        if each["to"] is not None:
            text += f" -> {prefix}{show.name(each['to'])}"
        if each["bytes"]:
            text += f"  ({show.size(each['bytes'])})"
        print(text)
    what = show.summary(result["applied"], "nothing to commit")
    print(f"dry run, nothing was done: {what}")


def losses(result: Message) -> None:
    """What a commit could not carry over, or met in the last moment."""
    from goexfs.cli import show
    from goexfs.names import visible

    for loss in result.get("losses") or ():
        place = f"{show.name(loss['root'])}/{show.name(loss['path'])}"
        click.echo(f"goexfs: not carried over: {place}: {visible(loss['what'])}", err=True)
    if result.get("late") and result.get("kept"):
        what = show.plural(result["late"], "file")
        click.echo(
            f"goexfs: {what} changed in the tree before, which is kept as long as the commit can"
            f" be undone, for root to look at: {show.name(result['kept'])}",
            err=True,
        )
    elif result.get("late"):
        what = show.plural(result["late"], "file")
        click.echo(
            f"goexfs: {what} changed while it was committed; the newest bytes are kept with the"
            f" before-images of {result['commit']}",
            err=True,
        )
