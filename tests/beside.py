"""Two directories side by side: the same calls in both, as somebody, and what came of them.

All is done in a forked child that has become the user for good, so that umask, current
directory, descriptors and credentials are its own.
"""

from __future__ import annotations

import errno
import os
import pickle
import signal
import stat
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from entries import THEN

T = TypeVar("T")
_PATIENCE = 100
"""Seconds after which a child that waits for something is ended."""


def as_user(uid: int, function: Callable[[], T]) -> T:
    """What ``function`` returns in a child process of this user's, in no group but its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.alarm(_PATIENCE)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.umask(0o022)
            _send(writer, function)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    assert data, "the child died"
    done, result = pickle.loads(data)
    if not done:
        raise AssertionError(result)
    return result  # type: ignore[no-any-return]


def _send(writer: int, function: Callable[[], Any]) -> None:
    try:
        answer = True, function()
    except BaseException:
        answer = False, traceback.format_exc()
    with open(writer, "wb") as out:
        out.write(pickle.dumps(answer))


def picture(top: str) -> dict[str, Any]:
    """Everything below ``top`` as it shows; times only as *old* (the base's) or not."""
    found: dict[str, Any] = {}
    groups: dict[int, list[str]] = {}
    _look(top, ".", found, groups)
    found["hard links"] = sorted(sorted(names) for names in groups.values() if len(names) > 1)
    return found


def _look(top: str, short: str, found: dict[str, Any], groups: dict[int, list[str]]) -> None:
    path = os.path.join(top, short)
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    # What is sent through a fifo on FUSE does not tell its inode.
    old = kind == stat.S_IFIFO or status.st_mtime_ns == THEN
    shown: list[Any] = [oct(status.st_mode), (status.st_uid, status.st_gid), status.st_nlink, old]
    found[short] = shown
    try:
        if kind == stat.S_IFREG:
            groups.setdefault(status.st_ino, []).append(short)
            with open(path, "rb") as file:
                shown.append(file.read())
        elif kind == stat.S_IFLNK:
            shown.append(os.readlink(path))
        if kind != stat.S_IFLNK:
            shown.append({name: os.getxattr(path, name) for name in sorted(os.listxattr(path))})
        if kind == stat.S_IFDIR:
            for name in sorted(os.listdir(path)):
                _look(top, os.path.normpath(os.path.join(short, name)), found, groups)
    except OSError as error:
        shown.append(errno.errorcode[error.errno or 0])
