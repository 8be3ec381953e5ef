"""Hypothesis strategies for random base trees and random sessions over them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from layering import Session, walk

NAMES = [b"a", b"b", b"c", b"d\xff\n"]
ROOT = os.geteuid() == 0


DATA = st.sampled_from([b"", b"x", b"y", b"one\ntwo\n", b"\0bin"])


@dataclass(frozen=True)
class There:
    """The n-th entry that exists."""

    number: int


@dataclass(frozen=True)
class Beside:
    """A name in (or beside) the n-th entry that exists."""

    number: int
    name: bytes


Op = tuple[str, tuple[object, ...]]
NUMBERS = st.integers(0, 30)
THERE = st.builds(There, NUMBERS)
BESIDE = st.builds(Beside, NUMBERS, st.sampled_from(NAMES))
SOME = THERE | BESIDE


def op(name: str, *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[Op]:
    return st.tuples(st.just(name), st.tuples(*arguments))


def operations() -> st.SearchStrategy[list[Op]]:
    kinds = [
        op("write", SOME, DATA),
        op("mkdir", BESIDE),
        op("symlink", BESIDE, st.sampled_from([b"a", b"b"])),
        op("mkfifo", BESIDE),
        op("unlink", THERE),
        op("remove", THERE),
        op("rename", THERE, SOME),
        op("rename", THERE, BESIDE),
        op("link", THERE, BESIDE),
        op("chmod", THERE, st.sampled_from([0o644, 0o755, 0o600, 0o700])),
        op("utime", THERE, st.sampled_from([10**18, 10**18 + 1])),
        op("setxattr", THERE, st.sampled_from([b"user.n", b"user.overlay.x"]), DATA),
        op("touch", THERE),
    ]
    if ROOT:
        kinds.append(op("chown", THERE, st.sampled_from([0, 1234])))
    return st.lists(st.one_of(kinds), max_size=14)


def base_trees() -> st.SearchStrategy[list[Op]]:
    kinds = [
        op("file", BESIDE, DATA),
        op("dir", BESIDE),
        op("dir", BESIDE),
        op("symlink", BESIDE),
        op("link", THERE, BESIDE),
    ]
    return st.lists(st.one_of(kinds), max_size=12)


def resolve(top: bytes, arguments: tuple[object, ...]) -> list[object]:
    existing = sorted(walk(top))
    return [_resolve(top, existing, argument) for argument in arguments]


def _resolve(top: bytes, existing: list[bytes], argument: object) -> object:
    if not isinstance(argument, There | Beside):
        return argument
    path = existing[argument.number % len(existing)]
    if isinstance(argument, There):
        return path
    if not stat.S_ISDIR(os.lstat(top + b"/" + path).st_mode):
        path = os.path.dirname(path)
    return path + b"/" + argument.name if path else argument.name


def build(ops: list[Op]) -> Callable[[bytes], None]:
    def fill(base: bytes) -> None:
        for name, arguments in ops:
            with contextlib.suppress(OSError):
                _build_one(base, name, *resolve(base, arguments))

    return fill


def _build_one(base: bytes, kind: str, path: object, other: object = None) -> None:
    assert isinstance(path, bytes)
    real = base + b"/" + path
    if kind == "dir":
        os.mkdir(real)
    elif kind == "symlink":
        os.symlink(b"a", real)
    elif kind == "file":
        assert isinstance(other, bytes)
        with open(real, "xb") as file:
            file.write(other)
    else:
        assert isinstance(other, bytes)
        os.link(real, base + b"/" + other, follow_symlinks=False)


_KEEPS_TOP = ("chmod", "utime", "setxattr", "touch", "chown")


def perform(session: Session, ops: list[Op]) -> None:
    for name, arguments in ops:
        found = resolve(session.model, arguments)
        path = found[0]
        assert isinstance(path, bytes)
        if not path and name not in _KEEPS_TOP:
            continue
        real = session.model + b"/" + path
        if os.path.islink(real) and name in ("chmod", "setxattr", "write"):
            continue
        if name == "write" and os.path.lexists(real) and not os.path.isfile(real):
            continue
        # Whatever the model refuses is not done to the layer: it comes first in each operation.
        with contextlib.suppress(OSError):
            getattr(session, name)(*found)
