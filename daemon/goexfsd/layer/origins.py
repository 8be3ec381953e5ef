"""The origins log: what the base looked like when the session first changed it.

Append-only, one record a change, each with a checksum; a torn last record (power loss) is
ignored, for what it announced was not yet in place.  A record is written *before* the upper
entry it speaks of is renamed into place.  It lies in the layer's subvolume, so a snapshot takes
it along, and so upper inode numbers (which btrfs keeps over snapshots) are stable keys.  btrfs
reuses the highest of them after a layer was loaded anew; whoever opens it to write sees to it
that none comes again which a record speaks of (``writer.py``).

Records:

* COPY: upper inode ``upper_ino`` was copied up from base path ``path`` with ``identity``
  (directories too: a merged upper directory has one);
* HIDE: base entry ``path`` with ``identity`` was deleted, renamed away or replaced;
* ALIAS: base path ``path``, another name of the several-named base file that ``upper_ino`` is
  the copy of, now has an upper entry or a whiteout of its own;
* MODE: the owner's bits of ``identity.mode`` are the true ones of ``upper_ino``, whose bits on
  disk are wider; ``identity.mode`` 0 ends it.  It stands as long as the true ones are narrow: in
  the layer an owner without root's rights keeps all rights on directories and reads and writes
  files, so that no mode that a script sets keeps a worker from the layer or from a checkpoint.
  (An access ACL on disk has the wider bits, too: ``format.acl_with_mode``);
* TIMES: the times of ``upper_ino`` were set by the user (utimensat with a given time);
* OWNER: the view shows ``identity.uid/gid`` for ``upper_ino`` though the disk could not be told.

The *first* record of a path says what the session saw; later ones of the same path only add
upper inodes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    COPY = 1
    HIDE = 2
    ALIAS = 3
    MODE = 4
    TIMES = 5
    OWNER = 6


@dataclass(slots=True, unsafe_hash=True)
class Identity:
    """A base entry as it was.  ``dev`` is 0 on the root's own device (numbers of anonymous
    devices change over a reboot), else the device number.

    Never changed once made (frozen it would cost four times as much to make).
    """

    dev: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, st: os.stat_result, root_dev: int) -> Identity:
        """The identity of ``st``, whose root directory lies on device ``root_dev``."""
        mode, ino, dev, nlink, uid, gid, size, *_ = st
        if dev == root_dev:
            dev = 0
        rdev, mtime, ctime = st.st_rdev, st.st_mtime_ns, st.st_ctime_ns
        return cls(dev, ino, mode, nlink, uid, gid, rdev, size, mtime, ctime)

    def fields(self) -> list[int]:
        """For a record; ``Identity(*fields)`` reads it."""
        head = [self.dev, self.ino, self.mode, self.nlink, self.uid, self.gid]
        return [*head, self.rdev, self.size, self.mtime_ns, self.ctime_ns]


@dataclass(slots=True)
class Record:
    """Never changed once made (frozen, a log would take twice as long to read)."""

    kind: Kind
    root: int
    """The root's index in the session."""
    step: int
    """The step that did it; 0 outside any step."""
    upper_ino: int
    path: bytes
    """In the base, relative to the root, no leading slash; b"" is the root itself."""
    identity: Identity


NOTHING = Identity(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

_HEAD = struct.Struct("<4sII")  # magic, length of the body, its CRC-32
HEAD = _HEAD.size
"""Bytes of a record before its body."""
_BODY = struct.Struct("<BxHIQQQIIIIQQqq")
MAGIC = b"gxo1"
_KINDS = {int(kind): kind for kind in Kind}


def encode(record: Record) -> bytes:
    """One record, ready to append."""
    head = record.kind, record.root, record.step, record.upper_ino
    body = _BODY.pack(*head, *record.identity.fields()) + record.path
    return _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body


def decode(data: bytes) -> Iterator[Record]:
    """The records of a log, in order; stops at the first damaged one (a torn end)."""
    at = 0
    while at + HEAD <= len(data):
        magic, length, crc = _HEAD.unpack_from(data, at)
        body = data[at + HEAD : at + HEAD + length]
        if magic != MAGIC or len(body) != length or length < _BODY.size:
            return
        if zlib.crc32(body) != crc:
            return
        kind, root, step, upper_ino, *rest = _BODY.unpack_from(body)
        path, was = body[_BODY.size :], Identity(*rest)
        yield Record(_KINDS.get(kind) or Kind(kind), root, step, upper_ino, path, was)
        at += HEAD + length


def load(layer_fd: int, name: bytes) -> tuple[list[Record], int]:
    """All records of the log ``name`` in ``layer_fd``, and the length that was good in bytes."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer_fd)
    except FileNotFoundError:
        return [], 0
    with os.fdopen(fd, "rb") as log:
        data = log.read()
    records = list(decode(data))
    return records, sum(HEAD + _BODY.size + len(record.path) for record in records)
