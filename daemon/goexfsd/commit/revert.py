"""From the plan of a done commit to the plan that takes it back, and what stands against it.

What the commit brought goes, what it moved moves back, what it removed or replaced is staged
anew from the before-images, inodes that it kept are filled and dressed as they were.  The result
is a plan like any other: with before-images of its own (so that it can be taken back in turn),
applied and recovered by the same engine.

Every entry that it touches must be as the commit left it (or as a later undo brought it back),
and nothing may have been put where something returns, or into a directory that goes.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence

from goexfsd.commit.base import GONE, Base, type_of
from goexfsd.commit.conflicts import Conflict, as_seen, differs, differs_from
from goexfsd.commit.draft import Blueprint, Draft, Staged, marks_of
from goexfsd.commit.faithful import read_meta
from goexfsd.commit.past import Image, Past, Tracer
from goexfsd.commit.places import join
from goexfsd.commit.plan import Attrs, Final, Node, Op, Plan, Slot, loss, path_of
from goexfsd.commit.stage import listing, named
from goexfsd.layer.changes import Root
from goexfsd.layer.origins import Identity

_INVERSE = {"created": "deleted", "deleted": "created"}


def check(past: Past, tracer: Tracer, base: Base) -> list[Conflict]:
    """What was changed since the commit and would be lost by taking it back.  Changes nothing."""
    return _Checker(past, tracer, base).run()


def revert(commit: str, past: Past, tracer: Tracer, roots: Sequence[Root], base: Base) -> Blueprint:
    """The blueprint of the undo ``commit``; there must be no conflicts."""
    return _Reverter(commit, past, tracer, roots, base).build()


def _touched(past: Past) -> set[int]:
    """Nodes in the base that the undo removes, moves, fills or dresses."""
    dressed = {op.node for op in past.plan.ops if op.kind == "attrs"} | past.plan.fills.keys()
    return {
        node.id
        for node in past.here.values()
        if node.new or node.id in dressed or (node.slots and node.slots[0] != node.slots[-1])
    }


class _Checker:
    def __init__(self, past: Past, tracer: Tracer, base: Base) -> None:
        self._past, self._plan, self._base = past, past.plan, base
        self._tracer = tracer
        self._wrong: set[int] = set()
        """Nodes with a conflict: nothing more is said of what is in them."""
        self._sits = {node.slots[-1]: node for node in past.here.values() if node.slots}
        self._found: list[Conflict] = []

    def run(self) -> list[Conflict]:
        touched = _touched(self._past)
        nodes = [(path_of(self._plan, node.id), node) for node in self._past.here.values()]
        for path, node in sorted(nodes, key=lambda item: (item[1].root, item[0].split(b"/"))):
            if node.slots and node.slots[-1][0] in self._wrong:
                self._wrong.add(node.id)
            else:
                self._node(node, path, node.id in touched)
        for node in [*self._past.here.values(), *self._past.gone.values()]:
            if node.slots and not node.new:
                self._return(node)
        return self._found

    def _say(self, node: Node, path: bytes, reason: str, detail: str) -> None:
        self._wrong.add(node.id)
        self._found.append(Conflict(node.root, path, reason, detail))

    def _node(self, node: Node, path: bytes, touched: bool) -> None:
        try:
            st = self._base.look(node.root, path)
        except PermissionError:
            self._say(node, path, "blocked", "a directory above it keeps its owner out")
            return
        if not touched:
            if node.type == "dir":
                self._way(node, path, st)
            return
        wants = "would remove it" if node.new else "would put back what it was"
        expected = self._past.now.get(node.id)
        if st is None:
            self._say(node, path, "deleted", f"it was deleted or moved away since; undo {wants}")
            return
        if expected is None:
            self._say(node, path, "changed", f"it was changed during the commit; undo {wants}")
            return
        expected = self._tracer.now(self._plan.roots, node.root, expected)
        dev = self._base.root_devs[node.root]
        reason, detail = ("", "") if as_seen(expected, st, dev) else differs(expected, st, dev)
        if not reason and self._mounted(node, path):
            reason, detail = "blocked", "something is mounted on it now"
        if reason:
            self._say(node, path, reason, f"{detail} since; undo {wants}")
        elif node.new and node.type == "dir":
            self._strangers(node, path)

    def _mounted(self, node: Node, path: bytes) -> bool:
        moves = node.new or (node.slots and node.slots[0] != node.slots[-1])
        return bool(moves and self._base.is_mounted(node.root, path))

    def _way(self, node: Node, path: bytes, st: os.stat_result | None) -> None:
        if not node.slots:
            return
        known = self._past.now.get(node.id)
        if known is not None:
            known = self._tracer.now(self._plan.roots, node.root, known)
        if st is None or not stat.S_ISDIR(st.st_mode):
            self._say(node, path, "parent", "this directory is gone; undo works in it")
        elif known is None or st.st_ino != known.ino:
            self._say(node, path, "parent", "this directory was replaced; undo works in it")

    def _strangers(self, node: Node, path: bytes) -> None:
        """What was put since into a directory that goes."""
        for name, _ in named(self._base.directory(node.root, path)):
            if (node.id, name) not in self._sits:
                detail = "it was made since, in a directory that undo would remove"
                self._found.append(Conflict(node.root, join(path, name), "created", detail))

    def _return(self, node: Node) -> None:
        """Where an entry returns, nothing new may be."""
        above, name = node.slots[0]
        if above in self._past.gone or above in self._wrong or node.slots[0] in self._sits:
            return
        if node.id in self._past.here and node.slots[0] == node.slots[-1]:
            return
        path = join(path_of(self._plan, above), name)
        st = self._base.look(node.root, path)
        if st is not None:
            detail = f"a {type_of(st.st_mode)} was made here since; undo would put back what was"
            self._found.append(Conflict(node.root, path, "created", detail))


class _Reverter(Draft):
    def __init__(
        self, commit: str, past: Past, tracer: Tracer, roots: Sequence[Root], base: Base
    ) -> None:
        self._past, self._old, self._tracer = past, past.plan, tracer
        applied = {_INVERSE.get(kind, kind): n for kind, n in past.plan.applied.items()}
        super().__init__(Plan(commit, marks_of(roots, base), applied=applied), roots, base)
        self._now: dict[int, Node] = {}
        """Old node -> new node, of what is in the base now."""
        self._made: dict[int, Node] = {}
        """Old node -> new node, of what is brought back."""
        self._origin: dict[int, int] = {}
        """New node -> old node."""
        self._stays: set[int] = set()
        """Old nodes that were moved and need not move back: a new name takes their place."""
        for node in past.plan.nodes:
            if not node.slots:
                self._remember(node, self._tops[node.root])

    def build(self) -> Blueprint:
        for node in self._past.here.values():
            self._present(node)
        directories = [n for n in self._past.gone.values() if n.type == "dir"]
        for node in sorted(directories, key=lambda n: path_of(self._old, n.id, old=True)):
            self._restore(node, None)
        for group in self._groups():
            self._restore_file(group)
        self._back()
        for node in self._past.here.values():
            if node.new:
                present = self._now[node.id]
                self._gone[present.id] = present
        self._contents()
        self._take_gone()
        self._order()
        self._finals()
        return self._out

    # -- what is there -----------------------------------------------------------------------

    def _remember(self, old: Node, node: Node) -> None:
        self._now[old.id] = node
        self._origin[node.id] = old.id

    def _present(self, old: Node) -> Node:
        """The node of what is in the base now."""
        known = self._now.get(old.id)
        if known is not None:
            return known
        above = self._present(self._old.nodes[old.slots[-1][0]])
        path = path_of(self._old, old.id)
        st = self._base.lstat(old.root, path)
        node = self._node(old.root, old.type, st, (above.id, old.slots[-1][1]))
        self._out.base_paths[node.id] = path
        self._remember(old, node)
        if not old.new and self._as_left(old, st):
            node.stands = old.was
        return node

    def _as_left(self, old: Node, st: os.stat_result) -> bool:
        known = self._past.now.get(old.id)
        if known is None:
            return False
        known = self._tracer.now(self._old.roots, old.root, known)
        return not differs_from(known, Identity.of(st, self._base.root_devs[old.root]))[0]

    def _then(self, old_id: int) -> Node:
        """The directory that an old node is after the undo."""
        made = self._made.get(old_id)
        return made if made is not None else self._now[old_id]

    # -- what returns ------------------------------------------------------------------------

    def _slot(self, old: Node) -> Slot:
        above, name = old.slots[0]
        return self._then(above).id, name

    def _back(self) -> None:
        """What was moved."""
        for old in self._past.here.values():
            if _moved(old) and old.id not in self._stays:
                node, slot = self._now[old.id], self._slot(old)
                if node.slots[0] != slot:
                    self._place(1, node, slot)

    def _restore(self, old: Node, link_to: Node | None) -> Node:
        """Stage a before-image."""
        image = self._past.gone_image(old)
        slot = self._slot(old)
        above = self._plan.nodes[slot[0]]
        if above.new:
            node = self._node(old.root, old.type, None, slot)
        else:
            node = self._node(old.root, old.type, None, self._stage_slot(above, "n"))
            self._place(3 if old.type == "symlink" else 0, node, slot)
        if link_to is not None and self._domain(above) != self._domain_of(link_to):
            self._plan.losses.append(loss(old.root, image.path, "hard link"))
            link_to = None
        node.stands = None if image.late else old.was
        self._made[old.id] = node
        self._origin[node.id] = old.id
        room = 0 if link_to is not None else self._past.room(image)
        link = None if link_to is None else link_to.id
        self._out.staged.append(
            Staged(node.id, old.root, image.path, old.type, room, image, link_to=link)
        )
        return node

    def _groups(self) -> list[list[Node]]:
        """What is no directory, the names of each inode together."""
        groups: dict[tuple[int, int, int], list[Node]] = {}
        for node in self._past.gone.values():
            if node.type != "dir":
                device = node.was.dev if node.was is not None else 0
                groups.setdefault((node.root, device, node.ino), []).append(node)
        return list(groups.values())

    def _restore_file(self, group: list[Node]) -> None:
        image = self._past.gone_image(group[0])
        if image.nlink > len(group):
            origin = self._other_name(group[0], image)
            if origin is not None:
                for old in group:
                    self._relink(old, origin)
                return
            self._plan.losses.append(loss(image.root, image.path, "hard link"))
        first: Node | None = None
        for old in group:
            node = self._restore(old, first)
            first = first or node

    def _relink(self, old: Node, origin: Node) -> None:
        slot = self._free_slot(self._slot(old), origin)
        above = self._plan.nodes[slot[0]]
        if self._domain(above) != self._domain_of(origin):
            self._plan.losses.append(loss(old.root, self._past.gone_image(old).path, "hard link"))
            self._restore(old, None)
            return
        node = self._node(old.root, old.type, None, self._stage_slot(above, "l"))
        node.ino = origin.ino
        node.stands = old.was if origin.stands is not None else None
        self._links.append(Op("link", node.id, other=origin.id))
        self._made[old.id] = node
        self._origin[node.id] = old.id
        self._place(2, node, slot)

    def _free_slot(self, slot: Slot, origin: Node) -> Slot:
        """Where a name of ``origin``'s file is missing, if one is wanted at ``slot``.

        All names of a file are alike: one that is there already stays, and the new one comes
        where that would have moved.
        """
        for old in self._past.here.values():
            node = self._now[old.id]
            same = node.ino == origin.ino and node.root == origin.root
            if same and _moved(old) and old.id not in self._stays and node.slots[0] == slot:
                self._stays.add(old.id)
                return self._free_slot(self._slot(old), origin)
        return slot

    def _other_name(self, old: Node, image: Image) -> Node | None:
        """A name in the base, not one that goes, of the inode that ``old`` was a name of."""
        ino = old.ino
        if old.was is not None:
            ino = self._tracer.inode(self._old.roots, old.root, old.was)
        for other in self._past.here.values():
            node = self._now[other.id]
            if not other.new and other.root == old.root and node.ino == ino:
                return node
        found = _find(self._base, old.root, ino, image)
        if found is None:
            return None
        origin = self._by_path(old.root, found)
        origin.stands = old.was  # one inode, one identity
        return origin

    def _by_path(self, root: int, path: bytes) -> Node:
        """The node of any entry that is in the base now."""
        for node_id, known in self._out.base_paths.items():
            if known == path and self._plan.nodes[node_id].root == root:
                return self._plan.nodes[node_id]
        above, _, name = path.rpartition(b"/")
        directory = self._by_path(root, above)
        st = self._base.lstat(root, path)
        node = self._node(root, type_of(st.st_mode), st, (directory.id, name))
        self._out.base_paths[node.id] = path
        return node

    # -- bytes and attributes of what stays --------------------------------------------------

    def _contents(self) -> None:
        for old_id in self._old.fills:
            old = self._old.nodes[old_id]
            node, image = self._now[old_id], self._past.filled_image(old)
            above = self._plan.nodes[node.slots[0][0]]
            staged = self._node(old.root, "file", None, self._stage_slot(above, "f"))
            room = self._past.room(image)
            self._out.staged.append(
                Staged(staged.id, old.root, image.path, "file", room, image, bytes_only=True)
            )
            self._fills.append(Op("fill", node.id, other=staged.id))
            self._take(node, "filled")
        for op in self._old.ops:
            if op.kind == "attrs":
                self._dress(self._now[op.node], self._old.attrs[op.other])

    def _dress(self, node: Node, attrs: Attrs) -> None:
        path = self._out.base_paths[node.id]
        now, _ = read_meta(*self._base.at(node.root, path))
        self._attrs[node.id] = len(self._plan.attrs)
        self._plan.attrs.append(Attrs(attrs.old, now, attrs.times))
        self._take(node, "attrs")

    # -- directories ---------------------------------------------------------------------------

    def _finals(self) -> None:
        widened = {op.node for op in self._plan.ops if op.kind == "widen"}
        timed = {
            node
            for node, index in self._attrs.items()
            if self._plan.attrs[index].times and self._plan.nodes[node].type == "dir"
        }
        stirred = {slot[0] for _, _, slot in self._targets}
        stirred |= {node.slots[0][0] for node in self._gone.values()}
        stirred |= {node.slots[0][0] for _, node, _ in self._targets if not node.new}
        disturbed = {node.id for node in self._disturbed()}
        for node_id in sorted(disturbed | widened | timed | self._timed_before()):
            self._final(self._plan.nodes[node_id], node_id in widened, timed, stirred)
        for item in self._out.staged:
            meta = item.content.meta
            closed = self._me != 0 and meta.mode & 0o300 != 0o300
            if item.type == "dir" and (closed or item.node in stirred):
                mode = stat.S_IMODE(meta.mode) if closed else None
                times = meta.atime_ns, meta.mtime_ns
                self._plan.finals.append(Final(item.node, mode, *times, None, 0, 0))

    def _timed_before(self) -> set[int]:
        """Directories to which the commit gave other times, though nothing in them moves now."""
        return {
            self._now[final.node].id
            for final in self._old.finals
            if final.node in self._now
            and not self._old.nodes[final.node].new
            and final.mtime_ns != final.old_mtime_ns
        }

    def _final(self, node: Node, widened: bool, timed: set[int], stirred: set[int]) -> None:
        st = self._base.lstat(node.root, self._out.base_paths[node.id])
        index = self._attrs.get(node.id)
        attrs = None if index is None else self._plan.attrs[index]
        if attrs is not None and node.id in timed:
            times = attrs.new.atime_ns, attrs.new.mtime_ns
        else:
            times = self._times(node, st, node.id in stirred)
        mode = old_mode = None
        if widened:
            mode = stat.S_IMODE(st.st_mode if attrs is None else attrs.new.mode)
            old_mode = stat.S_IMODE(st.st_mode)
        was = st.st_atime_ns, st.st_mtime_ns
        kept = node.id not in self._gone
        self._plan.finals.append(Final(node.id, mode, *times, old_mode, *was, kept=kept))

    def _times(self, node: Node, st: os.stat_result, stirred: bool) -> tuple[int, int]:
        """Those before the commit, if nobody has touched the directory since."""
        origin = self._origin.get(node.id)
        for final in self._old.finals:
            if final.node == origin and not self._old.nodes[final.node].new:
                if st.st_mtime_ns == final.mtime_ns:
                    return final.old_atime_ns, final.old_mtime_ns
                break
        return st.st_atime_ns, time.time_ns() if stirred else st.st_mtime_ns


def _moved(old: Node) -> bool:
    """Whether the commit moved a base entry."""
    return not old.new and bool(old.slots) and old.slots[0] != old.slots[-1]


def _find(base: Base, root: int, ino: int, image: Image) -> bytes | None:
    """Another name of a file of which one was removed, if it is still what it was.

    Only its inode number is known, so the root is walked; hard links that are removed one by
    one are rare.
    """
    device = base.root_devs[root]
    below = [b""]
    for path in below:  # grows while it is read
        try:
            entries = listing(base.directory(root, path))
        except OSError as error:
            if error.errno in GONE or isinstance(error, PermissionError):
                continue
            raise
        for name, st in entries:
            here = join(path, name)
            if stat.S_ISDIR(st.st_mode):
                if st.st_dev == device:
                    below.append(here)
            elif st.st_ino == ino and st.st_dev == device:
                was = image.meta
                same = (st.st_size, st.st_mtime_ns, st.st_mode) == (
                    was.size,
                    was.mtime_ns,
                    was.mode,
                )
                return here if same else None
    return None
