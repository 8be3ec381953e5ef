"""From the chosen changes to a plan: which inode ends up under which name, and how.

For every file with changes the question is whether its *base inode stays*.  It does if only its
attributes or names change; if it has other names (perhaps outside the roots) that must keep
showing it; or if it belongs to somebody else, whom a new file would not belong to.  Then its
bytes are filled in, names are linked and moved.  Else a new inode is staged and changes places
with the old one in one step.  New directories are staged as trees and arrive whole.

It looks at the base and the layer and changes neither.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from goexfs.errors import Unsupported
from goexfs.names import display
from goexfsd.commit.base import Base, type_of
from goexfsd.commit.draft import Blueprint, Draft, Staged, marks_of, on_disk
from goexfsd.commit.faithful import read_meta
from goexfsd.commit.places import Place, Places, join, leaf, parent
from goexfsd.commit.plan import Attrs, Final, Mark, Node, Op, Plan, Slot, loss
from goexfsd.commit.source import Source
from goexfsd.layer.changes import Change, Root
from goexfsd.layer.seen import Seen

_CONTENT = frozenset(("content", "target", "device"))
_ATTRS = frozenset(("mode", "owner", "xattrs", "times"))


def build(
    commit: str,
    roots: Sequence[Root],
    chosen: Sequence[Change],
    places: Places,
    seen: Mapping[int, Seen],
    base: Base,
    source: Source,
    *,
    partial: bool,
    parts: Collection[Place] = (),
) -> Blueprint:
    """The blueprint for ``chosen``; ``places`` is of the whole change list.  At ``parts`` only
    some of the layer's change is committed."""
    builder = _Builder(commit, roots, chosen, places, seen, base, source, partial)
    builder.mark(parts)
    return builder.build()


def _in(change: Change, parts: Collection[Place]) -> bool:
    return change.kind != "deleted" and (change.root, change.path) in parts


class _Builder(Draft):
    def __init__(
        self,
        commit: str,
        roots: Sequence[Root],
        chosen: Sequence[Change],
        places: Places,
        seen: Mapping[int, Seen],
        base: Base,
        source: Source,
        partial: bool,
    ) -> None:
        self._chosen, self._places = chosen, places
        self._seen, self._source = seen, source
        applied: dict[str, int] = dict(Counter(str(change.kind) for change in chosen))
        plan = Plan(commit, marks_of(roots, base), partial, applied=applied)
        super().__init__(plan, roots, base)
        self._by_base: dict[Place, Node] = {(node.root, b""): node for node in self._tops}
        self._made: dict[Place, Node] = {}
        self._stirred: set[int] = set()
        self._staying: set[int] = set()
        """Base files that keep their place, whatever was renamed from there."""

    def mark(self, parts: Collection[Place]) -> None:
        """Note in the plan what is committed, for the rebase."""
        if not self._plan.partial:
            return
        self._plan.marks = [
            Mark(c.kind, c.root, c.path, c.old_path, c.type, c.upper_ino, _in(c, parts))
            for c in self._chosen
        ]

    def build(self) -> Blueprint:
        self._deletions()
        groups: dict[tuple[int, int], list[Change]] = {}
        for change in sorted(self._chosen, key=lambda change: (change.root, change.path)):
            if change.kind == "deleted":
                continue
            if change.type == "dir":
                self._directory(change)
            else:
                key = change.upper_ino or -1 - len(groups)
                groups.setdefault((change.root, key), []).append(change)
        for group in groups.values():
            self._file(group)
        self._victims()
        self._order()
        self._finals()
        return self._out

    # -- nodes ------------------------------------------------------------------------------

    def _base_node(self, root: int, path: bytes, st: os.stat_result | None = None) -> Node:
        """The node of a base entry that exists."""
        node = self._by_base.get((root, path))
        if node is None:
            above = self._base_node(root, parent(path))
            st = self._base.lstat(root, path) if st is None else st
            node = self._node(root, type_of(st.st_mode), st, (above.id, leaf(path)))
            self._by_base[root, path] = node
            self._out.base_paths[node.id] = path
        return node

    def _view_dir(self, root: int, path: bytes) -> Node:
        """The node that is the view's directory ``path`` after the commit."""
        made = self._made.get((root, path))
        if made is not None:
            return made
        base_path = self._places.base_of(root, path)
        assert base_path is not None, "the parents of a chosen change are chosen"
        return self._base_node(root, base_path)

    def _target(self, change: Change) -> Slot:
        return self._view_dir(change.root, parent(change.path)).id, leaf(change.path)

    # -- changes ----------------------------------------------------------------------------

    def _deletions(self) -> None:
        for change in self._chosen:
            if change.kind != "deleted":
                continue
            node = self._base_node(change.root, change.path)
            self._gone[node.id] = node
            self._stirred.add(node.slots[0][0])

    def _directory(self, change: Change) -> None:
        if change.kind in ("created", "retyped"):
            self._new(change, None)
            return
        old = (
            change.old_path
            if change.kind == "renamed"
            else self._places.base_of(change.root, change.path)
        )
        assert old is not None
        node = self._base_node(change.root, old)
        if change.kind == "renamed":
            slot = self._target(change)
            if self._domain(self._plan.nodes[slot[0]]) != self._domain(node):
                raise Unsupported(
                    f"{display(old)} was renamed to another file system, {display(change.path)}",
                    hint="make the directory anew there and move the files",
                )
            self._stirred.update((node.slots[0][0], slot[0]))
            self._place(1, node, slot)
        if change.aspects & _ATTRS:
            self._set_attrs(node, change, old, times="times" in change.aspects)

    def _new(self, change: Change, link_to: Node | None) -> Node:
        """Stage what is at ``change``, inside its new directory or to be put in its place."""
        slot = self._target(change)
        above = self._plan.nodes[slot[0]]
        if above.new:
            node = self._node(change.root, change.type, None, slot)
        else:
            node = self._node(change.root, change.type, None, self._stage_slot(above, "n"))
            self._place(3 if change.type == "symlink" else 0, node, slot)
            if not self._edited_in_place(change):
                self._stirred.add(above.id)
        if change.type == "dir":
            self._made[change.root, change.path] = node
        if link_to is not None and self._domain(above) != self._domain_of(link_to):
            self._lose(change, "hard link")
            link_to = None
        self._stage_one(node, change, None if link_to is None else link_to.id)
        return node

    def _edited_in_place(self, change: Change) -> bool:
        """Whether the session wrote to the base file, and did not put another in its place."""
        copy = self._seen[change.root].copies.get(change.upper_ino)
        return change.kind == "modified" and copy is not None and copy.path == self._old(change)

    def _old(self, change: Change) -> bytes | None:
        if change.kind == "renamed":
            return change.old_path
        return self._places.slot_of(change.root, change.path)

    def _file(self, group: list[Change]) -> None:
        """All chosen names of one upper file."""
        same = self._same_inode(group)
        origin = self._kept_inode(group, same)
        if origin is None:
            self._renewed(group)
            return
        for index, change in enumerate(group):
            if index in same:
                self._kept(change, same[index])
            else:
                self._linked(change, origin)
        if not same:
            return
        first = group[min(same)]
        aspects = frozenset[str]().union(*(group[index].aspects for index in same))
        if aspects & _CONTENT:
            self._fill(first, origin)
        if aspects & (_ATTRS | _CONTENT):
            times = bool(aspects & (_CONTENT | {"times"}))
            self._set_attrs(origin, first, self._out.base_paths[origin.id], times=times)

    def _same_inode(self, group: list[Change]) -> dict[int, Node]:
        """Which of ``group`` are names of the base inode that the upper file is a copy of."""
        found: dict[int, Node] = {}
        copy = self._seen[group[0].root].copies.get(group[0].upper_ino)
        if copy is None:
            return found
        for index, change in enumerate(group):
            old = self._old(change)
            st = None if old is None else self._base.look(change.root, old)
            if st is None or old is None or type_of(st.st_mode) != change.type:
                continue
            if (st.st_ino, stat.S_IFMT(st.st_mode)) == (
                copy.identity.ino,
                stat.S_IFMT(copy.identity.mode),
            ):
                found[index] = self._base_node(change.root, old, st)
        return found

    def _kept_inode(self, group: list[Change], same: dict[int, Node]) -> Node | None:
        """A name of the base inode if that is to stay, else None."""
        if not same:
            return self._link_origin(group)
        node = same[min(same)]
        if len(group) == 1 and group[0].kind != "renamed" and group[0].aspects & _CONTENT:
            return node if self._stays(node) else None  # it does not leave its directory
        domains = {self._domain_of(other) for other in same.values()}
        domains |= {self._domain(self._plan.nodes[self._target(change)[0]]) for change in group}
        if len(domains) > 1:
            return None
        if not any(group[index].aspects & _CONTENT for index in same):
            return node
        return node if self._stays(node) else None

    def _stays(self, node: Node) -> bool:
        """Whether new bytes have to go into the base inode itself."""
        st = self._base.lstat(node.root, self._out.base_paths[node.id])
        foreign = self._me != 0 and st.st_uid != self._me
        return stat.S_ISREG(st.st_mode) and (st.st_nlink > 1 or foreign)

    def _link_origin(self, group: list[Change]) -> Node | None:
        """The base file that new names were linked to, where that file itself did not change:
        the upper file has more names than are listed."""
        change = group[0]
        copy = self._seen[change.root].copies.get(change.upper_ino)
        if copy is None or change.links <= len(group):
            return None
        st = self._base.look(change.root, copy.path)
        if st is None or st.st_ino != copy.identity.ino or stat.S_ISDIR(st.st_mode):
            return None
        node = self._base_node(change.root, copy.path, st)
        target = self._plan.nodes[self._target(change)[0]]
        return node if self._domain(target) == self._domain_of(node) else None

    def _kept(self, change: Change, node: Node) -> None:
        if change.kind != "renamed":
            self._staying.add(node.id)
        else:
            slot = self._target(change)
            self._stirred.update((node.slots[0][0], slot[0]))
            self._place(1, node, slot)

    def _linked(self, change: Change, origin: Node) -> None:
        slot = self._target(change)
        above = self._plan.nodes[slot[0]]
        node = self._node(change.root, change.type, None, self._stage_slot(above, "l"))
        node.ino = origin.ino
        self._links.append(Op("link", node.id, other=origin.id))
        self._stirred.add(above.id)
        self._place(2, node, slot)
        if change.kind == "renamed":
            self._left_behind(change)

    def _left_behind(self, change: Change) -> None:
        """What is where a file was renamed from, and is another by now, goes."""
        assert change.old_path is not None
        st = self._base.look(change.root, change.old_path)
        if st is not None:
            old = self._base_node(change.root, change.old_path, st)
            self._gone[old.id] = old
            self._stirred.add(old.slots[0][0])

    def _renewed(self, group: list[Change]) -> None:
        first: Node | None = None
        for change in group:
            node = self._new(change, first)
            first = first or node
            if change.kind == "renamed":
                assert change.old_path is not None
                old = self._base_node(change.root, change.old_path)
                self._gone[old.id] = old
                self._stirred.add(old.slots[0][0])

    def _fill(self, change: Change, node: Node) -> None:
        above = self._plan.nodes[node.slots[0][0]]
        staged = self._node(node.root, "file", None, self._stage_slot(above, "f"))
        self._stage_one(staged, change, None, bytes_only=True)
        self._fills.append(Op("fill", node.id, other=staged.id))
        self._take(node, "filled")

    def _set_attrs(self, node: Node, change: Change, path: bytes, *, times: bool) -> None:
        old, _ = read_meta(*self._base.at(node.root, path))
        new = self._source.meta(change)
        self._attrs[node.id] = len(self._plan.attrs)
        self._plan.attrs.append(Attrs(new, old, times))
        self._take(node, "attrs")

    def _stage_one(
        self, node: Node, change: Change, link_to: int | None, *, bytes_only: bool = False
    ) -> None:
        room = 0 if link_to is not None else on_disk(change.st)
        self._out.staged.append(
            Staged(
                node.id,
                change.root,
                change.path,
                change.type,
                room,
                change,
                link_to=link_to,
                bytes_only=bytes_only,
            )
        )

    def _lose(self, change: Change, what: str) -> None:
        self._plan.losses.append(loss(change.root, change.path, what))

    # -- putting it together -----------------------------------------------------------------

    def _victims(self) -> None:
        """Base entries whose names are taken by others."""
        for _, _, (above, name) in list(self._targets):
            if self._plan.nodes[above].new:
                continue
            path = join(self._out.base_paths[above], name)
            root = self._plan.nodes[above].root
            st = self._base.look(root, path)
            if st is None:
                continue
            node = self._base_node(root, path, st)
            if node.id not in self._targeted:
                self._gone[node.id] = node
        for number in self._staying:
            self._gone.pop(number, None)
        self._take_gone()

    def _finals(self) -> None:
        widened = {op.node for op in self._plan.ops if op.kind == "widen"}
        timed = {
            node: attrs
            for node, index in self._attrs.items()
            if (attrs := self._plan.attrs[index]).times and self._plan.nodes[node].type == "dir"
        }
        base_dirs = {node.id for node in self._disturbed()} | widened | timed.keys()
        for node_id in sorted(base_dirs):
            self._final(self._plan.nodes[node_id], node_id in widened, timed.get(node_id))
        entered = {slot[0] for _, _, slot in self._targets}
        for item in self._out.staged:
            st = item.content.st
            closed = self._me != 0 and st.st_mode & 0o300 != 0o300
            if item.type == "dir" and (closed or item.node in entered):
                mode = stat.S_IMODE(st.st_mode) if closed else None
                times = st.st_atime_ns, st.st_mtime_ns
                self._plan.finals.append(Final(item.node, mode, *times, None, 0, 0))

    def _final(self, node: Node, widened: bool, timed: Attrs | None) -> None:
        path = self._out.base_paths[node.id]
        st = self._base.lstat(node.root, path)
        atime, mtime = st.st_atime_ns, st.st_mtime_ns
        if timed is not None:
            atime, mtime = timed.new.atime_ns, timed.new.mtime_ns
        elif node.id in self._stirred:
            view = self._places.view_of(node.root, path)
            own = self._places.at.get((node.root, view))
            # Times that were set, and are not to be committed now, stay a change.
            left = own is not None and "times" in own.aspects
            shown = None if left else self._source.directory_times(node.root, view)
            atime, mtime = shown or (atime, mtime)
        mode = old_mode = None
        if widened:
            index = self._attrs.get(node.id)
            mode = st.st_mode if index is None else self._plan.attrs[index].new.mode
            mode, old_mode = stat.S_IMODE(mode), stat.S_IMODE(st.st_mode)
        old = old_mode, st.st_atime_ns, st.st_mtime_ns
        kept = node.id not in self._gone
        self._plan.finals.append(Final(node.id, mode, atime, mtime, *old, kept=kept))
