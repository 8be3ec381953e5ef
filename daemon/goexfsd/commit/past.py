"""A commit that is done, as an undo reads it: its plan, its before-images, what it left.

Undoing a commit gives entries new inodes, so what an earlier commit left is not what is there
any more, though it is the same to its user.  Every undo therefore records what each of its
entries *stands for*; ``Tracer`` follows that, over all undos since, from the identity that a
commit left to the one that may be there now.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from goexfs.errors import Denied, InvalidState, NotFound, StoreFailed
from goexfs.names import display
from goexfsd.commit import intent, outcome
from goexfsd.commit.before import PACK, Saved, image_name
from goexfsd.commit.conflicts import differs_from
from goexfsd.commit.faithful import Meta, raw
from goexfsd.commit.outcome import Left, in_place
from goexfsd.commit.places import Place
from goexfsd.commit.plan import Node, Plan, RootMark, parse, path_of
from goexfsd.layer.origins import Identity

Heirs = Mapping[int, int]
"""The fsid of a root in a record -> the one that the root has since it was switched."""


@dataclass(frozen=True, slots=True)
class Image:
    """One before-image: attributes, and the file with its bytes."""

    root: int
    path: bytes
    meta: Meta
    file: bytes | None
    """Its name; None if there are no bytes, or if they lie in the pack."""
    nlink: int = 1
    late: bool = False
    """Somebody changed it in the very last moment: it is newer than what the commit checked."""
    packed: tuple[int, int] | None = None
    """(offset, length) in the pack."""


class Past:
    """A done commit.  Raises InvalidState if it cannot be undone (any more)."""

    def __init__(self, commit_fd: int, heirs: Heirs | None = None) -> None:
        self._fd, self._pack = commit_fd, -1
        lines = intent.read(commit_fd, intent.PLAN)
        left = outcome.left(commit_fd)
        images = intent.read(commit_fd, intent.IMAGES)
        if lines is None or left is None or images is None:
            raise InvalidState("the commit cannot be undone: its records are not complete")
        self.plan: Plan = _inherited(parse(lines), heirs)
        self.now = {each.node: each.now for each in left}
        self.here: dict[int, Node] = {node.id: node for node in in_place(self.plan)}
        """Nodes that are in the base."""
        self.gone: dict[int, Node] = {
            node.id: node
            for node in self.plan.nodes
            if node.id not in self.here and not node.new and node.slots
        }
        """Base entries that the commit removed or replaced."""
        self._images: dict[int, Image] = {}
        self._late = self._read_late()
        self._lines: dict[tuple[Place, str], Saved] = {
            ((row[0], raw(row[1])), row[2]): Saved(*row) for row in intent.unrow(images, "images")
        }

    def _read_late(self) -> dict[tuple[int, int], dict[str, Any]]:
        lines = intent.read(self._fd, intent.APPLIED) or []
        late = [line["late"] for line in lines if "late" in line]
        return {(line["root"], line["ino"]): line for line in late}

    def gone_image(self, node: Node) -> Image:
        """What an entry was that the commit took away, in its very last state."""
        known = self._images.get(node.id)
        if known is None:
            known = self._images[node.id] = self._gone_image(node)
        return known

    def _gone_image(self, node: Node) -> Image:
        path = path_of(self.plan, node.id, old=True)
        line = self._line(node.root, path, "gone")
        late = self._late.get((node.root, line.ino))
        meta = Meta.from_json(line.meta if late is None else late["meta"])
        file = packed = None
        if stat.S_ISREG(meta.mode):
            label = line.image if late is None else late["image"]
            if label is None:
                raise Denied(
                    f"{display(path)} cannot be brought back: it could not be read when it was "
                    "removed"
                )
            if isinstance(label, list):
                packed = label[0], label[1]
            else:
                file = image_name(label) if isinstance(label, int) else os.fsencode(label)
        changed = late is not None and late["changed"]
        return Image(node.root, path, meta, file, line.nlink, changed, packed)

    def filled_image(self, node: Node) -> Image:
        """What bytes a file had that the commit filled anew."""
        path = path_of(self.plan, node.id, old=True)
        meta = Meta.from_json(self._line(node.root, path, "filled").meta)
        return Image(node.root, path, meta, image_name(self.plan.fills[node.id]))

    def _line(self, root: int, path: bytes, role: str) -> Saved:
        line = self._lines.get(((root, path), role))
        if line is None:
            raise StoreFailed(f"the commit has no before-image of {display(path)}")
        return line

    # -- as a source of staged things (``draft.Contents``) -----------------------------------

    def meta(self, image: Image) -> Meta:
        return image.meta

    def data(self, image: Image) -> int | bytes:
        try:
            return self._open(image.file) if image.packed is None else self._unpack(*image.packed)
        except FileNotFoundError as error:
            raise NotFound(f"the before-image of {display(image.path)} is gone") from error

    def _open(self, name: bytes | None) -> int:
        assert name is not None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._fd)

    def _unpack(self, offset: int, length: int) -> bytes:
        if not length:
            return b""  # where all were empty there is no pack
        if self._pack < 0:
            self._pack = self._open(PACK)
        data = os.pread(self._pack, length, offset)
        if len(data) != length:
            raise StoreFailed("the before-images of the commit are cut off")
        return data

    def close(self) -> None:
        """Close what was opened on the way."""
        if self._pack >= 0:
            os.close(self._pack)
            self._pack = -1

    def room(self, image: Image) -> int:
        """Bytes on disk of an image's data."""
        if image.packed is not None:
            return image.packed[1]
        if image.file is None:
            return 0
        return os.stat(image.file, dir_fd=self._fd).st_blocks * 512


def _inherited(plan: Plan, heirs: Heirs | None) -> Plan:
    """The plan with the roots as they are called by now.  A switch leaves every entry that the
    commit did not touch the identity that it had, so what is said of the roots holds on."""
    if heirs:
        plan.roots = [replace(mark, fsid=heirs.get(mark.fsid, mark.fsid)) for mark in plan.roots]
    return plan


_Device = tuple[int, int]
_Key = tuple[_Device, int]


class Tracer:
    """Follows identities over undos, oldest first."""

    def __init__(self, undos: Iterable[int], heirs: Heirs | None = None) -> None:
        self._links: list[dict[_Key, tuple[Identity, Identity]]] = []
        for fd in undos:
            lines, left = intent.read(fd, intent.PLAN), outcome.left(fd)
            if lines is not None and left is not None:
                self._links.append(_links(_inherited(parse(lines), heirs), left))

    def now(self, marks: Sequence[RootMark], root: int, identity: Identity) -> Identity:
        """What stands for ``identity`` by now: itself where no undo replaced it."""
        device = _device(marks, root, identity)
        for links in self._links:
            found = links.get((device, identity.ino))
            if found is not None and not differs_from(found[0], identity)[0]:
                identity = found[1]
        return identity

    def inode(self, marks: Sequence[RootMark], root: int, was: Identity) -> int:
        """The inode number by now of a file that was ``was``, but for its ctime: it lost a name."""
        device, ino = _device(marks, root, was), was.ino
        for links in self._links:
            found = links.get((device, ino))
            if found is not None and _looks(found[0]) == _looks(was):
                ino = found[1].ino
        return ino


def _looks(identity: Identity) -> tuple[int, int, int]:
    return identity.size, identity.mtime_ns, identity.mode


def _links(plan: Plan, left: list[Left]) -> dict[_Key, tuple[Identity, Identity]]:
    found = {}
    for number, now, stands in left:
        if stands is not None:
            device = _device(plan.roots, plan.nodes[number].root, stands)
            found[device, stands.ino] = stands, now
    return found


def _device(marks: Sequence[RootMark], root: int, identity: Identity) -> _Device:
    """The file system, over sessions with other roots, and reboots."""
    return (identity.dev, 0) if identity.dev else (0, marks[root].fsid)
