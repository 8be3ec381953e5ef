"""The view as programs see it: what a local disk promises, over a base that must not change."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import User
from goexfsd import kernel
from goexfsd.layer.origins import Kind, load
from manifests import differences, manifest
from views import View, mounted


@pytest.fixture
def view(arena: Path, btrfs_image: Path, tree: Path) -> Iterator[View]:
    """A session of root over the small project, which is unchanged in the end."""
    before = manifest(tree)
    with mounted(arena, [tree], btrfs_image) as mounted_view:
        yield mounted_view
    assert differences(before, manifest(tree)) == []


def test_the_view_is_the_base_at_first(view: View, tree: Path) -> None:
    assert differences(manifest(tree, extents=False), manifest(view.top, extents=False)) == []
    assert os.listdir(view.layer / "upper" / "project") == []


def test_inode_numbers_stay_over_copy_up_and_remount(view: View) -> None:
    paths = [view.top / "README.md", view.top / "src", view.top / "src" / "main.py"]
    before = [path.stat().st_ino for path in paths]
    (view.top / "README.md").write_text("changed")
    (view.top / "src" / "main.py").write_text("changed")
    os.mkdir(view.top / "new")
    new = (view.top / "new").stat().st_ino
    assert [path.stat().st_ino for path in paths] == before
    view.remount()
    assert [path.stat().st_ino for path in paths] == before
    assert (view.top / "new").stat().st_ino == new


def test_readers_go_on_with_the_copy(view: View) -> None:
    with open(view.top / "README.md", "rb") as reader:
        assert reader.read() == b"# project\n"
        with open(view.top / "README.md", "ab") as writer:
            writer.write(b"more\n")
        assert reader.read() == b"more\n"


def test_hard_links_are_kept_over_copy_up(view: View) -> None:
    one, two = view.top / "src" / "main.py", view.top / "src" / "same.py"
    assert one.stat().st_nlink == 2
    one.write_text("both")
    assert two.read_text() == "both"
    assert one.stat().st_ino == two.stat().st_ino
    assert one.stat().st_nlink == 2
    os.link(two, view.top / "third")
    two.unlink()
    assert one.stat().st_nlink == 2
    view.remount()
    assert one.stat().st_nlink == 2
    one.unlink()
    assert (view.top / "third").read_text() == "both"
    assert (view.top / "third").stat().st_nlink == 1
    (view.top / "third").unlink()
    assert os.listdir(view.layer / "index") == []


def test_a_copy_is_found_by_the_last_name_that_the_base_leaves(
    arena: Path, btrfs_image: Path
) -> None:
    base = arena / "base"
    base.mkdir()
    (base / "f").write_text("base\n")
    os.link(base / "f", base / "h")
    with mounted(arena, [base], btrfs_image) as view:
        with open(view.top / "f", "a") as file:
            file.write("session\n")
        (view.top / "t").write_text("another")
        (view.top / "t").rename(view.top / "f")
        assert (view.top / "h").read_text() == "base\nsession\n"
        (base / "f").unlink()
        view.remount()
        assert (view.top / "h").read_text() == "base\nsession\n"
        assert (view.top / "f").read_text() == "another"


def test_a_directory_is_renamed_without_copying(view: View) -> None:
    os.rename(view.top / "src", view.top / "code")
    assert (view.top / "code" / "deep" / "er" / "data.bin").stat().st_size == 16384
    upper = view.layer / "upper" / "project"
    assert os.listdir(upper / "code") == []
    assert os.getxattr(upper / "code", "user.overlay.redirect") == b"/src"
    assert stat.S_ISCHR((upper / "src").lstat().st_mode)
    os.rename(view.top / "code" / "deep", view.top / "empty" / "deep")
    view.remount()
    assert (view.top / "empty" / "deep" / "er" / "data.bin").stat().st_size == 16384
    assert not (view.top / "src").exists()


def test_records_come_with_every_change_of_the_base(view: View) -> None:
    view.command("step", number=7)
    (view.top / "README.md").write_text("x")
    (view.top / "run.sh").unlink()
    os.rename(view.top / "private", view.top / "public")
    os.utime(view.top / "public", ns=(5, 5))
    view.command("sync")
    fd = os.open(view.layer, os.O_RDONLY)
    records, _ = load(fd, b"origins")
    os.close(fd)
    told = {(record.kind, record.path, record.step) for record in records}
    assert told >= {
        (Kind.COPY, b"", 7),
        (Kind.COPY, b"README.md", 7),
        (Kind.HIDE, b"run.sh", 7),
        (Kind.COPY, b"private", 7),
        (Kind.HIDE, b"private", 7),
    }
    public = (view.layer / "upper" / "project" / "public").stat().st_ino
    assert any(r.kind is Kind.TIMES and r.upper_ino == public for r in records)


def test_the_log_does_not_grow_with_what_happens_again(view: View) -> None:
    """A base file that is replaced by a new one over and over, as editors do."""

    def save(count: int) -> int:
        for number in range(count):
            (view.top / "new").write_text(f"{number}")
            os.rename(view.top / "new", view.top / "README.md")
            (view.top / "README.md").unlink()
            (view.top / "README.md").write_text("again")
        return (view.layer / "origins").stat().st_size

    once = save(1)
    assert save(50) == once
    view.remount()
    assert save(50) == once


def test_open_files_outlive_their_names(view: View) -> None:
    with open(view.top / "README.md", "r+b") as file:
        os.unlink(view.top / "README.md")
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"into nowhere")
        file.flush()
        file.seek(0)
        assert file.read() == b"into nowhere"
    assert not (view.top / "README.md").exists()
    assert os.listdir(view.layer / "work") == []


def test_a_directory_made_anew_shows_nothing_of_the_old(view: View) -> None:
    subprocess.run(["rm", "-r", str(view.top / "src")], check=True)
    os.mkdir(view.top / "src")
    assert os.listdir(view.top / "src") == []
    (view.top / "src" / "main.py").write_text("new")
    view.remount()
    assert os.listdir(view.top / "src") == ["main.py"]


def test_renames_with_flags(view: View) -> None:
    def rename(old: str, new: str, flags: int) -> None:
        source, target = os.fsencode(view.top / old), os.fsencode(view.top / new)
        kernel.renameat2(kernel.AT_FDCWD, source, kernel.AT_FDCWD, target, flags)

    with pytest.raises(FileExistsError):
        rename("README.md", "run.sh", kernel.RENAME_NOREPLACE)
    rename("src", "README.md", kernel.RENAME_EXCHANGE)
    assert (view.top / "src").read_text() == "# project\n"
    assert (view.top / "README.md" / "deep" / "er" / "data.bin").exists()
    view.remount()
    assert (view.top / "src").read_text() == "# project\n"
    rename("src", "README.md", kernel.RENAME_EXCHANGE)
    assert (view.top / "README.md").read_text() == "# project\n"


def test_forged_markers_are_plain_data_or_refused(view: View) -> None:
    with pytest.raises(PermissionError):
        os.mknod(view.top / "gone", stat.S_IFCHR | 0o600, 0)
    for name in ("user.overlay.opaque", "user.overlay.redirect", "user.overlay.overlay.x"):
        os.setxattr(view.top / "src", name, b"y")
        assert os.getxattr(view.top / "src", name) == b"y"
        assert name in os.listxattr(view.top / "src")
    (view.top / "src" / ".wh.main.py").touch()
    (view.top / "src" / ".wh..wh..opq").touch()
    view.remount()
    assert (view.top / "src" / "main.py").exists()
    os.removexattr(view.top / "src", "user.overlay.opaque")


def test_staging_names_are_hidden(view: View, tree: Path) -> None:
    then = tree.stat().st_mtime_ns
    staging = tree / ".goexfs-stage-1"
    staging.mkdir()
    try:
        assert staging.name not in os.listdir(view.top)
        assert not (view.top / staging.name).exists()
        with pytest.raises(PermissionError):
            (view.top / ".goexfs-stage-2").touch()
        with pytest.raises(PermissionError):
            os.rename(view.top / "run.sh", view.top / ".goexfs-stage-2")
        (view.top / "src" / ".goexfs-stage-3").touch()
    finally:
        staging.rmdir()
        os.utime(tree, ns=(then, then))


def test_names_of_any_bytes(view: View) -> None:
    top = os.fsencode(view.top)
    for name in (b"\xff\xfe", b"new\nline", b"-rf", b"x" * 255):
        with open(os.path.join(top, name), "wb"):
            pass
        assert name in os.listdir(top)
    for call in (os.mkdir, os.lstat, os.unlink):
        with pytest.raises(OSError, match="too long") as caught:
            call(os.path.join(top, b"x" * 256))
        assert caught.value.errno == errno.ENAMETOOLONG


def test_symlinks_of_the_greatest_length(view: View) -> None:
    os.symlink("t" * 4095, view.top / "long")
    os.rename(view.top / "long", view.top / "src" / "long")
    view.remount()
    assert os.readlink(view.top / "src" / "long") == "t" * 4095
    with pytest.raises(OSError, match="too long"):
        os.symlink("t" * 4096, view.top / "longer")


def test_paths_beyond_path_max(view: View) -> None:
    here = os.open(view.top, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=here)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    fd = os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.close(fd)
    assert os.listdir(here) == ["deep"]
    os.close(here)
    subprocess.run(["rm", "-r", "d" * 200], cwd=view.top, check=True)


def test_default_acls_stand_in_for_the_umask(view: View) -> None:
    subprocess.run(["setfacl", "-d", "-m", "u:77:rwx,m:rwx", str(view.top / "empty")], check=True)
    old = os.umask(0o077)
    try:
        (view.top / "empty" / "file").touch(0o666)
        os.mkdir(view.top / "empty" / "dir", 0o777)
        (view.top / "plain").touch(0o666)
    finally:
        os.umask(old)
    assert stat.S_IMODE((view.top / "empty" / "file").stat().st_mode) == 0o664
    assert stat.S_IMODE((view.top / "plain").stat().st_mode) == 0o600
    shown = subprocess.run(
        ["getfacl", "-pn", str(view.top / "empty" / "dir")], check=True, capture_output=True
    )
    assert b"default:user:77:rwx" in shown.stdout


def test_a_listing_is_stable_while_the_directory_changes(view: View) -> None:
    top = view.top / "many"
    top.mkdir()
    for number in range(3000):
        (top / f"{number:04}").touch()
    seen = []
    with os.scandir(top) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 3 == 0:
                (top / f"new{count}").touch()
            if count % 5 == 0:
                (top / f"{2999 - count // 5:04}").unlink()
    assert len(seen) == len(set(seen))
    stood = {f"{number:04}" for number in range(2000)}
    assert stood <= set(seen)


def test_sockets_and_fifos_work(view: View) -> None:
    os.chdir(view.top)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("sock")
            server.listen()
            client.connect("sock")
    finally:
        os.chdir("/")
    fd = os.open(view.top / "pipe", os.O_RDWR)
    os.write(fd, b"through")
    assert os.read(fd, 10) == b"through"
    os.close(fd)


def test_sparse_files_stay_sparse(view: View) -> None:
    with open(view.top / "sparse", "r+b") as file:
        file.write(b"HEAD")
    copy = view.layer / "upper" / "project" / "sparse"
    assert copy.stat().st_size == (view.top / "sparse").stat().st_size
    assert copy.stat().st_blocks * 512 < 1 << 20


def test_a_removed_working_directory(view: View) -> None:
    os.mkdir(view.top / "here")
    fd = os.open(view.top / "here", os.O_RDONLY)
    os.rmdir(view.top / "here")
    assert os.fstat(fd).st_nlink == 0
    assert os.listdir(fd) == []
    with pytest.raises(FileNotFoundError):
        os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)


def test_several_roots_lie_side_by_side(
    arena: Path, btrfs_image: Path, ordinary_user: User
) -> None:
    roots = [arena / "one", arena / "two"]
    for root in roots:
        root.mkdir()
        (root / "file").write_text(root.name)
    with mounted(arena, roots, btrfs_image) as view:
        assert sorted(os.listdir(view.top)) == ["one", "two"]
        assert (view.top / "two" / "file").read_text() == "two"
        (view.top / "one" / "file").write_text("changed")
        for call in (os.rename, os.link):
            with pytest.raises(OSError, match="cross-device") as caught:
                call(view.top / "one" / "file", view.top / "two" / "other")
            assert caught.value.errno == errno.EXDEV
        with pytest.raises(PermissionError):
            (view.top / "three").mkdir()
        assert (view.top / "one").stat().st_ino != (view.top / "two").stat().st_ino
    assert (roots[0] / "file").read_text() == "one"


def test_memory_follows_what_the_kernel_remembers(view: View) -> None:
    top = view.top / "many"
    top.mkdir()
    for number in range(500):
        (top / f"{number}").write_text("x")
    assert view.command("stats")["nodes"] > 500
    for number in range(500):
        (top / f"{number}").unlink()
    deadline = time.monotonic() + 20  # the kernel forgets when it gets to it
    while (stats := view.command("stats"))["nodes"] >= 100 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stats["nodes"] < 100
    assert stats["open_files"] == 0
    assert stats["fds"] < 150
