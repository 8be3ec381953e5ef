"""Opening the store: made on the very first start, found again on every later one.

The marker in the state directory decides (see ``marker``): without one, a store is made as the
settings say; with one, exactly that store must be there.  Two settings that name another store
than the marker's are an error too: sessions live in the old one.
"""

from __future__ import annotations

import os
from pathlib import Path

from goexfs.errors import GoexfsError, StoreFailed
from goexfsd.store import directory, image, marker, mounts
from goexfsd.store.faults import told_as
from goexfsd.store.holdings import Store
from goexfsd.store.marker import Marker
from goexfsd.store.settings import IMAGE_NAME, MARKER_NAME, MOUNT_NAME, StoreSettings


def open_store(settings: StoreSettings, state_dir: Path) -> Store:
    """Make or find the store and mount it.  StoreFailed names the way out."""
    state_dir = state_dir.resolve()
    note = state_dir / MARKER_NAME
    known = marker.read(note)
    kind = "image" if settings.directory is None else "directory"
    if known is not None and known.kind != kind:
        raise StoreFailed(
            f"the store of {state_dir} is {known.path}, but the settings name another",
            hint="set store in goexfsd.toml back; to give up the open sessions and undo history "
            f"in the old one, remove {note} and the catalog beside it",
        )
    with told_as("opening it", str(settings.directory or state_dir)):
        if settings.directory is not None:
            return _open_directory(settings.directory, note, known)
        return _open_image(settings, state_dir, note, known)


def _open_directory(path: Path, note: Path, known: Marker | None) -> Store:
    fd = directory.lock(path)
    store = Store(path, None, fd)
    try:
        found = directory.identity(path) if known else directory.claim(path)
        if known is not None and found != known.uuid:
            raise StoreFailed(
                f"{path} is not the store that belongs to this state directory",
                hint="mount the file system it lies on, or correct store in goexfsd.toml; to "
                f"start anew without the old sessions, remove {note} and the catalog beside it",
            )
        _note(note, known, Marker("directory", str(path), str(found)))
        store.prepare()
    except BaseException:
        os.close(fd)
        raise
    return store


def _open_image(
    settings: StoreSettings, state_dir: Path, note: Path, known: Marker | None
) -> Store:
    path = settings.image.resolve() if settings.image else state_dir / IMAGE_NAME
    target = state_dir / MOUNT_NAME
    target.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        if known is not None:
            raise image.missing(path, note)
        image.create(path, settings.size_bytes)
    fd = image.lock(path)
    store = Store(target, path, fd, settings.grow)
    try:
        found = image.examine(path, fd, known.uuid if known else None)
        image.attach(path, target)
        _note(note, known, Marker("image", str(path), found.fsid))
        if settings.grow and settings.size_bytes is not None:
            image.grow(path, fd, target, settings.size_bytes)
        store.prepare()
    except BaseException:
        _give_up(store)
        raise
    return store


def _give_up(store: Store) -> None:
    """Undo a half-done opening."""
    try:
        if mounts.source_of(store.path) is not None:
            mounts.unmount(store.path)
    except (OSError, GoexfsError):
        pass  # the first error is the one to tell
    finally:
        os.close(store.lock_fd)


def _note(note: Path, known: Marker | None, now: Marker) -> None:
    if known != now:
        marker.write(note, now)


def close_store(store: Store) -> None:
    """Sync; unmount an image and free its loop device.  The store must not be used after."""
    try:
        with told_as("closing it", str(store.image or store.path)):
            store.sync()
            if store.image is not None:
                mounts.unmount(store.path)
    finally:
        os.close(store.lock_fd)
