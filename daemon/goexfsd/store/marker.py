"""The marker: a small file in the state directory that says that a store was made, and which.

Written after the store is whole and before anything is put into it, and replaced atomically.  A
marker without its store is an error for a person to mend; a store image without a marker is the
remains of a first start that was cut short just before the end, and is taken over.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from goexfs.errors import StoreFailed


@dataclass(frozen=True, slots=True)
class Marker:
    kind: Literal["image", "directory"]
    path: str
    uuid: str
    """Of the image's file system; of a directory, what its own ``id`` file says."""


def read(path: Path) -> Marker | None:
    """The marker, None if no store was ever made here; StoreFailed if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(text)
        marker = Marker(fields["kind"], str(fields["path"]), str(fields["uuid"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreFailed(
            f"{path} is damaged, so it is unknown which store belongs to this state directory",
            hint=f"restore {path} from a backup; if its image is intact, remove only {path}",
        ) from error
    return marker


def write(path: Path, marker: Marker) -> None:
    """Put the marker in place, durably."""
    write_durably(path, json.dumps(asdict(marker), indent=2).encode() + b"\n")


def write_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` atomically; on disk when this returns."""
    aside = path.with_name(path.name + ".new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """fsync a directory, so that names made in it are durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
