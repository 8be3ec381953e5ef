"""The writing side of a layer: records, whiteouts, markers, and the work directory.

Everything is relative to directory descriptors of the layer.  A record is appended before the
entry that it announces comes into place.  What is built in ``work`` gets a unique name and is
renamed into place; what a crash left there is swept when the layer is opened.

It runs as the session's owner, who may lack rights on upper directories that are copies of
read-only ones: ``widened`` lends them for a moment.  It knows nothing of FUSE or of the base.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from goexfsd import kernel
from goexfsd.layer.format import INDEX, OPAQUE, ORIGINS, REDIRECT, UPPER, WORK, owner_needs
from goexfsd.layer.ledger import Key, Ledger
from goexfsd.layer.originals import Keeper
from goexfsd.layer.origins import NOTHING, Identity, Kind, Record, encode, load
from goexfsd.layer.quota import Quota
from goexfsd.layer.reads import ReadLog

_SHARED = 64
"""Whiteouts that are names of one inode."""
_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fd_path(fd: int) -> bytes:
    """A path to what a descriptor refers to, for calls that take no descriptor."""
    return b"/proc/self/fd/%d" % fd


def in_dir(dir_fd: int, name: bytes) -> bytes:
    """A path to ``name`` below a directory descriptor; use it without following symlinks."""
    return b"/proc/self/fd/%d/%s" % (dir_fd, name)


class Layer:
    """One open layer."""

    def __init__(self, fd: int, root_names: Sequence[bytes], root_devs: Sequence[int]) -> None:
        """``fd`` is the layer's directory and becomes ours."""
        self.fd = fd
        self.privileged = os.geteuid() == 0
        self.step = 0
        self.upper_fd = os.open(UPPER, _DIR, dir_fd=fd)
        self.root_names = list(root_names)
        self.work_fd = os.open(WORK, _DIR, dir_fd=fd)
        self.index_fd = os.open(INDEX, _DIR, dir_fd=fd)
        records, good = load(fd, ORIGINS)
        self.ledger = Ledger(root_devs, records)
        self.log_fd = os.open(
            ORIGINS,
            os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=fd,
        )
        if os.fstat(self.log_fd).st_size > good:  # a torn end announced nothing
            os.ftruncate(self.log_fd, good)
        self.changes = 0
        """Operations that changed the layer since it was opened."""
        self.quota: Quota | None = None
        """What it may grow by, where that is limited."""
        self.originals = Keeper(fd)
        self.reads = ReadLog(fd, self.ledger.root_devs)
        self._sweeper: ThreadPoolExecutor | None = None
        self._swept: deque[Future[None]] = deque()
        self._serial = 0
        self._mark = os.urandom(6).hex().encode()
        self.dev = os.fstat(fd).st_dev
        self._passed = False
        self._white, self._white_left = -1, 0
        """The last whiteout, and how many further names its inode may get."""
        sweep(self.work_fd)

    def pass_over_the_dead(self) -> None:
        """Before the first new entry: btrfs goes on behind the highest inode number that there is
        when a subvolume is loaded, so those of deleted entries come again, and records still speak
        of them.  Use them up.  (Not sooner: it changes the layer, which may be all as it was.)"""
        if self._passed:
            return
        self._passed = True
        name, highest = self.unique(), self.ledger.highest
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # a full store: nothing can be made in it anyway
            number = 0
            while number <= highest:
                fd = os.open(name, flags, 0o600, dir_fd=self.work_fd)
                number = os.fstat(fd).st_ino
                os.close(fd)
                os.unlink(name, dir_fd=self.work_fd)

    def close(self) -> None:
        self.drain()
        self._drop_white()
        if self._sweeper is not None:
            self._sweeper.shutdown()
        self.originals.close()
        self.reads.close()
        for fd in (self.upper_fd, self.work_fd, self.index_fd, self.log_fd, self.fd):
            os.close(fd)

    # -- records ---------------------------------------------------------------------------

    def record(
        self, kind: Kind, root: int, upper_ino: int, path: bytes, identity: Identity
    ) -> None:
        """Append one record; a short write (full store) is undone and raised."""
        entry = Record(kind, root, self.step, upper_ino, path, identity)
        data = encode(entry)
        if self.quota is not None:
            self.quota.record(len(data))
        written = os.write(self.log_fd, data)
        if written != len(data):
            os.ftruncate(self.log_fd, os.fstat(self.log_fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.ledger.add(entry)

    def identity(self, root: int, st: os.stat_result) -> Identity:
        """The identity of a base entry, as records hold it."""
        return Identity.of(st, self.ledger.root_devs[root])

    def keep_original(
        self, root: int, identity: Identity, src: int, data: bytes | None = None
    ) -> None:
        """Keep the bytes of the base file ``src`` for a merge, where it is small; ``data`` are
        these bytes, if they are known to be."""
        kept = self.originals.keep(root, identity, src, data)
        if kept and self.quota is not None:
            self.quota.spend(kept)

    def write_back(self) -> None:
        """Write what the logs that may lose something still hold in memory; a checkpoint may
        follow."""
        self._drop_white()
        self.originals.flush()
        self.reads.flush()

    def sync_records(self) -> None:
        """Make the log durable: before anything that it speaks of is said to be."""
        os.fdatasync(self.log_fd)

    # -- work ------------------------------------------------------------------------------

    def unique(self) -> bytes:
        """A fresh name in the work directory."""
        self.pass_over_the_dead()
        self._serial += 1
        return b"%s.%x" % (self._mark, self._serial)

    def discard(self, name: bytes) -> None:
        """Remove what was built in the work directory under ``name``."""
        remove_tree(self.work_fd, name)

    def discard_later(self, name: bytes) -> None:
        """The same in a thread, for a directory may hold many whiteouts.

        What cannot be removed is swept when the layer is opened next.
        """
        if self._sweeper is None:
            self._sweeper = ThreadPoolExecutor(1, "sweeper")
        self._swept.append(self._sweeper.submit(remove_tree, self.work_fd, name))
        while self._swept and self._swept[0].done():
            self._swept.popleft()

    def drain(self) -> None:
        """Wait until all that was to be discarded is gone."""
        if self._swept:
            wait(self._swept)
            self._swept.clear()

    def discard_at(self, dir_fd: int, name: bytes) -> None:
        """Remove a plain entry of the layer that may not be there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=dir_fd)

    # -- markers ---------------------------------------------------------------------------

    def whiteout(self, dir_fd: int, name: bytes) -> None:
        """Hide the base entry ``name``, where the upper directory has no entry.

        Whiteouts that are made one after another are names of one inode, as the kernel's
        overlayfs does it: making and removing a name is half the work of making and removing
        an inode.  Few enough share one, so that what changes one does not make many look new.
        """
        if self._white_left > 0:
            try:
                kernel.linkat_fd(self._white, dir_fd, name)
            except FileNotFoundError:
                pass  # all of its names are gone
            else:
                self._white_left -= 1
                return
        os.mknod(name, stat.S_IFCHR | 0o000, 0, dir_fd=dir_fd)
        self._drop_white()
        with contextlib.suppress(OSError):
            self._white = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            self._white_left = _SHARED - 1

    def _drop_white(self) -> None:
        """No further whiteout is to be a name of the last one's inode."""
        if self._white >= 0:
            os.close(self._white)
        self._white, self._white_left = -1, 0

    def set_opaque(self, dir_fd: int, name: bytes) -> None:
        os.setxattr(in_dir(dir_fd, name), OPAQUE, b"y", follow_symlinks=False)

    def set_redirect(self, dir_fd: int, name: bytes, lower: bytes) -> None:
        """Let the upper directory show the base directory ``lower`` wherever it is moved."""
        os.setxattr(in_dir(dir_fd, name), REDIRECT, b"/" + lower, follow_symlinks=False)

    def markers(self, dir_fd: int, name: bytes) -> tuple[bool, bytes | None]:
        """Whether an upper directory is opaque, and where it is redirected to."""
        path = in_dir(dir_fd, name)
        if _xattr(path, OPAQUE) == b"y":
            return True, None
        redirect = _xattr(path, REDIRECT)
        return False, None if redirect is None else redirect.lstrip(b"/")

    def take_away(self, dir_fd: int, name: bytes, *, leave_whiteout: bool) -> bytes:
        """Move an upper entry into the work directory, atomically leaving a whiteout or
        nothing; returns its name there."""
        tmp = self.unique()
        flags = kernel.RENAME_WHITEOUT if leave_whiteout else kernel.RENAME_NOREPLACE
        try:
            kernel.renameat2(dir_fd, name, self.work_fd, tmp, flags)
        except OSError as error:
            if error.errno != errno.EINVAL or not leave_whiteout:
                raise
            # A file system without RENAME_WHITEOUT: swap a whiteout in.
            self.whiteout(self.work_fd, tmp)
            kernel.renameat2(dir_fd, name, self.work_fd, tmp, kernel.RENAME_EXCHANGE)
        return tmp

    # -- hard links --------------------------------------------------------------------------

    def index_name(self, key: Key) -> bytes:
        """The name below ``index`` for the copy of a base file with several names."""
        root, dev, ino = key
        return b"%d-%x-%x" % (root, 0 if dev == self.ledger.root_devs[root] else dev, ino)

    def indexed(self, key: Key) -> os.stat_result | None:
        """The copy of a base file with several names, if there is one."""
        if key not in self.ledger.copied:
            return None
        try:
            return os.stat(self.index_name(key), dir_fd=self.index_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    # -- rights ------------------------------------------------------------------------------

    def stand(self, root: int, dir_fd: int, name: bytes, asked: int = 0o7777) -> None:
        """Give the owner lasting rights on an upper entry whose mode withholds them.

        A MODE record says what the view shows: the mode on disk without the owner's bits that
        are not in ``asked``.  An entry that needs no record (any more) has none afterwards.
        """
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        needs = 0 if self.privileged else owner_needs(st.st_mode)
        true = st.st_mode & (asked | ~0o700)
        if needs & ~true == 0:
            if st.st_ino in self.ledger.modes:
                self.return_mode(root, st.st_ino)
            return
        self.lend_mode(root, st.st_ino, true)
        if needs & ~st.st_mode:
            os.chmod(name, stat.S_IMODE(st.st_mode) | needs, dir_fd=dir_fd)

    @contextlib.contextmanager
    def widened(self, root: int, places: Sequence[tuple[int, bytes]]) -> Iterator[None]:
        """Give the owner full rights on upper entries (directory, name) for a moment.

        A MODE record announces it and another ends it, so that a crash in between does not
        change what the view shows.
        """
        undo: list[tuple[int, bytes, int, int]] = []
        try:
            for dir_fd, name in places:
                st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                mode = stat.S_IMODE(st.st_mode)
                wanted = mode | (0o700 if stat.S_ISDIR(st.st_mode) else 0o600)
                if mode == wanted or stat.S_ISLNK(st.st_mode):
                    continue
                self.lend_mode(root, st.st_ino, st.st_mode)
                undo.append((dir_fd, name, st.st_ino, mode))
                os.chmod(name, wanted, dir_fd=dir_fd)
            yield
        finally:
            for dir_fd, name, ino, mode in reversed(undo):
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(name, mode, dir_fd=dir_fd)
                self.return_mode(root, ino)

    def lend_mode(self, root: int, upper_ino: int, mode: int) -> None:
        """Announce that the mode of an upper inode is about to be wider than ``mode``."""
        self.record(Kind.MODE, root, upper_ino, b"", replace(NOTHING, mode=mode))

    def return_mode(self, root: int, upper_ino: int) -> None:
        """The mode on disk is the true one again."""
        self.record(Kind.MODE, root, upper_ino, b"", NOTHING)


def _xattr(path: bytes, name: bytes) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def sweep(dir_fd: int) -> None:
    """Empty a directory."""
    for name in _names(dir_fd):
        remove_tree(dir_fd, name)


def _names(dir_fd: int) -> list[bytes]:
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def remove_tree(dir_fd: int, name: bytes) -> None:
    """Remove an entry of the layer with everything below it (whiteouts, mostly)."""
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    try:
        os.rmdir(name, dir_fd=dir_fd)
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
    with contextlib.suppress(PermissionError):
        os.chmod(name, 0o700, dir_fd=dir_fd)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        for child in os.listdir(fd):
            remove_tree(fd, os.fsencode(child))
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)


def upper_name(dir_fd: int, name: bytes) -> os.stat_result | None:
    """An upper entry's status, whiteouts included; None if there is none."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
