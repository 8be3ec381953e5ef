"""Records of a commit on disk: one JSON object a line, then a line with their checksum.

A file is written aside, fsynced and renamed into place, so that it is whole or absent; the
checksum tells a damaged one, which is refused and never guessed at.

In a commit's directory::

    stages    where staging directories are made; written before the first of them
    images    the index of the before-images; their bytes are ``image.<n>``
    plan      nodes and operations (``plan.Plan``): the intent; synced, with the images, before
              the daemon's go, and read by nobody without that
    verdict   written when applying failed for good and the commit is taken back
    applied   written when every operation is done and synced; only tidying is left
    tidied    written when that is done too, with what every entry is now, for an undo; only the
              rebase of a part is left
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from goexfs.errors import StoreFailed

STAGES = b"stages"
IMAGES = b"images"
PLAN = b"plan"
VERDICT = b"verdict"
APPLIED = b"applied"
TIDIED = b"tidied"

Line = dict[str, Any]
_ROWS = 1000
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def rows(kind: str, items: Iterable[Any]) -> Iterator[Line]:
    """Lines ``{kind: [item, ...]}`` for many things of one kind: to encode them one by one takes
    several times as long."""
    several = iter(items)
    while some := list(itertools.islice(several, _ROWS)):
        yield {kind: some}


def unrow(lines: Iterable[Line], kind: str) -> Iterator[Any]:
    """The items of all such lines."""
    return itertools.chain.from_iterable(line[kind] for line in lines if kind in line)


def write(dir_fd: int, name: bytes, lines: Iterable[Line], *, durable: bool = True) -> None:
    """Write a record durably, replacing one of the same name.

    Without ``durable`` it is whole or absent only if the file system is synced before a crash of
    the machine: for what nobody reads before that.
    """
    aside = name + b".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside, dir_fd=dir_fd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    digest, count = hashlib.sha256(), 0
    with os.fdopen(os.open(aside, flags, 0o600, dir_fd=dir_fd), "wb", 1 << 20) as file:
        for line in lines:
            data = _encode(line).encode() + b"\n"
            digest.update(data)
            file.write(data)
            count += 1
        file.write(json.dumps({"lines": count, "sha256": digest.hexdigest()}).encode() + b"\n")
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.rename(aside, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    if durable:
        os.fsync(dir_fd)


def read(dir_fd: int, name: bytes) -> list[Line] | None:
    """The lines of a record; None if there is none.  StoreFailed if it is damaged."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read()
    body, _, last = data[:-1].rpartition(b"\n")
    body += b"\n" if body else b""
    try:
        seal = json.loads(last)
        good = data.endswith(b"\n") and seal["sha256"] == hashlib.sha256(body).hexdigest()
        # No line holds a newline of its own, so all of them are one list.
        lines = json.loads(b"[%b]" % body[:-1].replace(b"\n", b",")) if good else []
    except (ValueError, KeyError, TypeError):
        good = False
    if not good or len(lines) != seal["lines"]:
        raise StoreFailed(
            f"the commit's record {name.decode()!r} is damaged; it is neither applied nor removed",
            hint="check the store for errors (btrfs scrub), then start goexfsd again",
        )
    return lines


def exists(dir_fd: int, name: bytes) -> bool:
    """Whether a record has been written."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
