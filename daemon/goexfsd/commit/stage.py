"""Staging: everything new is built in hidden directories on the base's own file systems.

A staging directory is ``.goexfs-stage-<commit>`` (mode 0700) in the uppermost directory that can
hold it; where they are is recorded before the first is made, so that recovery finds them.  New
trees are built whole, with their attributes; nothing that a user can see changes.
``remove_stages`` takes it all away again and gives the directories around their times back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from goexfs.errors import Denied
from goexfs.names import display
from goexfsd import kernel
from goexfsd.commit import intent
from goexfsd.commit.base import GONE, Base
from goexfsd.commit.draft import Blueprint, Contents, Staged
from goexfsd.commit.faithful import (
    HANDLE,
    Meta,
    copy_new,
    dress_new,
    put_meta,
    put_times,
    raw,
    text,
    write_at,
)
from goexfsd.commit.faults import fault
from goexfsd.commit.ground import Ground
from goexfsd.commit.places import join, leaf, parent
from goexfsd.commit.plan import Node, Plan, loss
from goexfsd.commit.preflight import exchange_works
from goexfsd.layer.origins import Identity

Progress = Callable[[str, int, int | None], None]


def stage(
    blueprint: Blueprint,
    ground: Ground,
    base: Base,
    source: Contents,
    before_fd: int,
    progress: Progress,
) -> None:
    """Build everything; nodes get their inode numbers, the plan its losses.  ``sync`` follows."""
    plan = blueprint.plan
    _announce(plan, blueprint, base, before_fd)
    for node_id in plan.stages:
        _make_stage(plan.nodes[node_id], ground)
    builder = _Stager(plan, ground, source)
    for index, item in enumerate(blueprint.staged):
        fault("stage.entry")
        builder.make(item)
        if index % 256 == 0:
            progress("stage", index, len(blueprint.staged))
    builder.close_directories()


def sync(plan: Plan, ground: Ground) -> None:
    """Everything that was done in the base is durable; OSError if it cannot be."""
    sync_all(ground.directory(plan.nodes[node_id].slots[0][0]) for node_id in plan.stages)


def sync_all(directories: Iterable[int]) -> None:
    """Sync the file system of each directory (O_PATH descriptors do), once."""
    done: set[int] = set()
    for directory in directories:
        device = os.fstat(directory).st_dev
        if device not in done:
            done.add(device)
            _sync_one(directory)


def _sync_one(directory: int) -> None:
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        os.sync()  # its owner may not read it: it cannot be opened, but all can be synced
        return
    try:
        kernel.syncfs(fd)
    finally:
        os.close(fd)


def _announce(plan: Plan, blueprint: Blueprint, base: Base, before_fd: int) -> None:
    lines = []
    for node_id in plan.stages:
        home, name = plan.nodes[node_id].slots[0]
        root, path = plan.nodes[home].root, blueprint.base_paths[home]
        st = base.lstat(root, path)
        times = [st.st_atime_ns, st.st_mtime_ns]
        lines.append({"root": root, "home": text(path), "name": text(name), "times": times})
    intent.write(before_fd, intent.STAGES, lines)
    fault("stage.announced")


def _make_stage(node: Node, ground: Ground) -> None:
    directory, name = ground.at(node.slots[0])
    os.mkdir(name, 0o700, dir_fd=directory)
    fault("stage.made")
    fd = kernel.open_beneath(directory, name, os.O_PATH | os.O_DIRECTORY)
    try:
        st = os.fstat(fd)
        # What is built inside must inherit neither a default ACL nor a set-gid group.
        put_meta(fd, Meta.of(st, {}), times=False)
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
        node.ino = st.st_ino
        exchange_works(fd)
    finally:
        os.close(fd)


class _Stager:
    def __init__(self, plan: Plan, ground: Ground, source: Contents) -> None:
        self._plan, self._ground, self._source = plan, ground, source
        self._directories: list[tuple[Staged, Meta]] = []

    def make(self, item: Staged) -> None:
        node = self._plan.nodes[item.node]
        directory, name = self._ground.at(node.slots[0])
        if item.link_to is None and item.type == "file":
            st = self._file(item, directory, name)
        else:
            if item.link_to is not None:
                self._link(item.link_to, directory, name)
            else:
                self._other(item, directory, name)
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
        node.ino = st.st_ino
        if not stat.S_ISDIR(st.st_mode):
            node.was = Identity.of(st, st.st_dev)

    def _link(self, link_to: int, directory: int, name: bytes) -> None:
        from_dir, from_name = self._ground.at(self._plan.nodes[link_to].slots[0])
        os.link(from_name, name, src_dir_fd=from_dir, dst_dir_fd=directory, follow_symlinks=False)

    def _file(self, item: Staged, directory: int, name: bytes) -> os.stat_result:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        src = self._source.data(item.content)
        try:
            meta = None if item.bytes_only else self._source.meta(item.content)
            mode = 0o600 if meta is None else meta.mode & 0o777
            dst = os.open(name, flags, mode, dir_fd=directory)
            try:
                if isinstance(src, bytes):
                    write_at(dst, src, 0)
                else:
                    copy_new(src, dst, os.fstat(src))
                if meta is None:
                    return os.fstat(dst)
                lost, st = dress_new(dst, meta)
                self._note(item, lost)
                return st
            finally:
                os.close(dst)
        finally:
            if not isinstance(src, bytes):
                os.close(src)

    def _other(self, item: Staged, directory: int, name: bytes) -> None:
        meta = self._source.meta(item.content)
        if item.type == "dir":
            os.mkdir(name, 0o700, dir_fd=directory)
            self._directories.append((item, meta))
            return
        if item.type == "symlink":
            assert meta.target is not None
            os.symlink(meta.target, name, dir_fd=directory)
        else:
            try:
                os.mknod(name, stat.S_IFMT(meta.mode) | 0o600, meta.rdev, dir_fd=directory)
            except PermissionError as error:
                shown = display(item.path)
                raise Denied(f"{shown} is a device: only root can commit it") from error
        fd = kernel.open_beneath(directory, name, HANDLE)
        try:
            self._note(item, put_meta(fd, meta))
        finally:
            os.close(fd)

    def close_directories(self) -> None:
        """Attributes of new directories, once nothing more is put into them."""
        later = {final.node: final for final in self._plan.finals}
        for item, meta in reversed(self._directories):
            node = self._plan.nodes[item.node]
            fd = kernel.open_beneath(*self._ground.at(node.slots[0]), os.O_PATH | os.O_DIRECTORY)
            try:
                self._note(item, put_meta(fd, meta))
                final = later.get(node.id)
                if final is not None and final.mode is not None:
                    os.chmod(f"/proc/self/fd/{fd}", final.mode | 0o700)
            finally:
                os.close(fd)

    def _note(self, item: Staged, lost: Iterable[str]) -> None:
        for what in lost:
            self._plan.losses.append(loss(item.root, item.path, what))


# -- taking it away ---------------------------------------------------------------------------


def remove_stages(root_fds: list[int], before_fd: int, *, times: bool) -> None:
    """Remove every announced staging directory, there or not; ``times``: nothing else was done,
    so the directories that held them get their times back.  Durable: afterwards the commit may
    be forgotten, and nobody would look for them again."""
    homes: list[int] = []
    try:
        for line in intent.read(before_fd, intent.STAGES) or []:
            try:
                home = kernel.open_dir_beneath(root_fds[line["root"]], raw(line["home"]))
            except OSError as error:
                if error.errno in GONE:
                    continue
                raise
            homes.append(home)
            remove_tree(home, raw(line["name"]))
            if times:
                put_times(home, *line["times"])
        fault("back.sync")
        sync_all(homes)
    finally:
        for home in homes:
            os.close(home)


def remove_tree(directory: int, name: bytes) -> None:
    """Remove a directory and all below it, of any depth; nothing there is fine.

    Directories are reopened by path from the top, so that depth costs no descriptors.
    """
    try:
        top = kernel.open_beneath(directory, name, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        below = [b""]
        for path in below:  # grows while it is read: parents before children
            below += _unlink_files(top, path)
        for path in reversed(below[1:]):
            fault("tidy.directory")
            parent_fd = kernel.open_dir_beneath(top, parent(path))
            try:
                os.rmdir(leaf(path), dir_fd=parent_fd)
            finally:
                os.close(parent_fd)
    finally:
        os.close(top)
    fault("tidy.stage")
    os.rmdir(name, dir_fd=directory)


def _unlink_files(top: int, path: bytes) -> list[bytes]:
    """Remove what is no directory from ``path``; returns the directories in it."""
    fd = kernel.open_dir_beneath(top, path)
    try:
        st = os.fstat(fd)
        if st.st_uid == os.geteuid() and st.st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        found = []
        for name, is_directory in named(fd):
            if is_directory:
                found.append(join(path, name))
                continue
            fault("tidy.file")
            os.unlink(name, dir_fd=fd)
        return found
    finally:
        os.close(fd)


def named(fd: int) -> list[tuple[bytes, bool]]:
    """(name, whether it is a directory) of everything in a directory."""
    reader = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        with os.scandir(reader) as entries:
            return [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
    finally:
        os.close(reader)


def listing(fd: int) -> list[tuple[bytes, os.stat_result]]:
    """(name, lstat) of everything in a directory."""
    reader = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        names = [os.fsencode(name) for name in os.listdir(reader)]
    finally:
        os.close(reader)
    return [(name, os.stat(name, dir_fd=fd, follow_symlinks=False)) for name in names]
