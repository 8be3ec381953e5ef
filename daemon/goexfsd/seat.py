"""The seat of a root: the directory that holds it, where one subvolume takes another's place.

``look`` is what the owner's worker says of it.  Everything else is the daemon's, blocks, and
touches names only with the owner's rights (``kernel.eyes_of``), in directories that it finds by
handle: root follows no path of the user's, and a name that somebody exchanges gains nobody what
the owner could not do.  What is deleted is deleted by its number.

The order in ``exchange`` is what no update is lost by.  First the old subvolume is made
read-only: whoever opens something for writing from then on is refused, none of what was written
before is unseen (it is synced, and the generation compared with that of the snapshot), and who
could write still has a descriptor or a mapping, which ``holders`` finds.  Only then the names
change places.  ``back`` and ``keep`` may be cut off anywhere and be done again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from goexfs.errors import CannotSwitch, CommitFailed, Denied, GoexfsError, Limit
from goexfs.names import display
from goexfsd import holders, kernel
from goexfsd.catalog import CommitRow, SwitchRow
from goexfsd.commit.faults import fault
from goexfsd.commit.plan import STAGE_PREFIX
from goexfsd.store import switching
from goexfsd.worker import Owner, Root, Worker

HINT = "commit without --switch"
_TOP = 256
"""The inode number of every subvolume's own directory."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_COARSE_NS = 20_000_000
"""File times may be this much behind the clock."""


# -- the owner's look --------------------------------------------------------------------------


def look(worker: Worker) -> None:
    """Worker entry: ``{"event": "seat", "parent": descriptor, "top": descriptor}`` of the only
    root, kept open until the daemon is done.  CannotSwitch, Denied where the owner could not
    make the switch."""
    (root,), (top,) = worker.spec.roots, worker.root_fds
    parent = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
    _check_seat(root, top, parent)
    worker.send({"event": "seat", "parent": parent, "top": top})
    with contextlib.suppress(EOFError, OSError):
        worker.conn.recv()


def _check_seat(root: Root, top: int, parent: int) -> None:
    shown, st, me = display(root.path), os.fstat(top), os.geteuid()
    if st.st_ino != _TOP:
        raise refusal(f"{shown} is not the top of a btrfs subvolume")
    bits, mount = kernel.statx_extra(top, b"")
    if bits & kernel.ATTR_MOUNT_ROOT or kernel.statx_extra(parent, b"")[1] != mount:
        raise refusal(f"{shown} is a mount point")
    named = os.stat(Path(root.path).name, dir_fd=parent, follow_symlinks=False)
    if (named.st_dev, named.st_ino) != (st.st_dev, st.st_ino):
        raise refusal(f"{shown} is not where its path says")
    if me not in (0, st.st_uid):
        raise Denied(f"{shown} belongs to somebody else: only its owner may switch it", hint=HINT)
    for fd, what in ((parent, f"the directory that holds {shown}"), (top, shown)):
        if not os.access(f"/proc/self/fd/{fd}", os.W_OK | os.X_OK):
            raise Denied(f"{what} is not writable for you", hint=HINT)


def refusal(why: str, hint: str = HINT) -> CannotSwitch:
    """Of a switch that was not made."""
    return CannotSwitch(f"the commit cannot be one switch: {why}; nothing was changed", hint=hint)


# -- the daemon's part -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a switch is to be made, or was."""

    store: Path
    owner: Owner
    path: str
    """The root's."""
    row: SwitchRow

    @classmethod
    def of(cls, store: Path, commit: CommitRow, row: SwitchRow) -> Seat:
        """Of a commit that is over, for what needs no rights of the owner's."""
        return cls(store, Owner(commit.uid, 0, ()), commit.roots[0], row)

    @contextlib.contextmanager
    def open(self, handle: str) -> Iterator[int]:
        """A directory of the store's file system by its handle."""
        mount = os.open(self.store, _DIRECTORY)
        try:
            fd = kernel.open_handle(mount, handle, _DIRECTORY)
        finally:
            os.close(mount)
        try:
            yield fd
        finally:
            os.close(fd)

    @property
    def hidden_path(self) -> str:
        """Where the new subvolume is before the switch."""
        return str(Path(self.path).with_name(self.row.hidden))

    # -- before ------------------------------------------------------------------------------

    def prepare(self) -> Seat:
        """Make the new subvolume, a snapshot of the old one, beside it."""
        with told("prepared"), self.open(self.row.parent) as parent, self.open(self.row.old) as old:
            with self._eyes():
                switching.snapshot(old, parent, self.row.hidden)
            fault("switch.made")
            fd = kernel.open_beneath(parent, os.fsencode(self.row.hidden), _DIRECTORY)
            try:
                new = switching.look(fd)
                fsid = os.fstatvfs(fd).f_fsid
            finally:
                os.close(fd)
        row = replace(self.row, new_number=new.number, new_fsid=fsid, generation=new.generation)
        return replace(self, row=row)

    def device(self) -> int:
        """The new subvolume's."""
        with self.open(self.row.parent) as parent:
            return os.stat(self.row.hidden, dir_fd=parent, follow_symlinks=False).st_dev

    def holders(self, *, writers: bool) -> list[holders.Holder]:
        """Who stands, or only who writes, in the old subvolume."""
        with self.open(self.row.old) as old:
            device, file_system = os.fstat(old).st_dev, holders.file_system_of(old)
        return holders.inside(device, file_system, (os.getpid(),), writers=writers)

    def check_mounts(self) -> None:
        """CannotSwitch if the old subvolume is mounted, or something on or in it, for anybody."""
        with self.open(self.row.old) as old:
            file_system = holders.file_system_of(old)
        where = switching.where(self.store, self.row.old_number)
        found = None if where is None else holders.mounted(file_system, f"/{where}")
        if where is None or found is not None:
            raise refusal(f"of {display(self.path)}, {found or 'nothing is left'}")

    # -- the switch --------------------------------------------------------------------------

    def exchange(self, check: Callable[[], None]) -> bool:
        """Let the two change places; False if somebody wrote in the old one since the snapshot.

        ``check`` is called when nobody can begin to write any more, and raises what stands in the
        way.  Whatever raises, nothing is changed, but where it says otherwise; else the switch is
        durable.  That it was to be frozen has to be on record before.
        """
        assert self.row.frozen_ns
        with told("made"), self.open(self.row.parent) as parent, self.open(self.row.old) as old:
            if self._moved(old):
                return False
            done = False
            try:
                fault("switch.freeze")
                switching.freeze(old, on=True)
                fault("switch.frozen")
                if self._moved(old):
                    return False
                check()
                fault("switch.exchange")
                self._exchange(parent, old)
                done = True
            finally:
                if not done:
                    switching.freeze(old, on=False)
                    switching.sync(self.store)
        fault("switch.exchanged")
        try:
            switching.sync(self.store)
        except OSError as error:
            raise CommitFailed(
                f"the switch was made, but may not be on disk ({error.strerror})",
                hint="look at the kernel log (dmesg), then restart goexfsd",
            ) from error
        return True

    def _moved(self, old: int) -> bool:
        switching.sync(self.store)
        return switching.look(old).generation != self.row.generation

    def _exchange(self, parent: int, old: int) -> None:
        name, hidden = os.fsencode(self.row.name), os.fsencode(self.row.hidden)
        with self._eyes():
            here = Path(self.path).lstat()
            if (here.st_dev, here.st_ino) != (os.fstat(old).st_dev, _TOP):
                raise refusal(f"another directory is at {display(self.path)} by now")
            kernel.renameat2(parent, name, parent, hidden, kernel.RENAME_EXCHANGE)
        if not self.done():  # somebody else exchanged names in that very moment
            with self._eyes():
                kernel.renameat2(parent, name, parent, hidden, kernel.RENAME_EXCHANGE)
            raise refusal(f"another directory was put at {display(self.path)}")

    def done(self) -> bool:
        """Whether the two have changed places, however far it came after that."""
        if not self.row.new_number:
            return False
        old = switching.where(self.store, self.row.old_number)
        if old is not None:
            return _leaf(old) == self.row.hidden or self._kept(old)
        new = switching.where(self.store, self.row.new_number)
        return new is not None and _leaf(new) != self.row.hidden

    def _kept(self, at: str) -> bool:
        """Whether the old tree is in the commit's directory."""
        cid = self.row.hidden.removeprefix(os.fsdecode(STAGE_PREFIX))
        return f"/{at}".endswith(f"/commits/{cid}/{switching.WHOLE}")

    # -- after -------------------------------------------------------------------------------

    def back(self) -> None:
        """As if it had never been begun; durable.  CommitFailed if it has been made."""
        row = self.row
        if self.done():
            raise CommitFailed("the switch has been made", hint="restart goexfsd: it finishes it")
        numbers = [row.new_number] if row.new_number else []
        numbers += switching.named(self.store, row.hidden, row.old_uuid) if not numbers else []
        if row.frozen_ns:
            with _unless_gone(), self.open(row.old) as old:
                fault("switch.thaw")
                switching.freeze(old, on=False)
        for number in numbers:
            fault("switch.remove")
            switching.remove(self.store, number)
        switching.sync(self.store)

    def keep(self, commit: Path) -> str | None:
        """Move the old tree to the commit's directory, read-only; durable.  Returns where it is.

        Where it cannot be moved it stays beside the root, below its hidden name; None: it is gone.
        """
        at = switching.where(self.store, self.row.old_number)
        if at is None:
            return None
        with self.open(self.row.old) as old:
            if not self._kept(at):
                with contextlib.suppress(OSError):
                    self._move(old, commit)
            switching.freeze(old, on=True)
        switching.sync(self.store)
        fault("switch.kept")
        at = switching.where(self.store, self.row.old_number) or ""
        return str(commit / switching.WHOLE) if self._kept(at) else self.hidden_path

    def _move(self, old: int, commit: Path) -> None:
        """A read-only subvolume cannot leave its directory: it is thawed for that moment."""
        target = os.open(commit, _DIRECTORY)
        try:
            with self.open(self.row.parent) as parent:
                hidden, whole = os.fsencode(self.row.hidden), os.fsencode(switching.WHOLE)
                fault("switch.thawed")
                switching.freeze(old, on=False)
                with self._eyes():
                    kernel.renameat2(parent, hidden, target, whole, kernel.RENAME_NOREPLACE)
                fault("switch.moved")
                if not self._kept(switching.where(self.store, self.row.old_number) or ""):
                    kernel.renameat2(target, whole, parent, hidden, kernel.RENAME_NOREPLACE)
        finally:
            os.close(target)

    def late(self) -> int:
        """How many entries of the old tree somebody changed after the last look at it."""
        with contextlib.ExitStack() as stack:
            try:
                old = stack.enter_context(self.open(self.row.old))
            except OSError:
                return 0
            switching.sync(self.store)
            if switching.look(old).generation == self.row.generation:
                return 0
            return max(1, _changed_since(old, self.row.frozen_ns - _COARSE_NS))

    def drop(self) -> None:
        """The old tree is not wanted any more, where it stayed beside the root."""
        at = switching.where(self.store, self.row.old_number)
        if at is not None and _leaf(at) == self.row.hidden:
            switching.remove(self.store, self.row.old_number)
            switching.sync(self.store)

    def _eyes(self) -> contextlib.AbstractContextManager[None]:
        return kernel.eyes_of(self.owner.uid, self.owner.gid, self.owner.groups)


def survey(store: Path, path: str, hidden: str, parent: int, top: int) -> SwitchRow:
    """What the daemon finds of a seat that ``look`` led to; CannotSwitch."""
    with told("looked at"):
        why = switching.obstacle(store, top)
        if why is not None:
            raise refusal(f"of {display(path)}, {why}")
        old = switching.look(top)
        return SwitchRow(
            parent=kernel.handle_of(parent),
            name=Path(path).name,
            hidden=hidden,
            old=kernel.handle_of(top),
            old_number=old.number,
            old_uuid=old.uuid,
            old_fsid=os.fstatvfs(top).f_fsid,
        )


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of the body before the switch, as a user is told them."""
    try:
        yield
    except GoexfsError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Limit(f"no room for the switch ({reason}); nothing was changed") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Denied(f"the switch was refused ({reason}); nothing was changed") from error
        if error.errno in (errno.ETXTBSY, errno.EBUSY, errno.EXDEV, errno.ENOENT):
            raise refusal(f"it could not be {what} ({reason})") from error
        why = f"the switch could not be {what} ({reason}); nothing was changed"
        raise CommitFailed(why) from error


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise


def _leaf(path: str) -> str:
    return path.rpartition("/")[2]


def _changed_since(top: int, moment_ns: int) -> int:
    count = 0
    for _, _, files, fd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
        for name in files:
            with contextlib.suppress(OSError):
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
                count += stat.S_ISREG(st.st_mode) and st.st_ctime_ns >= moment_ns
    return count
