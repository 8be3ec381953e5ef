"""``goexfs diff``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO, Any

import click

from goexfs.cli import patch, show, warned
from goexfs.cli.asking import ask, many_roots, selected, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json, with_selection, with_session
from goexfs.cli.pager import paged
from goexfs.cli.progress import Progress
from goexfs.wire import Message, decode


@declare(
    "diff",
    "goexfs diff",
    "goexfs diff --name-status src/",
    "goexfs diff --step 3",
    "goexfs diff | git apply --check",
)
@with_selection
@click.option("--patch", "form", flag_value="patch", default="patch", help="As a patch [default].")
@click.option("--stat", "form", flag_value="stat", help="Lines added and removed, for each file.")
@click.option(
    "--name-status", "form", flag_value="names", help="A line for each change, deletions first."
)
@click.option("--step", type=click.IntRange(min=1), metavar="N", help="What step N did.")
@click.option("--from", "from_", type=click.IntRange(min=0), metavar="N", help="From checkpoint N.")
@click.option("--to", type=click.IntRange(min=0), metavar="N", help="To checkpoint N.")
@with_session
@with_json
def command(
    names: tuple[str, ...],
    exclude: tuple[str, ...],
    form: str,
    step: int | None,
    from_: int | None,
    to: int | None,
    session: str | None,
) -> None:
    """Show what a session changed, in everything or at PATHs (names or globs).

    Without --from and --to: from the real directories to the live view.  The patch is in git's
    format; into a pipe it goes byte for byte, on a terminal control characters are shown
    escaped.  Letters of --name-status: D deleted, A created, M modified, R renamed, T retyped,
    m metadata only.  Warnings (docs/warnings.md) come first; into a pipe a patch has them as
    lines that git apply and patch pass over, and they are said on stderr.
    """
    if step is not None and (from_ is not None or to is not None):
        raise click.UsageError("--step cannot go with --from or --to")
    params = where(session, step=step, to=to, **{"from": from_})
    selected(params, names, exclude)
    if state().json:
        show.print_json(changes(params, quiet=True))
    elif form == "names":
        show_names(params)
    elif form == "stat":
        show_stat(params)
    else:
        show_patch(params)


def changes(params: Message, quiet: bool = False) -> Message:
    """The change list, with a progress line."""
    progress = Progress(quiet)

    def on_event(method: str, event: dict[str, Any]) -> None:
        if method == "progress":
            progress.update(event)

    try:
        return ask("diff", params, on_event)
    finally:
        progress.clear()


def show_names(params: Message) -> None:
    result = changes(params)
    many, colour = many_roots(result["session"]), show.coloured()
    with paged() as stream:
        _write(stream, warned.apart(warned.lines(result, many, colour)))
        _write(stream, show.change_lines(result["changes"], many, colour))


def show_stat(params: Message) -> None:
    counts = patch.Stat()
    progress = Progress()

    def on_event(method: str, event: dict[str, Any]) -> None:
        if method == "progress":
            progress.update(event)
        elif method == "chunk":
            counts.feed(decode(event))

    try:
        result = ask("diff", {**params, "patch": True, "binary": False}, on_event)
    finally:
        progress.clear()
    counts.end()
    many = many_roots(result["session"])
    _without_patch(result, counts.counts, many)
    width = os.get_terminal_size().columns if sys.stdout.isatty() else 80
    with paged() as stream:
        _write(stream, warned.apart(warned.lines(result, many, show.coloured())))
        _write(stream, patch.stat_lines(counts.counts, width, show.coloured()))


def _without_patch(result: Message, counts: dict[str, list[int]], with_root: bool) -> None:
    """Changes that a patch cannot express are listed all the same."""
    for change in result["changes"]:
        path = show.name(change["path"])
        counts.setdefault(f"{show.name(change['root'])}/{path}" if with_root else path, [0, 0])


class _PatchOut:
    """Prints a patch as it streams in: raw, or safe and coloured on a terminal."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._raw = not sys.stdout.isatty()
        self._colour = show.coloured()
        self._reader = patch.Reader()

    def feed(self, piece: bytes) -> None:
        if self._raw:
            self._stream.write(piece)
        else:
            self._print(self._reader.feed(piece))

    def end(self) -> None:
        self._print(self._reader.end())

    def _print(self, lines: Iterable[tuple[patch.Part, bytes]]) -> None:
        for part, line in lines:
            self._stream.write(patch.on_terminal(part, line, self._colour))


def show_patch(params: Message) -> None:
    """The pager starts with the first piece: an error, or no change, needs none."""
    from contextlib import ExitStack

    progress = Progress()
    out: _PatchOut | None = None
    with ExitStack() as stack:

        def on_event(method: str, event: dict[str, Any]) -> None:
            nonlocal out
            if method == "progress" and out is None:
                progress.update(event)
            elif method == "chunk":
                if out is None:
                    progress.clear()
                    out = _PatchOut(stack.enter_context(paged()))
                out.feed(decode(event))

        try:
            binary = not sys.stdout.isatty()  # nobody reads them; a file or a pipe may apply them
            result = ask("diff", {**params, "patch": True, "binary": binary}, on_event)
        finally:
            progress.clear()
        if out is not None:
            out.end()
    # A patch begins with its warnings, but who pipes it does not see them.
    if not sys.stdout.isatty() and warned.is_any(result):
        colour = show.coloured(sys.stderr)
        warned.on_stderr(warned.lines(result, many_roots(result["session"]), colour))


def _write(stream: IO[bytes], lines: Iterable[str]) -> None:
    for line in lines:
        stream.write(line.encode("utf-8", "backslashreplace") + b"\n")
