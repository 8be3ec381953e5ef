"""The change list of layers built by hand, case by case."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goexfs.errors import StoreFailed
from goexfsd.layer.changes import Change, compute
from goexfsd.layer.format import REDIRECT
from goexfsd.layer.origins import NOTHING, Kind, Record, encode
from layering import Root, Session

Open = Callable[[Callable[[bytes], None]], Session]
Shown = tuple[str, bytes, bytes | None, frozenset[str]]


def fill(base: bytes, files: dict[bytes, bytes]) -> None:
    for path, data in files.items():
        os.makedirs(os.path.dirname(base + b"/" + path), exist_ok=True)
        Path(os.fsdecode(base + b"/" + path)).write_bytes(data)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    def build(base: bytes) -> None:
        fill(
            base,
            {
                b"a": b"alpha\n",
                b"b": b"beta\n",
                b"d/f": b"in d\n",
                b"d/g": b"also in d\n",
                b"d/s/deep": b"deep\n",
                b"e/x": b"x\n",
            },
        )
        os.link(base + b"/b", base + b"/b2")
        os.symlink(b"a", base + b"/link")

    made = Session.over(tmp_path, build)
    yield made
    made.close()


def changes(session: Session) -> list[Change]:
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        return compute(layer, [Root()], [base])
    finally:
        os.close(layer)
        os.close(base)


def shown(session: Session) -> list[Shown]:
    return [(c.kind, c.path, c.old_path, c.aspects) for c in changes(session)]


def line(kind: str, path: bytes, old: bytes | None = None, *aspects: str) -> Shown:
    return kind, path, old, frozenset(aspects)


def test_untouched_session_has_none(session: Session) -> None:
    assert shown(session) == []


def test_touched_but_equal_is_none(session: Session) -> None:
    session.touch(b"a")
    session.touch(b"d/s")
    session.write(b"b", b"beta\n")
    session.unlink(b"a")
    session.write(b"a", b"alpha\n")
    assert shown(session) == []


def test_deletions_come_first_and_are_never_folded(session: Session) -> None:
    session.write(b"a", b"other\n")
    session.write(b"aa", b"new\n")
    session.remove(b"d")
    assert shown(session) == [
        line("deleted", b"d"),
        line("deleted", b"d/f"),
        line("deleted", b"d/g"),
        line("deleted", b"d/s"),
        line("deleted", b"d/s/deep"),
        line("modified", b"a", None, "content"),
        line("created", b"aa"),
    ]


def test_renamed_file(session: Session) -> None:
    session.rename(b"a", b"d/moved")
    assert shown(session) == [line("renamed", b"d/moved", b"a")]
    session.write(b"d/moved", b"and changed\n")
    assert shown(session) == [line("renamed", b"d/moved", b"a", "content")]


def test_file_replaced_by_rename_is_modified_in_its_place(session: Session) -> None:
    session.rename(b"a", b"e/x")
    assert shown(session) == [
        line("deleted", b"a"),
        line("modified", b"e/x", None, "content"),
    ]


def test_backup_then_rewrite_is_a_modification_and_a_new_file(session: Session) -> None:
    session.rename(b"a", b"a~")
    session.write(b"a", b"second version\n")
    assert shown(session) == [
        line("modified", b"a", None, "content"),
        line("created", b"a~"),
    ]


def test_renamed_directory_is_one_change_with_what_changed_below(session: Session) -> None:
    session.rename(b"d", b"moved")
    assert shown(session) == [line("renamed", b"moved", b"d")]
    session.write(b"moved/f", b"changed\n")
    session.unlink(b"moved/g")
    session.write(b"moved/new", b"new\n")
    assert shown(session) == [
        line("deleted", b"d/g"),
        line("renamed", b"moved", b"d"),
        line("modified", b"moved/f", None, "content"),
        line("created", b"moved/new"),
    ]


def test_directory_moved_out_of_a_deleted_one(session: Session) -> None:
    session.rename(b"d/s", b"kept")
    session.remove(b"d")
    assert shown(session) == [
        line("deleted", b"d"),
        line("deleted", b"d/f"),
        line("deleted", b"d/g"),
        line("renamed", b"kept", b"d/s"),
    ]


def test_swapped_directories(session: Session) -> None:
    session.rename(b"d", b"t")
    session.rename(b"e", b"d")
    session.rename(b"t", b"e")
    assert shown(session) == [line("renamed", b"d", b"e"), line("renamed", b"e", b"d")]


def test_directory_renamed_there_and_back_is_none(session: Session) -> None:
    session.rename(b"d", b"t")
    session.rename(b"t", b"d")
    assert shown(session) == []


def test_directory_made_anew_lists_what_differs(session: Session) -> None:
    session.remove(b"d")
    session.mkdir(b"d")
    session.chmod(b"d", stat.S_IMODE(os.lstat(session.base + b"/d").st_mode))
    session.write(b"d/f", b"in d\n")
    session.write(b"d/new", b"new\n")
    assert shown(session) == [
        line("deleted", b"d/g"),
        line("deleted", b"d/s"),
        line("deleted", b"d/s/deep"),
        line("created", b"d/new"),
    ]


def test_retyped_both_ways(session: Session) -> None:
    session.remove(b"e")
    session.write(b"e", b"now a file\n")
    session.unlink(b"a")
    session.mkdir(b"a")
    session.write(b"a/in", b"in\n")
    session.unlink(b"link")
    session.mkfifo(b"link")
    found = changes(session)
    assert [(c.kind, c.path, c.old_type, c.type) for c in found] == [
        ("deleted", b"e/x", None, "file"),
        ("retyped", b"a", "file", "dir"),
        ("created", b"a/in", None, "file"),
        ("retyped", b"e", "dir", "file"),
        ("retyped", b"link", "symlink", "fifo"),
    ]


def test_metadata(session: Session) -> None:
    session.chmod(b"a", 0o4711)
    session.setxattr(b"d", b"user.note", b"x")
    session.setxattr(b"d/f", b"user.overlay.opaque", b"y")
    session.utime(b"e/x", 10**18)
    session.chmod(b"", 0o700)
    assert shown(session) == [
        line("metadata", b"", None, "mode"),
        line("metadata", b"a", None, "mode"),
        line("metadata", b"d", None, "xattrs"),
        line("metadata", b"d/f", None, "xattrs"),
        line("metadata", b"e/x", None, "times"),
    ]


def test_symlink_target(session: Session) -> None:
    session.unlink(b"link")
    session.symlink(b"link", b"b")
    assert shown(session) == [line("modified", b"link", None, "target")]


def test_file_of_several_names_is_listed_where_it_was_touched(session: Session) -> None:
    session.write(b"b", b"changed\n")
    (change,) = changes(session)
    assert (change.path, change.links) == (b"b", 2)
    session.link(b"b2", b"b3")
    assert [(c.kind, c.path, c.links) for c in changes(session)] == [
        ("modified", b"b", 3),
        ("modified", b"b2", 3),
        ("created", b"b3", 3),
    ]


def test_change_made_under_a_name_that_is_gone(session: Session) -> None:
    session.write(b"b", b"changed\n")
    session.unlink(b"b")
    found = changes(session)
    assert [(c.kind, c.path, c.source) for c in found] == [
        ("deleted", b"b", None),
        ("modified", b"b2", None),
    ]
    assert found[1].upper_ino != 0


def test_name_that_left_its_file(session: Session) -> None:
    session.unlink(b"b2")
    session.write(b"b2", b"beta\n")
    assert shown(session) == [line("metadata", b"b2", None, "links")]


def test_name_that_joined_another_file(session: Session) -> None:
    session.unlink(b"a")
    session.link(b"b", b"a")
    assert shown(session) == [line("modified", b"a", None, "content", "links")]


def test_renamed_over_with_several_names_keeps_them_together(session: Session) -> None:
    session.rename(b"b", b"a")
    assert shown(session) == [line("deleted", b"a"), line("renamed", b"a", b"b")]


def test_whiteout_over_nothing_is_none(session: Session) -> None:
    session.unlink(b"a")
    os.unlink(session.base + b"/a")
    assert shown(session) == []


def test_origin_is_what_was_seen_first(session: Session) -> None:
    was = session.identity(b"a")
    session.write(b"a", b"changed\n")
    session.write(b"new", b"new\n")
    Path(os.fsdecode(session.base + b"/a")).write_bytes(b"changed meanwhile\n")
    found = {c.path: c.origin for c in changes(session)}
    assert found == {b"a": was, b"new": None}


def test_mode_and_owner_as_shown(session: Session) -> None:
    session.touch(b"a")
    ino = os.lstat(session.upper(b"a")).st_ino
    st = os.lstat(session.upper(b"a"))
    session.record(Kind.OWNER, ino, b"", session.identity(b"a"))
    session.record(Kind.MODE, ino, b"", session.identity(b"a"))
    os.chmod(session.upper(b"a"), 0o744)
    if os.geteuid() == 0:
        os.chown(session.upper(b"a"), 1234, 1234)
    assert shown(session) == []
    os.chmod(session.upper(b"a"), st.st_mode & 0o7777)
    session.record(Kind.MODE, ino, b"", NOTHING)
    assert shown(session) == []


def test_staging_of_a_commit_is_not_shown(session: Session) -> None:
    os.mkdir(session.base + b"/.goexfs-stage-1")
    os.mkdir(session.base + b"/e/.goexfs-stage-is-a-name-here")
    session.write(b"e/y", b"new\n")
    os.rename(session.upper(b"e/y"), session.upper(b".goexfs-stage-1"))
    os.setxattr(session.upper(b"e"), b"user.overlay.opaque", b"y")
    assert shown(session) == [
        line("deleted", b"e/.goexfs-stage-is-a-name-here"),
        line("deleted", b"e/x"),
        line("created", b".goexfs-stage-1"),
    ]


def test_paths_beyond_path_max(session: Session) -> None:
    name = b"n" * 200
    path = name
    here = os.open(session.upper(b""), os.O_PATH)
    for _ in range(40):
        os.mkdir(name, dir_fd=here)
        os.setxattr(b"/proc/self/fd/%d/%s" % (here, name), b"user.overlay.opaque", b"y")
        deeper = os.open(name, os.O_PATH, dir_fd=here)
        os.close(here)
        here = deeper
        path += b"/" + name
    os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    found = changes(session)
    assert len(found) == 41
    assert found[-1].path == path[: -len(name)] + b"file"


def test_redirect_that_leaves_the_root_is_damage(session: Session) -> None:
    session.rename(b"d", b"t")
    for bad in (b"/../etc", b"/", b"/d//s", b"..", b"/d/."):
        os.setxattr(session.upper(b"t"), REDIRECT, bad)
        with pytest.raises(StoreFailed):
            changes(session)


def test_half_done_directory_rename_is_a_copy(session: Session) -> None:
    session.rename(b"d", b"t")
    os.unlink(session.upper(b"d"))
    assert [c.path for c in changes(session)] == [b"t", b"t/f", b"t/g", b"t/s", b"t/s/deep"]
    assert {c.kind for c in changes(session)} == {"created"}


def test_records_of_other_roots_and_torn_ends_are_passed_over(session: Session) -> None:
    session.write(b"a", b"changed\n")
    with open(session.layer + b"/origins", "ab") as log:
        log.write(encode(Record(Kind.HIDE, 7, 1, 0, b"a", NOTHING)))
        log.write(encode(Record(Kind.HIDE, 0, 1, 0, b"b", NOTHING))[:-1])
    assert shown(session) == [line("modified", b"a", None, "content")]


def test_base_that_changes_type_under_a_copied_directory(session: Session) -> None:
    session.write(b"e/x", b"changed\n")
    os.rename(session.base + b"/e", session.base + b"/elsewhere")
    assert shown(session) == [line("created", b"e"), line("created", b"e/x")]
    os.symlink(b"elsewhere", session.base + b"/e")
    assert shown(session) == [line("retyped", b"e"), line("created", b"e/x")]


def test_no_descriptor_is_left(session: Session) -> None:
    session.write(b"d/s/deep", b"changed\n")
    session.rename(b"d", b"t")
    before = len(os.listdir("/proc/self/fd"))
    changes(session)
    assert len(os.listdir("/proc/self/fd")) == before
