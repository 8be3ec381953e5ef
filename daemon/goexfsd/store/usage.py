"""How full the store is, and what a layer holds, read with python-btrfs.

A btrfs that is full to the last block may refuse even to delete, so the store keeps a reserve:
an allocated file that is given back when a deletion finds no room.  An image is sparse, so the
disk beneath it counts too: what is free is the smaller of the two.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import btrfs
import btrfs.ctree
import btrfs.ioctl

from goexfsd.store.faults import FULL
from goexfsd.store.settings import MIB

RESERVE = "reserve"
_LEAST_RESERVE = 2 * MIB
_MOST_RESERVE = 64 * MIB
_SEARCH_BUFFER = 256 * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Sizes in bytes."""

    total_bytes: int
    """What the store may become."""
    used_bytes: int
    """What is in it, metadata and reserve included."""
    free_bytes: int
    """What may still be written: never more than the disk beneath has free."""
    reserve_bytes: int
    """Kept back so that deleting always works."""
    disk_free_bytes: int | None
    """Free on the disk beneath an image; None for a directory store."""


def read(path: Path, image: Path | None) -> Usage:
    """The usage of the btrfs at ``path``; ``image`` is its image file, if it has one."""
    with btrfs.FileSystem(str(path)) as fs:
        usage = fs.usage()
        mixed = fs.mixed_groups()
        total, free = int(usage.total), int(usage.free_mixed if mixed else usage.free_data)
        used = int(usage.virtual_used)
    beneath = shutil.disk_usage(image.parent).free if image is not None else None
    if beneath is not None:
        free = min(free, beneath)
    return Usage(total, used, max(free, 0), reserve_size(path), beneath)


def reserve_size(path: Path) -> int:
    """The reserve that is there now."""
    try:
        return (path / RESERVE).stat().st_size
    except FileNotFoundError:
        return 0


def keep_reserve(path: Path) -> None:
    """Make the reserve if there is none and room is plentiful."""
    if reserve_size(path):
        return
    usage = read(path, None)
    size = min(max(usage.total_bytes // 50, _LEAST_RESERVE), _MOST_RESERVE)
    if usage.free_bytes < 4 * size:
        return
    fd = os.open(path / RESERVE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in FULL:
            raise
        release_reserve(path)
    finally:
        os.close(fd)


def release_reserve(path: Path) -> None:
    """Give the reserve back to the file system."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path / RESERVE, 0)
        (path / RESERVE).unlink()


def held_bytes(layer: Path, since: int | None) -> int:
    """Bytes of the distinct data extents that the subvolume ``layer`` refers to, and of data
    stored inline.  With ``since``, extents allocated before that transaction do not count: a
    copy-up by reflink shares them with the base.

    Extents shared with checkpoints of the same session count.  Cost: the layer's metadata.
    """
    fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        extents: dict[int, int] = {}
        inline = 0
        for item in _file_extents(fd):
            if item.type == btrfs.ctree.FILE_EXTENT_INLINE:
                inline += int(item.ram_bytes)
            elif item.disk_bytenr:  # 0 is a hole
                extents[int(item.disk_bytenr)] = int(item.disk_num_bytes)
    finally:
        os.close(fd)
    if since is None:
        return inline + sum(extents.values())
    with btrfs.FileSystem(str(layer)) as fs:
        born = {vaddr: _born(fs, vaddr) for vaddr in extents}
    return inline + sum(size for vaddr, size in extents.items() if born[vaddr] >= since)


def _file_extents(fd: int) -> Iterator[btrfs.ctree.FileExtentItem]:
    wanted = btrfs.ctree.EXTENT_DATA_KEY
    for header, data in btrfs.ioctl.search_v2(fd, 0, buf_size=_SEARCH_BUFFER):
        if header.type == wanted:
            yield btrfs.ctree.FileExtentItem(header, data)


def _born(fs: btrfs.FileSystem, vaddr: int) -> int:
    """The transaction that allocated the extent at ``vaddr``."""
    for extent in fs.extents(vaddr, vaddr, load_data_refs=False, load_metadata_refs=False):
        return int(extent.generation)
    return 0
