"""Throwing away: what is no longer named goes to ``trash`` in one rename, then is deleted.

So a session or commit is either there or gone, whatever happens in between; leftovers in
``trash`` and half-made layers are swept when the store opens.
"""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from goexfsd.store import subvolumes, usage
from goexfsd.store.faults import FULL

TRASH = "trash"
_PATIENCE = 10.0


def discard(store: Path, path: Path) -> None:
    """Make ``path`` (a directory or subvolume of ours) vanish, then free what it held.

    Once ``path`` is gone the promise is kept; what cannot be freed yet is left to the next
    sweep.  Where there is no room even for a rename, it is removed in place, subvolumes first:
    for deletions btrfs keeps a reserve of its own.
    """
    if subvolumes.is_subvolume(path):  # one call, whole or not at all
        with_room(store, partial(subvolumes.delete, path))
        return
    aside = store / TRASH / f"{path.name}.{uuid.uuid4().hex[:12]}"
    try:
        path.rename(aside)
    except OSError as error:
        if error.errno not in FULL:
            raise
        remove(store, path)
        return
    try:
        remove(store, aside)
    except OSError as error:
        if error.errno not in FULL:
            raise


def remove(store: Path, path: Path) -> None:
    """Remove a tree of ours where it stands; subvolumes in it first and whole."""
    with_room(store, partial(_remove_subvolumes, path))
    with_room(store, partial(_remove, path))


def _remove_subvolumes(path: Path) -> None:
    if subvolumes.is_subvolume(path):
        subvolumes.delete(path)
    elif path.is_dir() and not path.is_symlink():
        for entry in list(path.iterdir()):
            _remove_subvolumes(entry)


def sweep(store: Path) -> None:
    """Delete what an earlier life left in ``trash``."""
    for entry in sorted((store / TRASH).iterdir()):
        remove(store, entry)


def sweep_session(store: Path, session: Path) -> None:
    """Delete half-made and superseded layers of a session (``layer.<k>``)."""
    for entry in sorted(session.glob("layer.*")):
        discard(store, entry)


def with_room(store: Path, action: Callable[[], object]) -> None:
    """Do it; if the store is too full even for that, give back the reserve and do it again."""
    try:
        action()
    except OSError as error:
        if error.errno not in FULL:
            raise
        usage.release_reserve(store)
        subvolumes.wait_cleaned(store, _PATIENCE)
        action()


def _remove(path: Path) -> None:
    """Remove a tree of ours; subvolumes in it whole.  Missing parts are fine (a second try)."""
    with contextlib.suppress(FileNotFoundError):
        if subvolumes.is_subvolume(path):
            subvolumes.delete(path)
        elif path.is_dir() and not path.is_symlink():
            _remove_directory(path)
        else:
            path.unlink()


def _remove_directory(path: Path) -> None:
    for entry in list(path.iterdir()):
        _remove(entry)
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        _remove_directory(path)  # something was added meanwhile (kept output of a late step)
