"""``Store``: layers, checkpoints, steps' output and commits, by session and commit id.

Invariants:

* ``layer`` of a session is replaced by one exchange: at any instant it is the old or the new;
* nothing that exists is overwritten: making what is there already is an error;
* what a method made is durable when it returns, or when ``secure`` does (``create_commit`` says
  what is not);
* deleting works on a full store (see ``garbage``).

Methods may be called from several threads as long as no two work on the same session.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from goexfs.errors import InvalidState, Limit, NotFound
from goexfsd import kernel
from goexfsd.layer import format as names
from goexfsd.store import garbage, image, lowers, newer, subvolumes, usage
from goexfsd.store.faults import FULL, told_as
from goexfsd.store.newer import Newer
from goexfsd.store.settings import MIB
from goexfsd.store.usage import Usage

_SESSIONS = "sessions"
_COMMITS = "commits"
_LAYER = "layer"
_CHECKPOINTS = "ckpt"
_STEPS = "steps"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DISK_MARGIN = 16 * MIB
"""Kept free on the disk beneath an image: btrfs cannot recover from a write that finds none."""
_SETTLING = 3.0
"""Seconds at most, where nobody waits but perhaps the daemon's end."""
_PATIENCE = 10.0
"""Seconds to wait for what was deleted to give its room back."""


@dataclass(slots=True)
class Store:
    """An open store.  ``open_store`` makes one, ``close_store`` ends it."""

    path: Path
    """The directory that holds it all."""
    image: Path | None
    """The image file, None for a directory on the user's btrfs."""
    lock_fd: int
    """Held for as long as the store is open, so that nobody else uses it."""
    grows: bool = False
    """Whether an image that is nearly full is enlarged."""
    _held: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Session → (changed_at, bytes) of the last ``layer_bytes``."""
    _begun: set[str] = field(default_factory=set)
    """Sessions that ``secure`` has to make durable."""

    def prepare(self) -> None:
        """Make the rooms of the store and sweep what an earlier life left behind."""
        with self._telling("opening it"):
            for name in (_SESSIONS, _COMMITS, garbage.TRASH):
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
            garbage.sweep(self.path)
            for sid in self.sessions():
                garbage.sweep_session(self.path, self._session(sid))
            usage.keep_reserve(self.path)
            subvolumes.sync(self.path)

    # -- layers and checkpoints -----------------------------------------------------------

    def create_layer(
        self, sid: str, owner_uid: int, owner_gid: int, root_names: Sequence[str]
    ) -> Path:
        """A new session's empty layer: upper/<root name>/, work/, index/ and origins; ``secure``
        makes it durable."""
        session = self._session(sid)
        aside = session / f"{_LAYER}.new"

        def make() -> None:
            _make_rooms(session)
            subvolumes.create(aside)
            _furnish(aside, owner_uid, owner_gid, root_names)
            aside.rename(session / _LAYER)
            self._begun.add(sid)

        with self._telling("opening a session"):
            if session.exists():
                raise InvalidState(f"session {sid} is in the store already")
            self._check_room()
            self._make(make, session)
        return session / _LAYER

    def fork(self, source: str, number: int, sid: str, generation: str | None = None) -> Path:
        """A new session whose layer, and checkpoint 0, are checkpoint ``number`` of another, and
        which has its snapshots of the base too.

        Constant in what the layer holds.  Nothing of the source is needed afterwards.  ``secure``
        makes it durable.
        """
        origin = self.checkpoint(source, number)
        session = self._session(sid)
        aside = session / f"{_LAYER}.new"

        def make() -> None:
            _make_rooms(session)
            subvolumes.snapshot(origin, session / _CHECKPOINTS / "0", read_only=True)
            subvolumes.snapshot(origin, aside, read_only=False)
            if generation is not None:
                lowers.share(self._session(source), session, generation)
            aside.rename(session / _LAYER)
            self._begun.add(sid)

        with self._telling("forking a session"):
            if session.exists():
                raise InvalidState(f"session {sid} is in the store already")
            self._check_room()
            self._make(make, session)
        return session / _LAYER

    def secure(self, sid: str) -> None:
        """What ``create_layer`` or ``fork`` made is durable when this returns."""
        if sid in self._begun:
            self._begun.discard(sid)
            with self._telling("opening a session"):
                subvolumes.sync(self.path)

    def layer(self, sid: str) -> Path:
        """The live layer of a session."""
        return self._existing(self._session(sid) / _LAYER, f"session {sid}")

    def snapshot(self, sid: str, number: int) -> Path:
        """Keep the live layer as it is now, read-only, as checkpoint ``number``."""
        layer = self.layer(sid)
        path = self._session(sid) / _CHECKPOINTS / str(int(number))
        with self._telling("taking a checkpoint"):
            if path.exists():
                raise InvalidState(f"session {sid} has a checkpoint {number} already")
            self._check_room()
            self._with_cleaning(lambda: subvolumes.snapshot(layer, path, read_only=True))
        return path

    def checkpoint(self, sid: str, number: int) -> Path:
        """Checkpoint ``number`` of a session."""
        path = self._session(sid) / _CHECKPOINTS / str(int(number))
        return self._existing(path, f"checkpoint {number} of session {sid}")

    def checkpoints(self, sid: str) -> list[int]:
        """The checkpoints that are on disk, ascending."""
        directory = self._session(sid) / _CHECKPOINTS
        return sorted(int(entry.name) for entry in _entries(directory) if entry.name.isdigit())

    def delete_checkpoint(self, sid: str, number: int) -> None:
        """Throw a checkpoint away; none there is fine."""
        self._discard(self._session(sid) / _CHECKPOINTS / str(int(number)), "dropping a checkpoint")

    def restore(self, sid: str, number: int) -> Path:
        """A new writable copy of checkpoint ``number``, which ``adopt`` can make the layer."""
        source = self.checkpoint(sid, number)
        session = self._session(sid)
        with self._telling("going back to a checkpoint"):
            self._check_room()
            taken = [int(entry.suffix[1:]) for entry in _numbered_layers(session)]
            path = session / f"{_LAYER}.{max(taken, default=0) + 1}"
            self._with_cleaning(lambda: subvolumes.snapshot(source, path, read_only=False))
        return path

    def adopt(self, sid: str, path: Path) -> None:
        """Make what ``restore`` returned the live layer; the former one is thrown away.

        One exchange of names, then durable, then the deletion: a crash before the exchange
        leaves the former layer live, one after it the new, and the next start sweeps the
        other.  Files still open in the former layer stay readable until closed.
        """
        session = self._session(sid)
        if path.parent != session or path not in _numbered_layers(session):
            raise NotFound(f"{path.name} is not a restored layer of session {sid}")
        with self._telling("going back to a checkpoint"):
            directory = os.open(session, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                here, new = _LAYER.encode(), path.name.encode()
                kernel.renameat2(directory, here, directory, new, kernel.RENAME_EXCHANGE)
            finally:
                os.close(directory)
            subvolumes.sync(self.path)
        self._held.pop(sid, None)
        self._discard(path, "dropping the former layer")

    def delete_session(self, sid: str) -> None:
        """Throw away everything a session has; none there is fine.  Constant in its content.

        It is not on disk yet, nor has the room come back, before ``sync``, or half a minute.
        """
        self._held.pop(sid, None)
        self._begun.discard(sid)
        self._discard(self._session(sid), "discarding a session", durable=False)
        with self._telling("discarding a session"):
            now = usage.read(self.path, None)
            if now.free_bytes < now.total_bytes // 10:  # the room is wanted now, not at leisure
                subvolumes.wait_cleaned(self.path, _PATIENCE)
            usage.keep_reserve(self.path)

    def steps_dir(self, sid: str) -> Path:
        """Where the output of a session's steps is kept."""
        return self._existing(self._session(sid) / _STEPS, f"session {sid}")

    # -- lowers ---------------------------------------------------------------------------

    def can_hold(self, top: int, inner: str) -> bool:
        """Whether the store can hold a snapshot of the subvolume ``top`` (a descriptor) that
        shows all that is below ``inner`` in it."""
        return self.image is None and lowers.can_hold(self.path, top, inner)

    def take_lowers(self, sid: str, tops: Sequence[int]) -> str:
        """Read-only snapshots of subvolumes for a session to show; the generation's number.

        OSError where the file system will not have it.
        """
        number = lowers.take(self._session(sid), tops)
        if tops:
            self._begun.discard(sid)  # the transaction with the snapshot has the layer, too
        return number

    def lower(self, sid: str, name: str) -> Path:
        """The snapshot ``<generation>/<place>`` of a session."""
        return self._existing(lowers.path_of(self._session(sid), name), f"the base of {sid}")

    def drop_lowers(self, sid: str, keep: str | None) -> None:
        """Throw away all generations of a session but ``keep``."""
        for path in lowers.generations(self._session(sid)):
            if path.suffix[1:] != keep:
                self._discard(path, "dropping a snapshot of the base")

    # -- commits --------------------------------------------------------------------------

    def create_commit(self, cid: str, owner_uid: int, owner_gid: int) -> Path:
        """An empty subvolume for a commit's plan and before-images, the owner's.

        It is durable with the first thing in it that is: an fsync in a subvolume that is not on
        disk yet commits the file system's transaction.
        """
        path = self._commit(cid)

        def make() -> None:
            subvolumes.create(path)
            _give(path, owner_uid, owner_gid, 0o700)

        with self._telling("preparing a commit"):
            if path.exists():
                raise InvalidState(f"commit {cid} is in the store already")
            self._check_room()
            self._make(make, path)
        return path

    def commit_path(self, cid: str) -> Path:
        """The subvolume of a commit."""
        return self._existing(self._commit(cid), f"commit {cid}")

    def delete_commit(self, cid: str) -> None:
        """Throw a commit's before-images away; none there is fine."""
        self._discard(self._commit(cid), "dropping a commit's before-images")

    # -- looking --------------------------------------------------------------------------

    def sessions(self) -> list[str]:
        """The sessions that are on disk."""
        return [entry.name for entry in _entries(self.path / _SESSIONS)]

    def commits(self) -> list[str]:
        """The commits that are on disk."""
        return [entry.name for entry in _entries(self.path / _COMMITS)]

    def usage(self) -> Usage:
        """How full the store is."""
        with self._telling("reading its usage"):
            return usage.read(self.path, self.image)

    def layer_bytes(self, sid: str) -> int:
        """Bytes on disk of the data that the live layer of a session refers to.

        In a store on the user's own btrfs, what a reflinked copy still shares with the base
        does not count.  Data shared with the session's own checkpoints does.  The answer is
        kept until the layer changes.
        """
        layer = self.layer(sid)
        with self._telling("reading its usage"):
            changed = subvolumes.changed_at(layer)
            known = self._held.get(sid)
            if known is not None and known[0] == changed:
                return known[1]
            held = usage.held_bytes(layer, self._born(sid) if self.image is None else None)
        self._held[sid] = (changed, held)
        return held

    def generation(self, path: Path) -> int:
        """The btrfs transaction in which a layer or checkpoint last changed.

        A checkpoint has the number that the layer had: equal numbers = nothing changed since.
        Data that is not yet written back does not count: sync first.
        """
        with self._telling("reading a layer"):
            return subvolumes.changed_at(path)

    def newer(
        self, sid: str, before: int, after: int | None, also: Collection[int]
    ) -> Newer | None:
        """What in checkpoint ``after`` (None: the live layer) is newer than checkpoint
        ``before``; None where that cannot be told.  See ``store.newer``."""
        old = self.checkpoint(sid, before)
        new = self.layer(sid) if after is None else self.checkpoint(sid, after)
        with self._telling("reading a layer"):
            if after is None:
                subvolumes.sync(self.path)
            return newer.newer(old, new, also)

    def sync(self) -> None:
        """Everything written to the store so far is on disk when this returns."""
        with self._telling("writing to it"):
            subvolumes.sync(self.path)

    def settle(self) -> None:
        """``sync``, and wait until what was thrown away gave its room back, for a while at most."""
        with self._telling("writing to it"):
            subvolumes.wait_cleaned(self.path, _SETTLING)

    # -- inside ---------------------------------------------------------------------------

    def _session(self, sid: str) -> Path:
        return self.path / _SESSIONS / _checked(sid)

    def _commit(self, cid: str) -> Path:
        return self.path / _COMMITS / _checked(cid)

    def _existing(self, path: Path, what: str) -> Path:
        with self._telling(f"looking for {what}"):
            if not path.is_dir():
                raise NotFound(f"{what} is not in the store")
        return path

    def _born(self, sid: str) -> int:
        numbers = self.checkpoints(sid)
        first = self.checkpoint(sid, numbers[0]) if numbers else self.layer(sid)
        return subvolumes.made_at(first)

    def _check_room(self) -> None:
        """Enlarge an image that is nearly full, if it may; refuse early what would run the
        disk beneath it full."""
        if self.image is None:
            return
        now = usage.read(self.path, self.image)
        if now.disk_free_bytes is not None and now.disk_free_bytes < _DISK_MARGIN:
            raise Limit(
                f"the disk that holds the store image {self.image} is full",
                hint=f"free some room below {self.image.parent}, or discard sessions",
            )
        if self.grows and now.free_bytes < now.total_bytes // 10:
            self._enlarge(now)

    def _enlarge(self, now: Usage) -> None:
        assert self.image is not None
        more = min(now.total_bytes // 2, (now.disk_free_bytes or 0) * 4 // 5)
        if more // MIB:
            size = (now.total_bytes + more) // MIB * MIB
            image.grow(self.image, self.lock_fd, self.path, size)

    def _with_cleaning(self, action: Callable[[], None]) -> None:
        """Do it; if there is no room, wait for deleted subvolumes to give theirs back."""
        try:
            action()
        except OSError as error:
            if error.errno not in FULL or not subvolumes.wait_cleaned(self.path, _PATIENCE):
                raise
            action()

    def _make(self, action: Callable[[], None], path: Path) -> None:
        """``_with_cleaning`` for several calls: what a failure leaves at ``path`` goes."""

        def attempt() -> None:
            try:
                action()
            except BaseException:
                garbage.remove(self.path, path)
                raise

        self._with_cleaning(attempt)

    def _discard(self, path: Path, what: str, *, durable: bool = True) -> None:
        with self._telling(what):
            if path.exists():
                garbage.discard(self.path, path)
                if durable:
                    subvolumes.sync(self.path)

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        with told_as(what, str(self.image or self.path)):
            yield


def _make_rooms(session: Path) -> None:
    for directory in (session, session / _CHECKPOINTS, session / _STEPS):
        directory.mkdir(mode=0o700)


def _furnish(layer: Path, uid: int, gid: int, root_names: Sequence[str]) -> None:
    upper = layer / os.fsdecode(names.UPPER)
    for directory in (upper, layer / os.fsdecode(names.WORK), layer / os.fsdecode(names.INDEX)):
        directory.mkdir()
        _give(directory, uid, gid, 0o700)
    for name in root_names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"not a root's name: {name!r}")
        (upper / name).mkdir()
        _give(upper / name, uid, gid, 0o700)
    origins = layer / os.fsdecode(names.ORIGINS)
    origins.touch()
    _give(origins, uid, gid, 0o600)
    _give(layer, uid, gid, 0o700)


def _give(path: Path, uid: int, gid: int, mode: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)
    path.chmod(mode)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _numbered_layers(session: Path) -> list[Path]:
    return [entry for entry in session.glob(f"{_LAYER}.*") if entry.suffix[1:].isdigit()]


def _checked(name: str) -> str:
    if not _ID.fullmatch(name):
        raise ValueError(f"not an id: {name!r}")
    return name
