"""The view of different owners, over a base that lives, and over layers that are exchanged."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import btrfsutil
import pytest

from daemons import User
from goexfsd.worker import Owner
from manifests import differences, manifest
from sides import acting
from views import mounted

_PATIENCE = 1.3
"""Seconds after which a change of the base must show."""


def as_user(uid: int, code: str, cwd: Path, groups: tuple[int, ...] = ()) -> str:
    """Run Python code as somebody; what it printed, or its error as AssertionError."""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", f"import os\n{code}"],
        user=uid,
        group=uid,
        extra_groups=groups,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_ordinary_users_session(
    arena: Path, btrfs_image: Path, tree: Path, ordinary_user: User
) -> None:
    uid = ordinary_user.uid
    closed = tree / "closed"
    closed.mkdir()
    (closed / "file").write_text("old")
    (closed / "read-only").write_text("old")
    foreign = tree / "foreign"
    foreign.write_text("root's")
    ordinary_user.own(tree)
    os.chown(foreign, 0, 4711)
    foreign.chmod(0o664)
    (closed / "read-only").chmod(0o444)
    closed.chmod(0o555)
    before = manifest(tree)
    with mounted(arena, [tree], btrfs_image, Owner(uid, uid, (4711,))) as view:

        def do(code: str) -> str:
            return as_user(uid, code, view.top, (4711,))

        do("open('closed/file', 'a').write('er')")
        assert (view.top / "closed" / "file").read_text() == "older"
        assert stat.S_IMODE((view.top / "closed").stat().st_mode) == 0o555
        do("os.chmod('closed/read-only', 0o644); open('closed/read-only', 'w').write('new')")
        do("os.mkdir('tight', 0o500)")
        assert stat.S_IMODE((view.top / "tight").stat().st_mode) == 0o500
        do("os.rename('closed', 'moved')")
        assert (view.top / "moved" / "read-only").read_text() == "new"
        do("open('foreign', 'a').write(' and mine')")
        shown = (view.top / "foreign").stat()
        assert (shown.st_uid, shown.st_gid) == (0, 4711)
        assert "1" in do("try:\n os.chmod('foreign', 0o777)\nexcept PermissionError: print(1)")
        do("open('made', 'w').close(); os.chmod('made', 0); os.rename('made', 'made2')")
        assert (view.top / "made2").stat().st_uid == uid
        view.remount()
        shown = (view.top / "foreign").stat()
        assert (shown.st_uid, shown.st_gid) == (0, 4711)
        assert stat.S_IMODE((view.top / "moved").stat().st_mode) == 0o555
    assert differences(before, manifest(tree)) == []


def test_files_that_their_owner_may_not_read(
    arena: Path, btrfs_image: Path, tree: Path, ordinary_user: User
) -> None:
    """Their bytes cannot be copied; where none are wanted, they can be changed as on a disk."""
    uid = ordinary_user.uid
    for name in ("one", "two", "empty2"):
        (tree / name).write_text("secret" if name != "empty2" else "")
        os.chown(tree / name, uid, uid)
        (tree / name).chmod(0o200)
    before = manifest(tree)
    with mounted(arena, [tree], btrfs_image, Owner(uid, uid, ())) as view:
        tried = "try:\n open('one', 'a')\n os.chmod('one', 0o600)\nexcept PermissionError: print(1)"
        assert as_user(uid, tried, view.top) == "1"
        as_user(uid, "open('one', 'w').write('new'); os.unlink('two')", view.top)
        as_user(uid, "os.rename('empty2', 'moved'); os.chmod('moved', 0o600)", view.top)
        view.remount()
        assert (view.top / "one").read_text() == "new"
        assert stat.S_IMODE((view.top / "one").stat().st_mode) == 0o200
        assert (view.top / "moved").read_text() == ""
        assert not (view.top / "two").exists()
    assert differences(before, manifest(tree)) == []


def test_a_session_of_root_shows_all_as_the_sandboxs(
    arena: Path, btrfs_image: Path, tree: Path
) -> None:
    guest = 1879048192
    with mounted(arena, [tree], btrfs_image, sandbox_uid=guest, sandbox_gid=guest) as view:
        assert (view.top / "private").stat().st_uid == guest
        as_user(
            guest,
            "open('private', 'a').write('x'); open('made', 'w').close(); os.mkdir('dir');"
            f"os.chown('private', {guest}, {guest}); os.chmod('private', 0o640)",
            view.top,
        )
        upper = view.layer / "upper" / "project"
        assert (upper / "made").stat().st_uid == 0
        assert (upper / "dir").stat().st_gid == 0
        assert (upper / "private").stat().st_uid == (tree / "private").stat().st_uid
        assert stat.S_IMODE((upper / "private").stat().st_mode) == 0o640
        told = as_user(
            guest, "try:\n os.chown('made', 0, 0)\nexcept PermissionError: print(1)", view.top
        )
        assert told == "1"


def test_the_base_may_change_beneath(arena: Path, btrfs_image: Path, tree: Path) -> None:
    with mounted(arena, [tree], btrfs_image) as view:
        mine = view.top / "run.sh"
        mine.write_text("mine")
        assert (view.top / "README.md").read_text() == "# project\n"
        assert (view.top / "src" / "main.py").exists()
        held = open(view.top / "README.md", "rb")  # noqa: SIM115
        (tree / "README.new").write_text("replaced\n")
        os.replace(tree / "README.new", tree / "README.md")
        (tree / "run.sh").write_text("theirs")
        (tree / "private").unlink()
        (tree / "added").write_text("added")
        os.rename(tree / "src", tree / "moved")
        (tree / "src").mkdir()
        (tree / "src" / "other").touch()
        time.sleep(_PATIENCE)
        assert (view.top / "README.md").read_text() == "replaced\n"
        assert held.read() == b"# project\n"
        held.close()
        assert mine.read_text() == "mine"
        assert not (view.top / "private").exists()
        assert (view.top / "added").read_text() == "added"
        assert os.listdir(view.top / "src") == ["other"]
        assert (view.top / "moved" / "main.py").exists()
        (tree / "added").write_text("more than before")
        time.sleep(_PATIENCE)
        assert (view.top / "added").read_text() == "more than before"


def test_a_merged_directory_follows_its_base(arena: Path, btrfs_image: Path, tree: Path) -> None:
    with mounted(arena, [tree], btrfs_image) as view:
        (view.top / "src" / "mine").touch()
        subprocess.run(["rm", "-r", str(tree / "src")], check=True)
        (tree / "src").mkdir()
        (tree / "src" / "new").touch()
        time.sleep(_PATIENCE)
        assert sorted(os.listdir(view.top / "src")) == ["mine", "new"]


def test_what_the_session_never_saw_is_not_deleted(
    arena: Path, btrfs_image: Path, tree: Path
) -> None:
    with mounted(arena, [tree], btrfs_image) as view:
        (view.top / "late").write_text("mine")
        (tree / "late").write_text("theirs")
        (view.top / "late").unlink()
        time.sleep(_PATIENCE)
        assert (view.top / "late").read_text() == "theirs"


def test_a_rewound_view(arena: Path, btrfs_image: Path, tree: Path) -> None:
    with mounted(arena, [tree], btrfs_image) as view:
        (view.top / "README.md").write_text("one")
        (view.top / "kept").mkdir()
        (view.top / "kept" / "file").write_text("kept")
        os.rename(view.top / "src", view.top / "code")
        wanted = manifest(view.top)
        snapshot = btrfs_image / "snapshot"
        btrfsutil.create_snapshot(str(view.layer), str(snapshot))
        here = os.open(view.top / "kept", os.O_RDONLY | os.O_DIRECTORY)
        kept_ino = (view.top / "kept").stat().st_ino
        (view.top / "README.md").write_text("two, and longer")
        (view.top / "later").write_text("later")
        (view.top / "kept" / "file").write_text("changed")
        (view.top / "run.sh").unlink()
        os.rename(view.top / "code", view.top / "src")
        assert not (view.top / "run.sh").exists()
        held = open(view.top / "README.md", "rb")  # noqa: SIM115
        assert view.rewind(snapshot)["ok"]
        assert (view.top / "README.md").read_text() == "one"
        assert held.read() == b"two, and longer"
        held.close()
        assert differences(wanted, manifest(view.top)) == []
        assert os.listdir(here) == ["file"]
        assert os.fstat(here).st_ino == kept_ino
        fd = os.open("file", os.O_RDONLY, dir_fd=here)
        assert os.read(fd, 10) == b"kept"
        os.close(fd)
        os.close(here)
        (view.top / "after").write_text("works")
        assert (snapshot / "upper" / "project" / "after").exists()
        view.remount()
        (view.top / "after").unlink()
        assert differences(wanted, manifest(view.top)) != []


def test_a_large_copy_up_lets_others_work(arena: Path, btrfs_image: Path, ext4_image: Path) -> None:
    root = ext4_image / "root"
    root.mkdir()
    with open(root / "large", "wb") as file:
        for _ in range(160):
            file.write(os.urandom(1 << 20))
    with mounted(arena, [root], btrfs_image) as view:
        slowest = 0.0
        done = threading.Event()

        def append() -> None:
            with open(view.top / "large", "ab") as writer:
                writer.write(b"end")
            done.set()

        thread = threading.Thread(target=append)
        thread.start()
        while not done.is_set():
            before = time.monotonic()
            os.listdir(view.top)
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.001)
        thread.join()
        assert slowest < 2.0
        assert (view.top / "large").stat().st_size == (160 << 20) + 3
        compared = subprocess.run(
            ["cmp", "-n", str(160 << 20), str(root / "large"), str(view.top / "large")], check=False
        )
        assert compared.returncode == 0
        assert os.listdir(view.layer / "work") == []


def test_a_killed_worker_loses_nothing(arena: Path, btrfs_image: Path, tree: Path) -> None:
    with mounted(arena, [tree], btrfs_image) as view:
        (view.top / "README.md").write_text("written")
        os.rename(view.top / "src", view.top / "code")
        wanted = manifest(view.top)
        view.kill()
        (view.layer / "work" / "litter").mkdir()
        view.start()
        assert differences(wanted, manifest(view.top)) == []
        assert os.listdir(view.layer / "work") == []


def test_an_unknown_command_is_an_error(arena: Path, btrfs_image: Path, tree: Path) -> None:
    with mounted(arena, [tree], btrfs_image) as view:
        reply = view.command("dance")
        assert reply["ok"] is False
        assert reply["error"]["data"]["code"] == "usage"
        assert view.command("stats")["ok"]


@pytest.mark.parametrize("processes", [8])
def test_many_processes_in_one_directory(
    arena: Path, btrfs_image: Path, tree: Path, processes: int
) -> None:
    code = (
        "import os, sys\nme = sys.argv[1]\n"
        "for n in range(60):\n"
        "    open(f'{me}-{n}', 'w').write(me)\n"
        "    os.rename(f'{me}-{n}', f'{me}+{n}')\n"
        "    fd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "    os.write(fd, b'.'); os.close(fd)\n"
        "    if n % 2: os.unlink(f'{me}+{n}')\n"
    )
    with mounted(arena, [tree], btrfs_image) as view:
        running = [
            subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=view.top / "empty")
            for n in range(processes)
        ]
        assert [process.wait(60) for process in running] == [0] * processes
        assert (view.top / "empty" / "log").stat().st_size == 60 * processes
        assert len(os.listdir(view.top / "empty")) == 30 * processes + 1


def test_killed_clients_do_not_stop_the_view(arena: Path, btrfs_image: Path, tree: Path) -> None:
    code = (
        "import os\nwhile True:\n"
        "  try:\n"
        "    fd = os.open('x', os.O_CREAT | os.O_RDWR); os.pwrite(fd, b'x' * 9000, 0)\n"
        "    os.fsync(fd); os.close(fd); os.listdir('.'); os.unlink('x')\n"
        "  except OSError: pass\n"
    )
    with mounted(arena, [tree], btrfs_image) as view:
        for _ in range(15):
            running = [
                subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        f"try:\n  while 1:\n   exec({code!r})\nexcept OSError: 0",
                    ],
                    cwd=view.top,
                )
                for _ in range(4)
            ]
            time.sleep(0.15)
            for process in running:
                process.kill()
                process.wait()
            assert view.command("stats")["ok"]
        assert view.command("stats")["open_files"] == 0


def test_a_worker_killed_under_load(
    arena: Path, btrfs_image: Path, tree: Path, ordinary_user: User
) -> None:
    """Whatever was answered is there in the next mount, under the same inode numbers; fsync or
    not, for the worker keeps nothing to itself."""
    owner = Owner(ordinary_user.uid, ordinary_user.gid, ())
    with mounted(arena, [tree], btrfs_image, owner) as view:
        known: dict[str, tuple[int, bytes]] = {}
        for count in (40, 90, 23):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                _load(view.top, writing, ordinary_user)
            os.close(writing)
            with os.fdopen(reading) as told:
                for _ in range(count):
                    _note(known, told.readline())
                view.kill()
                for line in told:
                    _note(known, line)
            assert os.waitpid(pid, 0)[1] == 0
            view.start()
            for name, (number, data) in known.items():
                path = view.top / name
                assert path.stat().st_ino == number, name
                assert data in path.read_bytes(), name


def _note(known: dict[str, tuple[int, bytes]], line: str) -> None:
    """What the load says that it has done."""
    if line.endswith("\n"):
        name, number, data = line.rstrip("\n").split(" ")
        known[name] = (int(number), data.encode())


def _load(top: Path, told: int, user: User) -> None:
    """Make, change, rename until the view is gone; each is told once it is answered."""
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    mark = os.getpid()
    try:
        for number in range(100_000):
            name = f"made-{mark}-{number}"
            with open(top / "empty" / name, "w") as file:
                file.write(name)
                file.flush()
                if number % 5 == 0:
                    os.fsync(file.fileno())
                at = f"empty/{name}"
                if number % 3 == 0:
                    os.rename(top / "empty" / name, top / name)
                    at = name
            os.write(told, f"{at} {os.stat(top / at).st_ino} {name}\n".encode())
            for old in ("run.sh", "README.md"):
                with open(top / old, "a") as file:
                    file.write(f"#{number}\n")
                os.write(told, f"{old} {os.stat(top / old).st_ino} #{number}\n".encode())
    except OSError:
        os._exit(0)
    os._exit(1)


def test_records_of_the_dead_do_not_speak_of_who_gets_their_number(
    arena: Path, btrfs_image: Path
) -> None:
    """btrfs gives the highest inode numbers again once a layer is loaded anew."""
    base = arena / "base"
    base.mkdir()
    User(21001, 21001).own(base)
    kept = btrfs_image / "kept"
    with mounted(arena, [base], btrfs_image, Owner(21001, 21001, ())) as view:
        with acting(21001):
            for number in range(20):
                (view.top / f"{number}").touch()
                (view.top / f"{number}").chmod(0)
                (view.top / f"{number}").unlink()
        view.command("sync")
        subprocess.run(["btrfs", "-q", "subvolume", "snapshot", view.layer, kept], check=True)
        view.rewind(kept)
        with acting(21001):
            for number in range(20):
                (view.top / f"new{number}").touch(0o640)
                assert (view.top / f"new{number}").stat().st_mode & 0o777 == 0o640
