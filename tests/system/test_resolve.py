"""Conflicts decided: the session's version, the base's, or a merge; on real layers and bases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from committing import Bench, Ran, litter
from goexfsd import kernel
from goexfsd.commit import stage
from goexfsd.layer.changes import compute
from goexfsd.layer.originals import LIMIT
from goexfsd.worker import Root
from layering import Root as LayerRoot
from layering import Session
from manifests import differences, manifest

TEXT = "".join(f"line {number}\n" for number in range(20))


class Case:
    """A session over a base, whose user goes on working."""

    def __init__(self, home: Path, fill: Callable[[Path], None]) -> None:
        self.home = home
        self.session = Session.over(home, lambda base: fill(Path(os.fsdecode(base))))
        self.base = Path(os.fsdecode(self.session.base))
        self.bench = Bench(self.session.layer, [Root(0, "r", str(self.base))], home / "before")

    def commit(
        self,
        every: str = "abort",
        resolve: dict[str, str] | None = None,
        paths: Sequence[bytes] = (),
    ) -> Ran:
        rules = [(0, os.fsencode(path), way) for path, way in (resolve or {}).items()]
        self.bench.live = self.session.layer if paths else None
        return self.bench.commit([(0, path) for path in paths], on_conflict=every, resolve=rules)

    def applied(self, every: str = "abort", **resolve: str) -> dict[str, str]:
        """Commit; returns how each conflict was resolved.  Undo gives the tree before."""
        before = manifest(self.base)
        ran = self.commit(every, resolve)
        assert ran.last["event"] == "applied", ran.messages
        assert litter(str(self.base)) == []
        after = manifest(self.base)
        undone = self.bench.undo("undo")
        assert undone.last["event"] == "applied", undone.messages
        assert differences(before, manifest(self.base)) == []
        again = self.bench.undo("again", of=self.home / "undo")
        assert again.last["event"] == "applied", again.messages
        assert differences(after, manifest(self.base)) == []
        return ways(ran)

    def refused(self, every: str = "abort", **resolve: str) -> list[dict[str, Any]]:
        """Commit; conflicts must be left, and nothing touched."""
        before = manifest(self.base)
        ran = self.commit(every, resolve)
        assert ran.last["event"] == "conflicts", ran.messages
        assert differences(before, manifest(self.base)) == []
        found: list[dict[str, Any]] = ran.last["conflicts"]
        return found

    def read(self, name: str) -> str:
        return (self.base / name).read_text()


def ways(ran: Ran) -> dict[str, str]:
    told = ran.get("resolved") or {"resolved": []}
    return {each["path"]: each["way"] for each in told["resolved"]}


def places(found: list[dict[str, Any]]) -> dict[str, str]:
    return {each["path"]: each["reason"] for each in found}


@pytest.fixture
def make(arena: Path) -> Iterator[Callable[[Callable[[Path], None]], Case]]:
    cases: list[Case] = []

    def build(fill: Callable[[Path], None]) -> Case:
        home = arena / f"case{len(cases)}"
        home.mkdir()
        cases.append(Case(home, fill))
        return cases[-1]

    yield build
    for case in cases:
        case.session.close()


Make = Callable[[Callable[[Path], None]], Case]


def project(base: Path) -> None:
    for name in ("a", "b", "c", "d/x", "d/y", "e/sub/z", "e/other"):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT)


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def session_edit(case: Case, name: str, old: str, new: str) -> None:
    text = Path(os.fsdecode(case.session.model), name).read_text()
    case.session.write(os.fsencode(name), text.replace(old, new).encode())


@pytest.fixture
def both(make: Make) -> Case:
    """Edits at both ends of ``a``, two of one line in ``b``; ``c`` deleted here, edited there."""
    case = make(project)
    session_edit(case, "a", "line 2\n", "session\n")
    session_edit(case, "b", "line 2\n", "session\n")
    case.session.unlink(b"c")
    case.session.write(b"fine", b"no conflict\n")
    edit(case.base / "a", "line 17\n", "user\n")
    edit(case.base / "b", "line 2\n", "user\n")
    edit(case.base / "c", "line 2\n", "user\n")
    (case.base / "own").write_text("the user's\n")
    return case


def test_both_sides_are_described(both: Case) -> None:
    found = {each["path"]: each for each in both.refused()}
    assert set(found) == {"a", "b", "c"}
    assert found["c"]["theirs"] == "its contents changed in the base"
    assert found["c"]["mine"] == "the session deletes it"
    assert found["c"]["detail"] == "its contents changed in the base; the session deletes it"
    assert found["a"]["choices"] == ["mine", "theirs", "merge"]


def test_mine(both: Case) -> None:
    assert both.applied("mine") == {"a": "mine", "b": "mine", "c": "mine"}
    assert both.read("a") == TEXT.replace("line 2\n", "session\n")
    assert not (both.base / "c").exists()
    assert both.read("own") == "the user's\n"


def test_theirs(both: Case) -> None:
    assert both.applied("theirs") == {"a": "theirs", "b": "theirs", "c": "theirs"}
    assert both.read("b") == TEXT.replace("line 2\n", "user\n")
    assert both.read("c") == TEXT.replace("line 2\n", "user\n")
    assert both.read("fine") == "no conflict\n"


def test_merge_leaves_what_cannot_be(both: Case) -> None:
    found = both.refused("merge")
    assert places(found) == {"b": "changed", "c": "changed"}
    assert "1 place changed on both sides" in found[1]["detail"]
    assert found[1]["choices"] == ["mine", "theirs"]


def test_one_by_one(both: Case) -> None:
    assert places(both.refused(a="merge", b="theirs")) == {"c": "changed"}
    found = both.applied("mine", a="merge", b="theirs")
    assert found == {"a": "merge", "b": "theirs", "c": "mine"}
    merged = TEXT.replace("line 2\n", "session\n").replace("line 17\n", "user\n")
    assert both.read("a") == merged
    assert both.read("b") == TEXT.replace("line 2\n", "user\n")


def test_the_longest_path_counts(make: Make) -> None:
    case = make(project)
    for name in ("d/x", "d/y"):
        session_edit(case, name, "line 2\n", "session\n")
        edit(case.base / name, "line 2\n", "user\n")
    assert case.applied(**{"d": "mine", "d/x": "theirs"}) == {"d/x": "theirs", "d/y": "mine"}
    assert "user" in case.read("d/x")
    assert "session" in case.read("d/y")


def test_a_path_without_changes_is_an_error(both: Case) -> None:
    ran = both.commit("mine", {"nowhere": "mine"})
    assert ran.last["error"]["data"]["code"] == "not_found", ran.messages


def test_deleted_there_edited_here(make: Make) -> None:
    case = make(project)
    session_edit(case, "e/sub/z", "line 2\n", "session\n")
    for name in ("e/sub/z", "e/other"):
        (case.base / name).unlink()
    (case.base / "e/sub").rmdir()
    (case.base / "e").rmdir()
    assert places(case.refused("merge")) == {"e": "deleted"}
    assert case.applied(**{"e/sub/z": "mine"}) == {"e": "mine"}
    assert "session" in case.read("e/sub/z")
    assert not (case.base / "e/other").exists()


def test_deleted_there_and_theirs(make: Make) -> None:
    case = make(project)
    session_edit(case, "e/sub/z", "line 2\n", "session\n")
    case.session.write(b"e/new", b"new\n")
    case.session.write(b"fine", b"fine\n")
    (case.base / "e").rename(case.base / "elsewhere")
    found = case.applied(e="theirs")
    assert found == {"e": "theirs", "e/new": "theirs", "e/sub": "theirs", "e/sub/z": "theirs"}
    assert sorted(os.listdir(case.base)) == ["a", "b", "c", "d", "elsewhere", "fine"]


def test_a_directory_emptied_here_and_filled_there(make: Make) -> None:
    case = make(project)
    case.session.remove(b"d")
    (case.base / "d/own").write_text("the user's\n")
    assert places(case.refused()) == {"d/own": "created"}
    assert case.applied("merge") == {"d": "theirs", "d/own": "merge"}
    assert os.listdir(case.base / "d") == ["own"]


def test_a_deleted_directory_of_which_one_file_stays(make: Make) -> None:
    case = make(project)
    case.session.remove(b"d")
    edit(case.base / "d/x", "line 2\n", "user\n")
    assert case.applied("theirs") == {"d": "theirs", "d/x": "theirs"}
    assert os.listdir(case.base / "d") == ["x"]


def test_both_made_a_directory(make: Make) -> None:
    case = make(project)
    case.session.mkdir(b"new")
    case.session.write(b"new/mine", b"session\n")
    case.session.write(b"new/both", b"session\n")
    (case.base / "new").mkdir()
    (case.base / "new/theirs").write_text("user\n")
    (case.base / "new/both").write_text("user\n")
    assert places(case.refused("merge")) == {"new/both": "created"}
    found = case.applied("merge", **{"new/both": "theirs"})
    assert found == {"new/theirs": "merge", "new/both": "theirs"}
    assert sorted(os.listdir(case.base / "new")) == ["both", "mine", "theirs"]
    assert case.read("new/both") == "user\n"


def test_a_directory_here_a_file_there(make: Make) -> None:
    case = make(project)
    case.session.mkdir(b"new")
    case.session.write(b"new/file", b"session\n")
    case.session.write(b"fine", b"fine\n")
    (case.base / "new").write_text("user\n")
    assert places(case.refused("merge")) == {"new": "created"}
    assert case.applied("mine") == {"new": "mine"}
    assert case.read("new/file") == "session\n"


def test_a_directory_here_a_file_there_which_stays(make: Make) -> None:
    case = make(project)
    case.session.mkdir(b"new")
    case.session.rename(b"a", b"new/a")
    case.session.write(b"fine", b"fine\n")
    (case.base / "new").write_text("user\n")
    assert case.applied("theirs") == {"new": "theirs", "new/a": "theirs"}
    assert case.read("new") == "user\n"
    assert case.read("a") == TEXT


def test_what_the_session_moved_away_does_not_return(make: Make) -> None:
    """The change list knows no rename to a name that the base has: two files are modified."""
    case = make(project)
    case.session.rename(b"a", b"moved")
    case.session.write(b"a", b"another file\n")
    case.session.write(b"fine", b"fine\n")
    (case.base / "moved").write_text("user\n")
    assert places(case.refused()) == {"moved": "created"}
    assert case.applied("theirs") == {"moved": "theirs"}
    assert (case.read("a"), case.read("moved")) == ("another file\n", "user\n")


def test_a_rename_over_what_the_user_made(make: Make) -> None:
    case = make(project)
    case.session.rename(b"a", b"moved")
    (case.base / "moved").write_text("user\n")
    assert case.applied("mine") == {"moved": "mine"}
    assert case.read("moved") == TEXT
    assert not (case.base / "a").exists()


def test_renamed_here_edited_there(make: Make) -> None:
    case = make(project)
    case.session.rename(b"a", b"moved")
    edit(case.base / "a", "line 2\n", "user\n")
    assert places(case.refused()) == {"moved": "changed"}
    assert case.applied("merge") == {"moved": "merge"}
    assert "user" in case.read("moved")
    assert not (case.base / "a").exists()


def test_edited_in_a_renamed_directory(make: Make) -> None:
    case = make(project)
    case.session.rename(b"d", b"moved")
    session_edit(case, "moved/x", "line 2\n", "session\n")
    edit(case.base / "d/x", "line 17\n", "user\n")
    assert case.applied("merge") == {"moved/x": "merge"}
    merged = TEXT.replace("line 2\n", "session\n").replace("line 17\n", "user\n")
    assert case.read("moved/x") == merged


def test_replaced_by_rename_on_both_sides(make: Make) -> None:
    """As editors save."""
    case = make(project)
    case.session.write(b"a.tmp", TEXT.replace("line 2\n", "session\n").encode())
    case.session.rename(b"a.tmp", b"a")
    (case.base / "a.swp").write_text(TEXT.replace("line 17\n", "user\n"))
    (case.base / "a.swp").rename(case.base / "a")
    assert places(case.refused()) == {"a": "replaced"}
    assert case.applied("merge") == {"a": "merge"}
    merged = TEXT.replace("line 2\n", "session\n").replace("line 17\n", "user\n")
    assert case.read("a") == merged


def test_attributes_here_text_there(make: Make) -> None:
    case = make(project)
    case.session.chmod(b"a", 0o750)
    edit(case.base / "a", "line 2\n", "user\n")
    session_edit(case, "b", "line 2\n", "session\n")
    (case.base / "b").chmod(0o705)
    case.session.chmod(b"c", 0o700)
    (case.base / "c").chmod(0o755)
    case.session.chmod(b"d", 0o700)
    (case.base / "d").chmod(0o777)
    assert places(case.refused("merge")) == {"c": "changed", "d": "changed"}
    found = case.applied("merge", c="mine", d="theirs")
    assert found == {"a": "merge", "b": "merge", "c": "mine", "d": "theirs"}
    modes = {name: (case.base / name).stat().st_mode & 0o777 for name in "abcd"}
    assert modes == {"a": 0o750, "b": 0o705, "c": 0o700, "d": 0o777}
    assert "user" in case.read("a")
    assert "session" in case.read("b")


def test_a_change_time_alone(make: Make) -> None:
    case = make(project)
    case.session.unlink(b"a")
    session_edit(case, "b", "line 2\n", "session\n")
    for name in ("a", "b"):
        (case.base / name).chmod(0o600)
        (case.base / name).chmod(0o644)
    assert places(case.refused()) == {"a": "changed", "b": "changed"}
    assert case.applied("merge", a="mine") == {"a": "mine", "b": "merge"}
    assert "session" in case.read("b")


def test_an_edit_that_puts_the_time_back_is_seen(make: Make) -> None:
    """The bytes are compared, not what stat says of them."""
    case = make(project)
    session_edit(case, "a", "line 2\n", "session\n")
    session_edit(case, "b", "line 2\n", "session\n")
    for name, line in (("a", "line 15\n"), ("b", "line 2\n")):
        st = (case.base / name).stat()
        edit(case.base / name, line, line.upper())
        os.utime(case.base / name, ns=(st.st_atime_ns, st.st_mtime_ns))
        assert (case.base / name).stat().st_size == st.st_size
    assert places(case.refused("merge")) == {"b": "changed"}
    assert case.applied("merge", b="theirs") == {"a": "merge", "b": "theirs"}
    assert "LINE 15\n" in case.read("a")
    assert "session\n" in case.read("a")


def test_large_files_are_not_merged(make: Make) -> None:
    def fill(base: Path) -> None:
        (base / "big").write_text("x" * 80 + "\n" * (LIMIT + 1))

    case = make(fill)
    case.session.write(b"big", b"session\n")
    (case.base / "big").chmod(0o600)
    assert "not kept" in case.refused("merge")[0]["detail"]


def test_binary_files_are_not_merged(make: Make) -> None:
    def fill(base: Path) -> None:
        (base / "bin").write_bytes(b"\0" + TEXT.encode())

    case = make(fill)
    case.session.write(b"bin", b"\0session")
    (case.base / "bin").write_bytes(b"\0user")
    assert "not text" in case.refused("merge")[0]["detail"]


def test_hard_links_are_merged_once(make: Make) -> None:
    def fill(base: Path) -> None:
        project(base)
        os.link(base / "a", base / "twin")

    case = make(fill)
    session_edit(case, "a", "line 2\n", "session\n")
    edit(case.base / "twin", "line 17\n", "user\n")
    case.applied("merge")
    merged = TEXT.replace("line 2\n", "session\n").replace("line 17\n", "user\n")
    assert (case.read("a"), case.read("twin")) == (merged, merged)
    assert (case.base / "a").stat().st_ino == (case.base / "twin").stat().st_ino


def test_a_mount_point_only_stays(make: Make) -> None:
    case = make(project)
    session_edit(case, "a", "line 2\n", "session\n")
    case.session.write(b"fine", b"fine\n")
    other = case.home / "other"
    other.write_text("mounted\n")
    kernel.mount(str(other), str(case.base / "a"), None, kernel.MS_BIND, None)
    try:
        found = case.refused("mine")
        assert places(found) == {"a": "replaced"} or places(found) == {"a": "blocked"}
        ran = case.commit("theirs")
        assert ran.last["event"] == "applied", ran.messages
    finally:
        kernel.umount(str(case.base / "a"), kernel.MNT_DETACH)
    assert case.read("a") == TEXT
    assert case.read("fine") == "fine\n"


def test_a_file_that_is_mounted_on_itself(make: Make) -> None:
    """It is the very inode that it was: only the mount table tells."""
    case = make(project)
    session_edit(case, "a", "line 2\n", "session\n")
    file = str(case.base / "a")
    kernel.mount(file, file, None, kernel.MS_BIND, None)
    try:
        assert places(case.refused("mine")) == {"a": "blocked"}
    finally:
        kernel.umount(file, kernel.MNT_DETACH)
    assert case.read("a") == TEXT


def test_a_directory_that_became_a_mount_point(make: Make) -> None:
    case = make(project)
    session_edit(case, "d/x", "line 2\n", "session\n")
    case.session.write(b"fine", b"fine\n")
    other = case.home / "other"
    other.mkdir()
    (other / "x").write_text("mounted\n")
    kernel.mount(str(other), str(case.base / "d"), None, kernel.MS_BIND, None)
    try:
        found = case.refused("mine")
        assert "became a mount point" in found[0]["detail"]
        assert case.commit("theirs").last["event"] == "applied"
        assert (other / "x").read_text() == "mounted\n"
    finally:
        kernel.umount(str(case.base / "d"), kernel.MNT_DETACH)


def test_a_replaced_directory(make: Make) -> None:
    case = make(project)
    session_edit(case, "d/x", "line 2\n", "session\n")
    (case.base / "d").rename(case.base / "d.old")
    (case.base / "d").mkdir()
    (case.base / "d/own").write_text("user\n")
    found = case.refused("merge")
    assert found[0]["theirs"] == "its directory d was replaced by another in the base"
    case.applied("mine")
    assert "session" in case.read("d/x")
    assert case.read("d/own") == "user\n"
    assert case.read("d.old/x") == TEXT


def test_a_type_that_changed(make: Make) -> None:
    case = make(project)
    session_edit(case, "e/sub/z", "line 2\n", "session\n")
    session_edit(case, "a", "line 2\n", "session\n")
    (case.base / "e").rename(case.base / "away")
    (case.base / "e").symlink_to("away")
    (case.base / "a").unlink()
    (case.base / "a").mkdir()
    (case.base / "a/own").write_text("user\n")
    found = case.refused("merge")
    assert places(found) == {"a": "retyped", "a/own": "created", "e": "retyped"}
    case.applied("mine")
    assert "session" in case.read("a")
    assert not (case.base / "e").is_symlink()
    assert case.read("away/sub/z") == TEXT


def test_a_part_leaves_what_was_dropped_in_the_session(both: Case) -> None:
    ran = both.commit("theirs", paths=[b"a", b"fine"])
    assert ran.last["event"] == "applied", ran.messages
    assert ran.last["remaining_total"] == 3
    assert both.read("a") == TEXT.replace("line 17\n", "user\n")
    layer = os.open(both.session.layer, os.O_RDONLY | os.O_DIRECTORY)
    top = os.open(both.session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        left = {change.path for change in compute(layer, [LayerRoot()], [top])}
    finally:
        os.close(layer)
        os.close(top)
    assert left == {b"a", b"b", b"c"}
    both.bench.before = both.home / "rest"
    assert both.applied("merge", b="mine", c="mine") == {"a": "merge", "b": "mine", "c": "mine"}


def test_nothing_left_to_commit(make: Make) -> None:
    case = make(project)
    session_edit(case, "a", "line 2\n", "session\n")
    edit(case.base / "a", "line 2\n", "user\n")
    ran = case.commit("theirs")
    assert ran.last["event"] == "nothing", ran.messages
    assert ways(ran) == {"a": "theirs"}


def test_decided_and_changed_again_is_a_conflict_again(
    both: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look, right before the intent, holds the base to what was decided upon."""
    flush = stage.sync

    def slow(*arguments: Any) -> None:
        flush(*arguments)
        (both.base / "c").write_text("the user's, once more\n")
        (both.base / "a").unlink()

    monkeypatch.setattr(stage, "sync", slow)
    ran = both.commit("mine", {"a": "merge"})
    assert ran.last["event"] == "conflicts", ran.messages
    assert places(ran.last["conflicts"]) == {"a": "changed", "c": "changed"}
    assert all("once more" in each["detail"] for each in ran.last["conflicts"])
    assert both.read("c") == "the user's, once more\n"
    assert not (both.base / "a").exists()
    assert litter(str(both.base)) == []


def test_a_name_that_the_user_gave_a_file_stays_with_it(make: Make) -> None:
    case = make(project)
    session_edit(case, "a", "line 2\n", "session\n")
    os.link(case.base / "a", case.base / "twin")
    assert case.applied("mine") == {"a": "mine"}
    assert case.read("twin") == case.read("a") == TEXT.replace("line 2\n", "session\n")
