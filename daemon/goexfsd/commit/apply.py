"""Applying a plan, forward or backward; each operation finds out whether it has been done.

Every rename carries NOREPLACE or EXCHANGE, so nothing is ever overwritten.  If somebody puts
something in the way in the last moment, it is set aside in the staging directory (and saved as a
before-image at the end), never lost.  It knows nothing of how a plan came about.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import replace

from goexfsd import kernel
from goexfsd.commit.before import image_name
from goexfsd.commit.faithful import Meta, copy_data, proc, put_meta, put_times
from goexfsd.commit.faults import fault
from goexfsd.commit.ground import Ground, Lost
from goexfsd.commit.plan import Final, Node, Op, Plan, Slot, loss, path_of
from goexfsd.commit.stage import remove_tree

Progress = Callable[[str, int, int | None], None]
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


class Applier:
    """One run over a plan's operations."""

    def __init__(self, plan: Plan, ground: Ground, before_fd: int, progress: Progress) -> None:
        self._plan, self._ground = plan, ground
        self._before_fd, self._progress = before_fd, progress
        self._aside = 0
        self._closed_last = {final.node for final in plan.finals if final.mode is not None}
        self._forward: dict[str, Callable[[Op], None]] = {
            "widen": self._widen,
            "link": self._link,
            "fill": self._fill,
            "move": self._move,
            "swap": self._swap,
            "attrs": self._set_attrs,
        }
        self._back: dict[str, Callable[[Op], None]] = {
            "widen": self._widen,
            "link": lambda op: None,  # it lies in the staging directory by now
            "fill": self._unfill,
            "move": self._move_back,
            "swap": self._swap_back,
            "attrs": lambda op: None,
        }

    def forward(self) -> None:
        """Carry out what has not been.  Raises OSError or Lost; ``backward`` then undoes it."""
        total = len(self._plan.ops)
        for index, op in enumerate(self._plan.ops):
            fault(f"apply.{op.kind}")
            self._forward[op.kind](op)
            if index % 256 == 0:
                self._progress("apply", index, total)
        fault("apply.end")

    def backward(self) -> None:
        """Take back what has been carried out, latest first."""
        for op in self._plan.ops:
            if op.kind == "widen":
                self._widen(op)
        for op in reversed(self._plan.ops):
            fault(f"back.{op.kind}")
            self._back[op.kind](op)
        for op in self._plan.ops:
            if op.kind == "attrs":  # last: putting bytes back has touched the times
                self._reset_attrs(op)

    # -- names ------------------------------------------------------------------------------

    def _node(self, number: int) -> Node:
        return self._plan.nodes[number]

    def _move(self, op: Op) -> None:
        node = self._node(op.node)
        self._shift(node, op.at, op.at + 1)

    def _move_back(self, op: Op) -> None:
        node = self._node(op.node)
        at = self._ground.where(node)
        if at == op.at + 1:
            self._rename(node.slots[at], node.slots[op.at])

    def _shift(self, node: Node, at: int, to: int) -> None:
        if self._ground.sits(node, at):
            self._rename(node.slots[at], node.slots[to])
            return
        now = self._ground.where(node)
        if now is not None and now >= to:
            return
        if now is None:
            if self._leaves(node):
                return  # somebody deleted what was to be deleted
            raise Lost(node)
        self._rename(node.slots[at], node.slots[to])

    def _leaves(self, node: Node) -> bool:
        """Whether a node ends in a staging directory: it is to be removed or replaced."""
        return bool(node.slots) and node.slots[-1][0] in self._plan.stages and not node.new

    def _rename(self, old: Slot, new: Slot) -> None:
        """A rename that replaces nothing; whoever came in between is set aside."""
        while True:
            old_dir, new_dir = self._ground.two(old, new)
            try:
                kernel.renameat2(old_dir, old[1], new_dir, new[1], kernel.RENAME_NOREPLACE)
                return
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
            self._set_aside(new)

    def _set_aside(self, slot: Slot) -> None:
        stage = self._stage_near(slot[0])
        while True:
            self._aside += 1
            away = stage, b"aside%d" % self._aside
            here, there = self._ground.two(slot, away)
            try:
                kernel.renameat2(here, slot[1], there, away[1], kernel.RENAME_NOREPLACE)
            except FileNotFoundError:
                return  # gone again
            except FileExistsError:
                continue
            return

    def _stage_near(self, directory: int) -> int:
        device = os.fstat(self._ground.directory(directory)).st_dev
        root = self._node(directory).root
        for stage in self._plan.stages:
            if self._node(stage).root == root:
                fd = self._ground.directory(stage)
                if os.fstat(fd).st_dev == device:
                    return stage
        raise FileExistsError(errno.EEXIST, "something appeared in the way")

    def _swap(self, op: Op) -> None:
        node, other = self._node(op.node), self._node(op.other)
        if node.new and op.at == 0 and self._ground.sits(other, op.other_at):
            # The other has not left the place that the new one is to take, so neither has the
            # new one its own, in the staging directory.
            with contextlib.suppress(FileNotFoundError):
                self._exchange(node.slots[op.at], other.slots[op.other_at])
                return
        now = self._ground.where(node)
        if now is None:
            raise Lost(node)
        if now > op.at:
            return
        there = self._ground.look(other.slots[op.other_at])
        if there is None or there.st_ino != other.ino:
            # The other is gone or was replaced: what is there now is set aside.
            self._rename(node.slots[op.at], node.slots[op.at + 1])
            return
        self._exchange(node.slots[op.at], other.slots[op.other_at])

    def _swap_back(self, op: Op) -> None:
        node, other = self._node(op.node), self._node(op.other)
        if self._ground.where(node) != op.at + 1:
            return
        if self._ground.where(other) == op.other_at + 1:
            self._exchange(node.slots[op.at + 1], other.slots[op.other_at + 1])
        else:
            self._rename(node.slots[op.at + 1], node.slots[op.at])

    def _exchange(self, one: Slot, other: Slot) -> None:
        one_dir, other_dir = self._ground.two(one, other)
        kernel.renameat2(one_dir, one[1], other_dir, other[1], kernel.RENAME_EXCHANGE)

    def _link(self, op: Op) -> None:
        node = self._node(op.node)
        if self._ground.where(node) is not None:
            return
        origin = self._node(op.other)
        at = self._ground.where(origin)
        if at is None:
            raise Lost(origin)
        from_dir = os.dup(self._ground.directory(origin.slots[at][0]))
        try:
            to_dir, name = self._ground.at(node.slots[0])
            os.link(
                origin.slots[at][1],
                name,
                src_dir_fd=from_dir,
                dst_dir_fd=to_dir,
                follow_symlinks=False,
            )
        finally:
            os.close(from_dir)

    # -- bytes and attributes ---------------------------------------------------------------

    def _fill(self, op: Op) -> None:
        staged = self._node(op.other)
        directory, name = self._ground.at(staged.slots[0])
        src = kernel.open_beneath(directory, name, os.O_RDONLY)
        self._pour(self._node(op.node), src)

    def _unfill(self, op: Op) -> None:
        image = image_name(self._plan.fills[op.node])
        src = os.open(image, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._before_fd)
        self._pour(self._node(op.node), src)

    def _pour(self, node: Node, src: int) -> None:
        """Copy ``src`` (closed here) into the node's own inode."""
        try:
            dst = self._writable(node)
            try:
                copy_data(src, dst, os.fstat(src).st_size)
            finally:
                os.close(dst)
        finally:
            os.close(src)

    def _writable(self, node: Node) -> int:
        handle = self._ground.handle(node)
        try:
            try:
                return os.open(proc(handle), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            except PermissionError:
                # The owner's own file, read-only in the base: ``attrs`` gives it its mode later.
                os.chmod(proc(handle), stat.S_IMODE(os.fstat(handle).st_mode) | 0o600)
                return os.open(proc(handle), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(handle)

    def _set_attrs(self, op: Op) -> None:
        attrs, node = self._plan.attrs[op.other], self._node(op.node)
        for what in self._dress(node, attrs.new, times=attrs.times and node.type != "dir"):
            self._plan.losses.append(loss(node.root, path_of(self._plan, node.id), what))

    def _reset_attrs(self, op: Op) -> None:
        attrs, node = self._plan.attrs[op.other], self._node(op.node)
        self._dress(node, attrs.old, times=node.type != "dir")

    def _dress(self, node: Node, meta: Meta, *, times: bool) -> list[str]:
        """Give a node its attributes; a directory that gets its mode last stays open for now."""
        if node.id in self._closed_last:
            meta = replace(meta, mode=meta.mode | 0o700)
        handle = self._ground.handle(node)
        try:
            return put_meta(handle, meta, times=times)
        finally:
            os.close(handle)

    def _widen(self, op: Op) -> None:
        handle = self._ground.handle(self._node(op.node))
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            if mode & 0o700 != 0o700:
                os.chmod(proc(handle), mode | 0o700)
        finally:
            os.close(handle)


def reopen(plan: Plan, ground: Ground, *, back: bool) -> None:
    """Give the owner back the rights on directories that ``finish`` may already have closed.

    For a recovery: what lies below them could not be reached.  The uppermost first.
    """
    if os.geteuid() == 0:
        return
    closed = [final for final in plan.finals if final.mode is not None]
    for final in sorted(closed, key=lambda final: _depth(plan, final.node, back)):
        try:
            handle = ground.handle(plan.nodes[final.node])
        except Lost:
            continue
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)
            if mode & 0o700 != 0o700:
                fault("reopen")
                os.chmod(proc(handle), mode | 0o700)
        finally:
            os.close(handle)


def tidy(plan: Plan, ground: Ground) -> None:
    """Remove the staging directories and all that is left in them."""
    for stage in plan.stages:
        home, name = plan.nodes[stage].slots[0]
        ground.forget(stage)
        remove_tree(ground.directory(home), name)


def finish(plan: Plan, ground: Ground, *, back: bool) -> None:
    """Modes and times of directories, once the staging directories are gone."""
    for final in sorted(plan.finals, key=lambda final: -_depth(plan, final.node, back)):
        node = plan.nodes[final.node]
        if (node.new and back) or not (final.kept or back):
            continue
        fault("final")
        try:
            handle = ground.handle(node)
        except Lost:
            continue  # moved away by its owner after the commit was done: times are not worth it
        try:
            _finish_one(final, handle, back)
        finally:
            os.close(handle)


def _finish_one(final: Final, handle: int, back: bool) -> None:
    mode = final.old_mode if back else final.mode
    times = (final.old_atime_ns, final.old_mtime_ns) if back else (final.atime_ns, final.mtime_ns)
    # Times first: a directory without search permission cannot be reached through its path,
    # but its handle can; a changed mode does not touch mtime.
    put_times(handle, *times)
    if mode is not None and stat.S_IMODE(os.fstat(handle).st_mode) != mode:
        os.chmod(proc(handle), mode)


def _depth(plan: Plan, node: int, back: bool) -> int:
    depth = 0
    while plan.nodes[node].slots:
        node = plan.nodes[node].slots[0 if back else -1][0]
        depth += 1
    return depth
