"""The words of a request that name entries: where in a session's roots they are taken from.

Relative words are relative to the caller's directory where that lies in a root or in the view,
else to the root, or begin with a root's name where there are several.  It looks at no file: what
a word finds is known to the worker that has the change list (``layer.selection``).
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from goexfs.errors import Usage
from goexfs.names import display, from_wire
from goexfs.protocol import Commit, Resolve
from goexfsd.layer.selection import Glob, Selection, Word, is_glob
from goexfsd.server import decode_bytes
from goexfsd.session import Session

_AT_ONCE = 50
T = TypeVar("T")
R = TypeVar("R")


async def selection(
    session: Session, paths: Sequence[str], exclude: Sequence[str], cwd: str | None
) -> Selection:
    """What ``paths`` and ``exclude`` of a request select; Usage for what lies in no root."""
    return Selection(
        tuple(await _each(paths, lambda text: _word(session, text, cwd))),
        tuple(await _each(exclude, lambda text: _word(session, text, cwd, floats=True))),
    )


async def resolutions(
    session: Session, resolve: Sequence[Resolve], cwd: str | None
) -> list[tuple[int, bytes, str]]:
    """What becomes of conflicts, path by path."""

    def one(each: Resolve) -> tuple[int, bytes, str]:
        return (*session.locate(os.fsdecode(_path(each.path)), cwd), each.way)

    return await _each(resolve, one)


async def _each(given: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """``work`` on all of it; others get their turns meanwhile: a request may have a lot."""
    done: list[R] = []
    for at in range(0, len(given), _AT_ONCE):
        done += [work(each) for each in given[at : at + _AT_ONCE]]
        await trio.lowlevel.checkpoint()
    return done


async def of_commit(session: Session, request: Commit) -> Selection:
    """What a commit is to take, by words or by patch."""
    patch = request.patch
    if patch is None:
        return await selection(session, request.paths, request.exclude, request.cwd)
    if request.paths or request.exclude:
        raise Usage(
            "a patch says itself what is meant: paths and exclude cannot go with it",
            hint="take out of the patch what is not wanted",
        )
    if request.on_conflict != "abort" or request.resolve:
        raise Usage(
            "a patch is of the base as it was: conflicts cannot be resolved along with it",
            hint="commit whole files, or make the patch again",
        )
    return Selection(patch=decode_bytes(patch.text, patch.encoding))


def _word(session: Session, wire: str, cwd: str | None, *, floats: bool = False) -> Word:
    """``floats``: a plain name, too, is meant at any depth, as a name in .gitignore is."""
    text = os.fsdecode(_path(wire))
    if not is_glob(text) and not (floats and _plain(text)):
        return Word(display(text), session.locate(text, cwd))
    globs = tuple(_globs(session, text, cwd))
    try:
        place = session.locate(text, cwd)
    except Usage:
        if not globs:
            raise
        place = None
    return Word(display(text), place, globs)


def _path(wire: str) -> bytes:
    try:
        return from_wire(wire)
    except ValueError as error:
        raise Usage(str(error)) from error


def _plain(text: str) -> bool:
    return "/" not in text and text not in ("", ".", "..")


def _globs(session: Session, text: str, cwd: str | None) -> list[Glob]:
    if "/" not in text.rstrip("/"):
        return _floating(session, text, cwd)
    head, rest = _split(text)
    if head or _inside(session, cwd):
        try:
            root, top = session.locate(head or ".", cwd)
        except Usage:
            return []  # the word as a name may be meant, or else is the mistake
        return [Glob(root, top, "/" + rest)]
    if len(session.row.roots) == 1:
        return [Glob(0, b"", "/" + rest)]
    first, _, below = rest.partition("/")
    found = []
    for index, root_row in enumerate(session.row.roots):
        if first == "**":
            found.append(Glob(index, b"", "/" + rest))
        elif below and fnmatch.fnmatchcase(root_row.name, first):
            found.append(Glob(index, b"", "/" + below))
    return found


def _floating(session: Session, text: str, cwd: str | None) -> list[Glob]:
    """A glob without a slash: at any depth below the caller's directory, else in every root."""
    if _inside(session, cwd):
        root, top = session.locate(".", cwd)
        return [Glob(root, top, text)]
    return [Glob(index, b"", text) for index in range(len(session.row.roots))]


def _inside(session: Session, cwd: str | None) -> bool:
    """Whether the caller stands in a root or in the view."""
    return cwd is not None and session.holds(cwd)


def _split(text: str) -> tuple[str, str]:
    """The directory that a glob begins with, without wildcards, and the rest."""
    names = text.split("/")
    first = next(at for at, name in enumerate(names) if is_glob(name))
    head = "/".join(names[:first])
    return head or ("/" if text.startswith("/") else ""), "/".join(names[first:])
