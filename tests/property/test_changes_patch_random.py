"""Random sessions: the patch, applied to a copy of the base, gives the view.

To ``git apply`` everything that git can say: names, types, content, symlinks, the executable
bit.  To GNU patch what it can apply: see ``_fit_for_gnu``.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from goexfsd.layer.changes import differences, open_views
from goexfsd.layer.lines import blocks
from goexfsd.layer.patch import patch
from layering import Item, Root, Session, copy_tree, manifest
from layerops import Op, base_trees, build, operations, perform

pytestmark = pytest.mark.timeout(600)

CLEAN = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "LC_ALL": "C",
}
Seen = tuple[int, bytes, bool]


def patch_of(session: Session) -> bytes:
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        with open_views(None, layer, [Root()], [base]) as views:
            return b"".join(patch(views, differences(views)))
    finally:
        os.close(layer)
        os.close(base)


def sayable(items: dict[bytes, Item]) -> dict[bytes, Seen]:
    """What git speaks of."""
    return {
        path: (item.kind, item.data, bool(item.mode & 0o100) and item.kind == stat.S_IFREG)
        for path, item in items.items()
        if item.kind in (stat.S_IFREG, stat.S_IFLNK)
    }


def apply(tool: list[str], tree: bytes, text: bytes) -> None:
    done = subprocess.run(tool, cwd=tree, input=text, env=CLEAN, capture_output=True, check=False)
    note(os.fsdecode(text))
    assert done.returncode == 0, (done.stdout, done.stderr)


def in_the_way(session: Session) -> bool:
    """Whether something that git does not speak of lies where a file must go, or the reverse."""
    base, view = manifest(session.base), manifest(session.model)
    plain = (stat.S_IFREG, stat.S_IFLNK)
    for path, item in view.items():
        was = base.get(path)
        if was is None or was.kind == item.kind:
            continue
        if was.kind not in plain and item.kind in plain:
            below = [p for p in base if p.startswith(path + b"/")]
            if any(base[p].kind not in plain for p in below) or not below:
                return True
    return False


def check(base: list[Op], ops: list[Op], tool: list[str], *, gnu: bool) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        try:
            perform(session, ops)
            assume(not in_the_way(session))
            text = patch_of(session)
            if gnu:
                assume(fit_for_gnu(session, text))
            copy = os.fsencode(home) + b"/copy"
            copy_tree(session.base, copy)
            if b"diff --git " in text:
                apply(tool, copy, text)
            assert sayable(manifest(copy)) == sayable(manifest(session.model))
        finally:
            session.close()


def fit_for_gnu(session: Session, text: bytes) -> bool:
    """GNU patch knows no binary patches, refuses names with a newline, and cannot put a
    directory where a file was."""
    if b"GIT binary patch" in text:
        return False
    base, view = manifest(session.base), manifest(session.model)
    kinds = {(base[path].kind, item.kind) for path, item in view.items() if path in base}
    return all(was == now or stat.S_IFDIR not in (was, now) for was, now in kinds)


def no_links(ops: list[Op]) -> bool:
    return all(name != "link" for name, _ in ops)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=base_trees().filter(no_links), ops=operations())
def test_git_applies_it(base: list[Op], ops: list[Op]) -> None:
    check(base, ops, ["git", "apply", "--whitespace=nowarn", "-"], gnu=False)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=base_trees().filter(no_links), ops=operations())
def test_gnu_patch_applies_it(base: list[Op], ops: list[Op]) -> None:
    check(base, ops, ["patch", "-p1", "-f", "-s", "--no-backup-if-mismatch"], gnu=True)


@given(
    old=st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n"]), max_size=30),
    new=st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n"]), max_size=30),
)
def test_blocks_turn_one_side_into_the_other(old: list[bytes], new: list[bytes]) -> None:
    made: list[bytes] = []
    at = 0
    for block in blocks(old, new):
        assert block.a0 >= at
        made += old[at : block.a0]
        assert len(made) == block.b0
        made += new[block.b0 : block.b1]
        at = block.a1
    assert made + old[at:] == new
