"""What may be configured about the store, and the defaults.  Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB

SMALLEST = 64 * MIB
"""Below this mkfs.btrfs refuses, or nothing useful fits."""
DEFAULT_LEAST = 512 * MIB
DEFAULT_MOST = 1024 * GIB
IMAGE_NAME = "store.img"
MOUNT_NAME = "store"
MARKER_NAME = "store.json"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the store is and how large it may become."""

    directory: Path | None = None
    """A directory on a btrfs the user has; None = an image of the daemon's own."""
    image: Path | None = None
    """The image file; None = ``store.img`` in the state directory."""
    size_bytes: int | None = None
    """The size of a new image (it is sparse: room is taken as it is used).  None = four fifths
    of what is free beside it, between 512 MiB and 1 TiB."""
    grow: bool = True
    """Whether an image is enlarged: at start to ``size_bytes``, later by half when less than a
    tenth of it is free and the disk beneath has room.  It is never shrunk."""


def default_size(free_bytes: int) -> int:
    """The size of a new image on a file system with ``free_bytes`` free."""
    size = min(max(free_bytes * 4 // 5, DEFAULT_LEAST), DEFAULT_MOST)
    return size // MIB * MIB
