"""What btrfs says is newer, and what the change list makes of it: relations, costs, hard cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import btrfsutil
import pytest

import views
from daemons import Goexfs, User
from goexfsd.layer.origins import NOTHING, Identity, Kind, Record, encode
from goexfsd.layer.since import Newer, open_parts
from goexfsd.store.newer import newer
from layering import Root
from sincecheck import Kept, between


@pytest.fixture
def kept(btrfs_image: Path) -> Iterator[Kept]:
    base = btrfs_image / "base"
    base.mkdir()
    for name in ("a", "b"):
        (base / name).write_text("x")
    (base / "d").mkdir()
    kept = Kept(views.create_layer(btrfs_image / "layer", views.ROOT, ["r"]), [Root()], base)
    yield kept
    for path in (*btrfs_image.glob("ckpt-*"), *btrfs_image.glob("layer*")):
        btrfsutil.delete_subvolume(str(path))


def upper(kept: Kept) -> Path:
    return kept.layer / "upper" / "r"


def write(kept: Kept, name: str, text: str) -> None:
    """A file of the session's own."""
    path = upper(kept) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def back(kept: Kept, number: int) -> None:
    """As a rewind: the layer is a new snapshot of a checkpoint."""
    btrfsutil.delete_subvolume(str(kept.layer))
    btrfsutil.create_snapshot(str(kept.snapshots[number]), str(kept.layer))


def told(kept: Kept, old: int, new: int | None) -> bool:
    btrfsutil.sync(str(kept.layer))
    after = kept.layer if new is None else kept.snapshots[new]
    return newer(kept.snapshots[old], after) is not None


def paths(kept: Kept, old: int, new: int) -> set[bytes]:
    """Below the root, as ``newer`` names them; of changed inodes only."""
    found = newer(kept.snapshots[old], kept.snapshots[new])
    assert found is not None
    return {name for ino in found.changed for _, name in found.names[ino]}


# -- what the file system says --------------------------------------------------------------------


def test_only_what_changed_is_named_and_all_its_names(kept: Kept) -> None:
    for number in range(500):
        write(kept, f"{number % 5}/{number}", "x")
    os.link(upper(kept) / "1" / "6", upper(kept) / "2" / "other")
    kept.keep()
    kept.keep()
    write(kept, "1/6", "longer")
    (upper(kept) / "3" / "8").unlink()
    kept.keep()
    assert newer(kept.snapshots[0], kept.snapshots[1]) is not None
    assert paths(kept, 0, 1) == set()
    assert paths(kept, 1, 2) == {b"6", b"other", b"3"}


def test_more_names_than_one_item_holds_are_all_told(kept: Kept) -> None:
    write(kept, "file", "x")
    names = [f"{number:03}" + "n" * 200 for number in range(300)]
    for name in names:
        os.link(upper(kept) / "file", upper(kept) / name)
    kept.keep()
    with open(upper(kept) / "file", "a") as file:
        file.write("y")
    kept.keep()
    assert paths(kept, 0, 1) == {b"file", *map(str.encode, names)}


def test_relations(kept: Kept) -> None:
    for number in range(3):
        write(kept, "file", f"{number}")
        kept.keep()
    back(kept, 0)
    write(kept, "file", "other")
    kept.keep()  # 3: beside 1 and 2
    assert told(kept, 0, 2)
    assert told(kept, 0, 3)
    assert told(kept, 3, None)
    assert told(kept, 0, None)
    assert not told(kept, 2, 0)
    assert not told(kept, 2, 3)
    assert not told(kept, 3, 2)
    assert not told(kept, 1, None)
    back(kept, 3)
    kept.keep()  # 4
    assert told(kept, 3, 4)
    kept.check()


def test_a_layer_left_by_two_rewinds_cannot_be_traced(kept: Kept) -> None:
    """Whatever is not told must be walked, and is."""
    write(kept, "file", "0")
    kept.keep()
    back(kept, 0)
    write(kept, "file", "1")
    kept.keep()
    back(kept, 0)
    assert not told(kept, 0, 1)
    asked: list[bool] = []
    (change,) = between(kept.snapshots[0], kept.snapshots[1], kept.roots, kept.base, asked=asked)
    assert (asked, change.kind) == ([False], "modified")


def test_a_fork_is_traced_to_its_first_checkpoint(kept: Kept) -> None:
    write(kept, "file", "0")
    kept.keep()
    first, fork = kept.layer.parent / "ckpt-first", kept.layer.parent / "layer-fork"
    btrfsutil.create_snapshot(str(kept.snapshots[0]), str(first), read_only=True)
    btrfsutil.create_snapshot(str(kept.snapshots[0]), str(fork))
    (fork / "upper" / "r" / "file").write_text("1")
    btrfsutil.sync(str(fork))
    last = kept.layer.parent / "ckpt-last"
    btrfsutil.create_snapshot(str(fork), str(last), read_only=True)
    for new in (fork, last):
        asked: list[bool] = []
        (change,) = between(first, new, kept.roots, kept.base, asked=asked)
        assert (asked, change.kind) == ([True], "modified")


@pytest.mark.parametrize("many", [1, 5_000])
def test_further_inodes_are_named_as_far_as_they_exist(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr("goexfsd.store.newer.MANY", many)
    write(kept, "there", "x")
    write(kept, "gone", "x")
    kept.keep()
    write(kept, "new", "x")
    (upper(kept) / "gone").unlink()
    there, new = ((upper(kept) / name).stat().st_ino for name in ("there", "new"))
    kept.keep()
    found = newer(kept.snapshots[0], kept.snapshots[1], [there, there + 1, new, new + 9])
    assert found is not None
    assert {there, new} < found.changed
    assert not {there + 1, new + 9} & found.names.keys()


def test_much_of_a_small_layer_is_not_told(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is walked; little of a large one is told, however much it is."""
    monkeypatch.setattr("goexfsd.store.newer.MANY", 50)
    for number in range(400):
        write(kept, f"{number % 4}/{number}", "x")
    kept.keep()
    for number in range(80):
        write(kept, f"{number % 4}/{number}", "yy")
    kept.keep()
    for number in range(150):
        write(kept, f"{number % 4}/{number}", "z")
    kept.keep()
    assert told(kept, 0, 1)
    assert not told(kept, 1, 2)


# -- what the change list makes of it --------------------------------------------------------------


def record(kept: Kept, kind: Kind, ino: int, path: bytes, identity: Identity) -> None:
    with open(kept.layer / "origins", "ab") as log:
        log.write(encode(Record(kind, 0, 1, ino, path, identity)))


def test_a_record_alone_is_a_change(kept: Kept) -> None:
    """An owner that the disk cannot have is told by the log only."""
    write(kept, "d/file", "x")
    kept.keep()
    ino = (upper(kept) / "d" / "file").stat().st_ino
    record(kept, Kind.OWNER, ino, b"", Identity(0, 0, 0, 0, 7, 8, 0, 0, 0, 0))
    record(kept, Kind.OWNER, 99_999, b"", NOTHING)  # of what is gone
    kept.keep()
    asked: list[bool] = []
    (change,) = between(kept.snapshots[0], kept.snapshots[1], kept.roots, kept.base, asked=asked)
    assert asked == [True]
    assert (change.path, set(change.aspects)) == (b"d/file", {"owner"})
    kept.check()


def test_a_log_that_was_written_anew_is_walked(kept: Kept) -> None:
    """As a partial commit does it: then the same inode may stand for something else."""
    (upper(kept) / "a").write_text("y")
    st = os.stat(kept.base / "a")
    ino = (upper(kept) / "a").stat().st_ino
    record(kept, Kind.COPY, ino, b"a", Identity.of(st, st.st_dev))
    kept.keep()
    (kept.layer / "origins").rename(kept.layer / "origins.old")
    (kept.layer / "origins").touch()
    kept.keep()
    asked: list[bool] = []
    between(kept.snapshots[0], kept.snapshots[1], kept.roots, kept.base, asked=asked)
    assert asked == []


def test_a_log_with_a_torn_end_is_walked(kept: Kept) -> None:
    """What lies there in the newer one is not where it was in the older."""
    with open(kept.layer / "origins", "ab") as log:
        log.write(encode(Record(Kind.TIMES, 0, 1, 300, b"", NOTHING))[:20])
    kept.keep()
    os.truncate(kept.layer / "origins", 0)
    record(kept, Kind.TIMES, 300, b"", NOTHING)
    kept.keep()
    asked: list[bool] = []
    between(kept.snapshots[0], kept.snapshots[1], kept.roots, kept.base, asked=asked)
    assert asked == []


def linked(kept: Kept) -> None:
    """``a`` and ``d/same`` are one file of the base, copied up under the name ``a``."""
    os.link(kept.base / "a", kept.base / "d" / "same")
    st = os.stat(kept.base / "a")
    (upper(kept) / "a").write_text("y")
    os.link(upper(kept) / "a", kept.layer / "index" / f"0-0-{st.st_ino:x}")
    ino = (upper(kept) / "a").stat().st_ino
    record(kept, Kind.COPY, ino, b"a", Identity.of(st, st.st_dev))


def test_a_file_with_several_names_is_listed_where_it_was_copied_up(kept: Kept) -> None:
    linked(kept)
    kept.keep()
    (upper(kept) / "a").write_text("yy")
    kept.keep()
    asked: list[bool] = []
    (change,) = between(kept.snapshots[0], kept.snapshots[1], kept.roots, kept.base, asked=asked)
    assert (asked, change.path, change.links) == ([True], b"a", 2)
    kept.check()


def test_a_changed_file_without_an_upper_name_is_found(kept: Kept) -> None:
    """It shows as ``d/same`` only, of which no upper tree speaks."""
    linked(kept)
    (upper(kept) / "a").unlink()
    os.mknod(upper(kept) / "a", 0o020000, 0)
    st = os.stat(kept.base / "a")
    record(kept, Kind.HIDE, 0, b"a", Identity.of(st, st.st_dev))
    kept.keep()
    next((kept.layer / "index").iterdir()).write_text("yy")
    kept.keep()
    (change,) = between(kept.snapshots[0], kept.snapshots[1], kept.roots, kept.base, asked=[])
    assert (change.kind, change.path) == ("modified", b"d/same")


@pytest.mark.parametrize("work", ["write", "create", "delete", "rename"])
def test_little_is_read_of_a_large_layer(kept: Kept, work: str) -> None:
    for number in range(400):
        write(kept, f"{number // 20}/{number}", "x")
    kept.keep()
    one = upper(kept) / "7" / "140"
    if work == "write":
        one.write_text("longer")
    elif work == "create":
        write(kept, "7/new", "x")
    elif work == "delete":
        one.unlink()
    else:
        (upper(kept) / "7").rename(upper(kept) / "8" / "moved")
    kept.keep()

    def ask(also: list[int]) -> Newer | None:
        found = newer(kept.snapshots[0], kept.snapshots[1], also)
        return None if found is None else Newer(found.changed, found.names)

    fds = [os.open(path, os.O_RDONLY) for path in (*kept.snapshots, kept.base)]
    parts = open_parts(fds[0], fds[1], kept.roots, fds[2:], ask, lambda: None)
    assert parts is not None
    for part in parts[0]:
        assert nodes(part.uppermost) < 8
        part.close()
    for fd in fds:
        os.close(fd)


def nodes(node: object) -> int:
    children = getattr(node, "children", None) or {}
    return 1 + sum(nodes(child) for child in children.values())


# -- sessions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["fuse", "kernel"])
def test_what_each_step_changed_over_rewinds_and_a_partial_commit(
    tree: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Callable[..., Any], view: str
) -> None:
    how: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    goexfs("mount", tree, "--view", view, **how)

    def step(script: str) -> set[tuple[str, str]]:
        """What a step changed, as its summary and its diff have it."""
        ran = goexfs_json("run", "--", "sh", "-ec", script, **how)
        found = goexfs_json("diff", "--step", str(ran["step"]), **how)
        assert found["summary"] == ran["summary"]
        return {(each["kind"], each["path"]) for each in found["changes"]}

    assert step("echo 1 > one; mkdir new; echo 2 > new/two; echo 3 >> run.sh") == {
        ("created", "one"),
        ("created", "new"),
        ("created", "new/two"),
        ("modified", "run.sh"),
    }
    assert step("echo more >> new/two; chmod 600 README.md") == {
        ("modified", "new/two"),
        ("metadata", "README.md"),
    }
    goexfs("rewind", "1", **how)
    assert step("mv new newer; rm one") == {("deleted", "one"), ("renamed", "newer")}
    live = goexfs_json("diff", "--from", "1", **how)
    assert live["summary"] == {**live["summary"], "deleted": 1, "renamed": 1, "created": 0}
    goexfs("commit", "run.sh", **how)
    assert step("echo 4 >> newer/two; rm -r src/deep") >= {
        ("modified", "newer/two"),
        ("deleted", "src/deep/er"),
    }
