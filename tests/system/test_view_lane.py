"""What the view answers without pyfuse3: the protocol's structs, set-id bits, kept listings."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import User
from goexfsd.view import wire
from goexfsd.worker import Owner
from sides import acting, picture
from views import View, mounted

STRUCTS = {
    "fuse_in_header": wire.IN,
    "fuse_out_header": wire.OUT,
    "fuse_entry_out": wire.ENTRY_OUT,
    "fuse_attr_out": wire.ATTR_OUT,
    "fuse_attr": wire.ATTR,
    "fuse_dirent": wire.DIRENT,
    "fuse_setattr_in": wire.SETATTR_IN,
    "fuse_create_in": wire.CREATE_IN,
    "fuse_mknod_in": wire.MKNOD_IN,
    "fuse_mkdir_in": wire.MKDIR_IN,
    "fuse_rename_in": wire.RENAME_IN,
    "fuse_rename2_in": wire.RENAME2_IN,
    "fuse_link_in": wire.LINK_IN,
    "fuse_open_in": wire.OPEN_IN,
    "fuse_open_out": wire.OPEN_OUT,
    "fuse_read_in": wire.READ_IN,
    "fuse_fsync_in": wire.FSYNC_IN,
    "fuse_write_in": wire.WRITE_IN,
    "fuse_write_out": wire.WRITE_OUT,
    "fuse_getxattr_in": wire.GETXATTR_IN,
    "fuse_getxattr_out": wire.GETXATTR_OUT,
    "fuse_forget_in": wire.FORGET_IN,
    "fuse_batch_forget_in": wire.BATCH_FORGET_IN,
    "fuse_forget_one": wire.FORGET_ONE,
}
NUMBERS = {
    "FUSE_WRITE_KILL_SUIDGID": wire.WRITE_KILL_SUIDGID,
    "FUSE_FSYNC_FDATASYNC": wire.FSYNC_FDATASYNC,
    "FUSE_HANDLE_KILLPRIV_V2": wire.INIT_HANDLE_KILLPRIV_V2,
    "FOPEN_KEEP_CACHE": wire.FOPEN_KEEP_CACHE,
    "FOPEN_CACHE_DIR": wire.FOPEN_CACHE_DIR,
    **{
        f"FATTR_{name}": getattr(wire, f"FATTR_{name}")
        for name in ("MODE", "UID", "GID", "SIZE", "ATIME", "MTIME", "ATIME_NOW", "MTIME_NOW")
    },
}
OPCODES = re.findall(
    r"\w+",
    "LOOKUP FORGET GETATTR SETATTR READLINK SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME LINK OPEN READ "
    "WRITE RELEASE FSYNC GETXATTR LISTXATTR REMOVEXATTR FLUSH INIT OPENDIR RELEASEDIR FSYNCDIR "
    "CREATE INTERRUPT IOCTL BATCH_FORGET READDIRPLUS RENAME2",
)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="asks the kernel's own header, through gcc")
def test_the_protocol_is_the_kernel_s(tmp_path: Path) -> None:
    """Sizes and numbers as <linux/fuse.h> has them."""
    wanted = {name: each.size for name, each in STRUCTS.items()} | NUMBERS
    wanted |= {f"FUSE_{name}": getattr(wire, name) for name in OPCODES}
    lines = []
    for name in wanted:
        value = f"sizeof(struct {name})" if name in STRUCTS else name
        lines.append(f'printf("{name} %lld\\n", (long long){value});')
    source = tmp_path / "sizes.c"
    source.write_text(
        "#include <stdio.h>\n#include <linux/fuse.h>\nint main(void) {" + "".join(lines) + "}"
    )
    subprocess.run(["gcc", "-o", tmp_path / "sizes", source], check=True)
    told = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    assert dict(re.findall(r"(\w+) (\d+)", told)) == {n: str(v) for n, v in wanted.items()}


@pytest.fixture
def users(arena: Path, btrfs_image: Path) -> Iterator[tuple[View, int]]:
    """A view of an ordinary user's, of a base of theirs."""
    uid = 21001
    base = arena / "base"
    (base / "d").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (base / "d" / name).write_text(name)
    (base / "d" / "e").mkdir()
    os.symlink("a", base / "d" / "l")
    User(uid, uid).own(base)
    with mounted(arena, [base], btrfs_image, Owner(uid, uid, ())) as view:
        yield view, uid


def test_a_directory_that_may_only_be_listed(users: tuple[View, int]) -> None:
    """Read without search permission: names and types, as on a disk; nothing else."""
    view, uid = users
    (view.roots[0] / "d").chmod(0o600)
    time.sleep(1.1)
    with acting(uid):
        with os.scandir(view.top / "d") as found:
            kinds = {
                each.name: (each.is_dir(follow_symlinks=False), each.is_symlink()) for each in found
            }
        with pytest.raises(PermissionError):
            os.stat(view.top / "d" / "a")
    assert kinds == {
        "a": (False, False),
        "b": (False, False),
        "c": (False, False),
        "e": (True, False),
        "l": (False, True),
    }


@pytest.mark.parametrize("how", ["write", "truncate", "open", "chown"])
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
def test_set_id_bits_go_as_on_a_disk(users: tuple[View, int], how: str, mode: int) -> None:
    view, uid = users
    plain = view.roots[0].parent / "plain"
    plain.write_text("a")
    os.chown(plain, uid, uid)
    told = []
    for path in (plain, view.top / "d" / "a"):
        with acting(uid):
            path.chmod(mode)
            assert stat.S_IMODE(path.stat().st_mode) == mode
            if how == "write":
                with open(path, "r+b") as file:
                    file.write(b"x")
            elif how == "truncate":
                os.truncate(path, 0)
            elif how == "open":
                open(path, "wb").close()
            else:
                os.chown(path, uid, uid)
        told.append(oct(path.stat().st_mode))
    assert told[0] == told[1]


def test_a_listing_that_is_kept_is_the_right_one(users: tuple[View, int]) -> None:
    """The kernel lists a directory again without asking, until something has changed in it."""
    view, uid = users
    top, base = view.top / "d", view.roots[0] / "d"

    def asked() -> int:
        return int(view.command("stats")["requests"])

    with acting(uid):
        assert len(os.listdir(top)) == 5
        before = asked()
        assert len(os.listdir(top)) == 5
        assert asked() - before <= 3, "the directory was not kept"
        (top / "n").write_text("new")
        assert "n" in os.listdir(top)
        (top / "a").unlink()
        assert "a" not in os.listdir(top)
        (top / "n").rename(top / "m")
        assert sorted(os.listdir(top)) == ["b", "c", "e", "l", "m"]
        (base / "theirs").write_text("another's")
        deadline = time.monotonic() + 3
        while "theirs" not in os.listdir(top):
            assert time.monotonic() < deadline, "what others made does not show"
            time.sleep(0.1)


def test_a_kept_listing_goes_with_a_rewind(users: tuple[View, int], btrfs_image: Path) -> None:
    view, uid = users
    first = btrfs_image / "first"
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", view.layer, first], check=True)
    with acting(uid):
        (view.top / "d" / "n").write_text("new")
        for _ in range(2):
            assert "n" in os.listdir(view.top / "d")
    view.rewind(first)
    with acting(uid):
        assert "n" not in os.listdir(view.top / "d")


def test_pyfuse3_alone_serves_the_same(arena: Path, btrfs_image: Path, tree: Path) -> None:
    """Without the lane every request goes through pyfuse3's own handlers."""
    told: list[Any] = []
    for lane, compiled in ((True, True), (True, False), (False, False)):
        at = arena / f"by-{len(told)}"
        at.mkdir()
        with mounted(at, [tree], btrfs_image, lane=lane, compiled=compiled) as view:
            top = view.top
            (top / "made").mkdir(0o750)
            (top / "made" / "file").write_bytes(b"x" * 100_000)
            os.symlink("file", top / "made" / "link")
            os.link(top / "README.md", top / "made" / "hard")
            os.mkfifo(top / "made" / "fifo", 0o640)
            (top / "src").rename(top / "made" / "src")
            with open(top / "made" / "file", "r+b") as file:
                file.seek(10)
                file.write(b"y")
            os.truncate(top / "made" / "hard", 3)
            os.setxattr(top / "made" / "file", "user.x", b"1")
            os.utime(top / "made" / "file", ns=(10**18, -5 * 10**9 + 7))
            shown = picture(os.fsencode(top))
            listed = sorted(os.listdir(top / "made"))
            times = os.stat(top / "made" / "file").st_mtime_ns
            with pytest.raises(OSError, match="Directory not empty"):
                os.rmdir(top / "made")
            shutil.rmtree(top / "made")
            told.append((listed, times, shown, sorted(os.listdir(top))))
    assert told[0][1] == -5 * 10**9 + 7
    assert told[0] == told[1] == told[2]
