"""``goexfs verify``."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click

from goexfs.cli import show
from goexfs.cli.asking import ask, where
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json
from goexfs.errors import Usage
from goexfs.names import visible


@declare(
    "verify",
    "goexfs verify",
    "goexfs verify c-b97b4cc880d5",
    "goexfs verify -s nightly",
    "goexfs verify --save before.manifest ~/project",
    "goexfs verify --against before.manifest",
)
@click.argument("what", nargs=-1, metavar="[COMMIT | DIRECTORY...]", type=click.Path())
@click.option("-s", "--session", metavar="NAME", help="What an open session found, untouched.")
@click.option("--save", metavar="FILE", type=click.Path(), help="Save a manifest of DIRECTORY.")
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(),
    help="Compare with a saved manifest, of its directories or of DIRECTORY.",
)
@click.option(
    "--quick", is_flag=True, help="With --save: inode numbers and change times, not the bytes."
)
@with_json
def command(
    what: tuple[str, ...],
    session: str | None,
    save: str | None,
    against: str | None,
    quick: bool,
) -> int:
    """Check that the real directories are what they should be; 1 if they are not.

    Every entry that COMMIT (else your newest) touched is looked at: is it still the one that the
    commit left?  With -s: is every entry that the session touched still as it found it?

    A manifest holds everything about every entry of a directory, bytes included: saved before,
    compared after, it shows what a discard, an undo, or anything else left different.
    """
    chosen = [each for each in (session, save, against) if each is not None]
    if len(chosen) > 1 or (quick and save is None):
        raise Usage("choose one of -s, --save and --against; --quick goes with --save")
    if save is not None:
        return _save(save, what, quick)
    if against is not None:
        return _against(against, what)
    if len(what) > 1 or (what and session is not None):
        raise Usage("verify takes one commit, or a session")
    result = ask("verify", {**where(session), **({"commit": what[0]} if what else {})})
    if state().json:
        show.print_json(result)
        return 1 if result["differences"] else 0
    subject = f"commit {result['commit']} left" if result["commit"] else "the session found"
    found = ((f"{each['root']}/{each['path']}", each["detail"]) for each in result["differences"])
    return _told(found, result["checked"], f"as {subject} them")


def _save(path: str, directories: tuple[str, ...], quick: bool) -> int:
    from goexfs.cli import manifest

    count = manifest.save(path, directories or (os.curdir,), quick=quick)
    if state().json:
        show.print_json({"entries": count})
    else:
        print(f"saved {count} entries")
    return 0


def _against(path: str, directories: tuple[str, ...]) -> int:
    from goexfs.cli import manifest

    saved, quick, then = manifest.load(path)
    chosen = list(directories) or saved
    if len(chosen) != len(saved):
        raise Usage(f"the manifest is of {len(saved)} directories, not {len(chosen)}")
    now = manifest.take(chosen, quick=quick)
    found = list(manifest.compare(then, now))
    if state().json:
        differences = [{"path": key, "detail": detail} for key, detail in found]
        show.print_json({"checked": len(now), "differences": differences})
        return 1 if found else 0
    return _told(found, len(now), "as the manifest has them")


def _told(found: Iterable[tuple[str, str]], checked: int, how: str) -> int:
    count = 0
    for path, detail in found:
        count += 1
        print(f"{show.name(path)}: {visible(detail)}")
    if count:
        print(f"{count} of {checked} entries are not {how}")
        return 1
    print(f"all {checked} entries are {how}")
    return 0
