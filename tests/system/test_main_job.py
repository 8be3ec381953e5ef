"""The main job through the command line: mount, run, look, commit or discard, on real files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import Daemon, User
from manifests import Manifest

Manifests = Callable[..., Manifest]
Json = Callable[..., Any]

EDITS = """
set -e
echo new > created.txt
echo more >> README.md
rm -r src/deep
mv run.sh moved.sh
chmod 755 private
mkdir sub && echo x > sub/x
ln README.md also-readme
"""


@pytest.fixture(params=["root", "ordinary"])
def owner(request: pytest.FixtureRequest, ordinary_user: User) -> User:
    return User(0, 0) if request.param == "root" else ordinary_user


@pytest.fixture
def project(tree: Path, owner: User) -> Path:
    return owner.own(tree)


def kinds(found: Any) -> dict[str, str]:
    return {change["path"]: change["kind"] for change in found["changes"]}


def test_commit(
    project: Path, owner: User, goexfs: Goexfs, goexfs_json: Json, manifest: Manifests
) -> None:
    before = manifest(project)
    session = goexfs_json("mount", project, user=owner)
    goexfs("run", "-s", session["session"], "--", "sh", "-c", EDITS, user=owner)
    assert manifest(project) == before
    found = goexfs_json("diff", "-s", session["name"], user=owner)
    assert kinds(found) == {
        "src/deep": "deleted",
        "src/deep/er": "deleted",
        "src/deep/er/data.bin": "deleted",
        "created.txt": "created",
        "sub": "created",
        "sub/x": "created",
        "also-readme": "created",
        "README.md": "modified",
        "moved.sh": "renamed",
        "private": "metadata",
    }
    assert found["changes"][0]["kind"] == "deleted"
    # Where the holes are cannot be asked through the view (docs/decisions).
    view = manifest(session["mountpoint"], times=False, extents=False)
    result = goexfs_json("commit", "-s", session["name"], "-m", "edits", user=owner)
    assert result["closed"]
    assert result["conflicts"] == []
    after = manifest(project, times=False, extents=False)
    if owner.uid:  # root's views are squashed
        assert after == view
    assert {name: e.digest for name, e in after.items()} == {
        name: e.digest for name, e in view.items()
    }
    assert {(e.uid, e.gid) for e in after.values()} == {(owner.uid, owner.gid)}
    assert os.stat(project / "README.md").st_nlink == 2
    assert goexfs_json("ls", user=owner)["sessions"] == []


def test_discard_leaves_no_trace(
    project: Path, owner: User, goexfs: Goexfs, goexfs_json: Json, manifest: Manifests
) -> None:
    before = manifest(project)
    session = goexfs_json("mount", project, user=owner)
    goexfs("run", "--", "sh", "-c", EDITS, user=owner, cwd=project)
    goexfs("discard", user=owner, cwd=project)
    assert manifest(project) == before
    assert not os.path.exists(session["mountpoint"])
    goexfs("status", "-s", session["session"], user=owner, status=1)


def test_the_patch_applies_with_git(
    project: Path, owner: User, goexfs: Goexfs, goexfs_json: Json, arena: Path, manifest: Manifests
) -> None:
    copy = arena / "copy"
    subprocess.run(["cp", "-a", project, copy], check=True)
    session = goexfs_json("mount", project, user=owner)
    goexfs("run", "--", "sh", "-c", EDITS, user=owner, cwd=project)
    patch = goexfs("diff", user=owner, cwd=project).out
    (arena / "patch").write_bytes(patch.encode("utf-8", "surrogateescape"))
    subprocess.run(["git", "apply", "--whitespace=nowarn", arena / "patch"], cwd=copy, check=True)
    view = manifest(session["mountpoint"], times=False)
    files = {name: e.digest for name, e in view.items() if e.type == "file"}
    applied = manifest(copy, times=False)
    assert {name: e.digest for name, e in applied.items() if e.type == "file"} == files


@pytest.mark.parametrize(
    ("name", "text", "arguments", "out"),
    [
        ("s.py", "import sys\nprint('py', *sys.argv[1:])\n", ["a", "b c"], "py a b c\n"),
        ("s.sh", "echo sh $1\n", ["x"], "sh x\n"),
        ("s", "#!/usr/bin/perl\nprint 'perl';\n", [], "perl"),
        ("s", "echo plain\n", [], "plain\n"),
    ],
)
def test_scripts(
    tree: Path,
    arena: Path,
    goexfs: Goexfs,
    name: str,
    text: str,
    arguments: list[str],
    out: str,
    ordinary_user: User,
) -> None:
    goexfs("mount", tree, user=ordinary_user)
    (arena / name).write_text(text)
    script = str(arena / name)
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    assert goexfs("run", "--script", script, "--", *arguments, **where).out == out
    if name != "s.py":
        assert goexfs("run", "--script", "-", "--", *arguments, input=text, **where).out == out


def test_statuses_streams_and_input(tree: Path, goexfs: Goexfs, ordinary_user: User) -> None:
    goexfs("mount", tree, user=ordinary_user)
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    done = goexfs("run", "--", "sh", "-c", "echo o; echo e >&2; exit 7", status=7, **where)
    assert (done.out, done.err) == ("o\n", "e\n")
    assert goexfs("run", "--", "wc", "-c", input="x" * 3_000_000, **where).out == "3000000\n"
    goexfs("run", "--", "no-such-command", status=127, **where)
    goexfs("run", "--", "./README.md", status=126, **where)
    goexfs("run", "--timeout", "0.3", "--", "sleep", "60", status=124, **where)
    goexfs("run", "--", "sh", "-c", "kill -TERM $$", status=143, **where)
    big = goexfs("run", "--", "head", "-c", "3000000", "/dev/zero", **where)
    assert len(big.out) == 3_000_000


def test_the_script_sees_the_root_at_its_own_path(
    tree: Path, goexfs: Goexfs, ordinary_user: User, owner: User
) -> None:
    owner.own(tree)
    goexfs("mount", tree, user=owner)
    done = goexfs("run", "--", "sh", "-c", "pwd; cat README.md", user=owner, cwd=tree)
    assert done.out == f"{tree}\n# project\n"
    done = goexfs("run", "--", "pwd", user=owner, cwd=tree / "src")
    assert done.out == f"{tree}/src\n"


def test_a_root_below_roots_closed_home(arena: Path, goexfs: Goexfs) -> None:
    home = arena / "home"
    project = home / "project"
    project.mkdir(parents=True)
    home.chmod(0o700)
    (home / "secret").write_text("x")
    (project / "file").write_text("old\n")
    (project / "file").chmod(0o600)
    goexfs("mount", project)
    script = "id -u; cat file; echo new > file; ls -A ..; cat ../secret 2>&1"
    done = goexfs("run", "--", "sh", "-c", script, cwd=project, status=None)
    uid, *rest = done.out.splitlines()
    assert uid != "0"
    assert rest[:2] == ["old", "project"]
    assert "x" not in rest
    goexfs("commit", cwd=project)
    assert (project / "file").read_text() == "new\n"
    st = os.stat(project / "file")
    assert (st.st_uid, st.st_mode & 0o777) == (0, 0o600)


def test_several_roots(arena: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json) -> None:
    a, b = arena / "a", arena / "b"
    for top in (a, b):
        top.mkdir()
        (top / "f").write_text(top.name)
        ordinary_user.own(top)
    session = goexfs_json("mount", a, "--root", b, "--name", "two", user=ordinary_user)
    assert [root["name"] for root in session["roots"]] == ["a", "b"]
    script = f"cat {a}/f {b}/f; echo 1 > {a}/f; rm {b}/f; mv {a}/f {b}/g"
    done = goexfs("run", "-s", "two", "--", "sh", "-c", script, user=ordinary_user)
    assert done.out == "ab"
    found = goexfs_json("diff", "-s", "two", user=ordinary_user)
    assert [(c["kind"], c["root"], c["path"]) for c in found["changes"]] == [
        ("deleted", "a", "f"),
        ("deleted", "b", "f"),
        ("created", "b", "g"),
    ]
    goexfs("commit", "-s", "two", user=ordinary_user)
    assert sorted(os.listdir(a) + os.listdir(b)) == ["g"]


def test_a_mountpoint_of_ones_own(
    tree: Path, arena: Path, ordinary_user: User, other_user: User, goexfs: Goexfs, daemon: Daemon
) -> None:
    at = arena / "at"
    at.mkdir()
    os.chown(at, ordinary_user.uid, ordinary_user.gid)
    goexfs("mount", tree, "--at", at, "--name", "m", user=ordinary_user)
    assert (at / "README.md").read_text() == "# project\n"
    (at / "README.md").write_text("through the mount\n")
    assert (tree / "README.md").read_text() == "# project\n"
    daemon.restart()
    assert (at / "README.md").read_text() == "through the mount\n"
    goexfs("discard", "-s", "m", user=ordinary_user)
    assert os.listdir(at) == []


def test_large_files_are_read_in_large_pieces(tree: Path, goexfs_json: Json) -> None:
    device = os.stat(goexfs_json("mount", tree)["mountpoint"]).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    assert Path(f"/sys/class/bdi/{number}/read_ahead_kb").read_text() == "1024\n"


def test_checkpoints_and_rewind(
    tree: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json, manifest: Manifests
) -> None:
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    view = goexfs_json("mount", tree, user=ordinary_user)["mountpoint"]
    states = {0: manifest(view, times=False)}
    for number, script in enumerate(
        ["echo 1 > new", "rm -r src; mv README.md READ", "mkdir src; echo 2 > src/main.py"], 1
    ):
        done = goexfs_json("run", "--", "sh", "-c", script, **where)
        assert done["checkpoint"] == number
        states[number] = manifest(view, times=False)
    for number in (1, 3, 0, 2):
        goexfs("rewind", str(number), **where)
        assert manifest(view, times=False) == states[number]
    log = goexfs_json("log", **where)
    assert [step["number"] for step in log["steps"]] == [1, 2, 3]
    found = kinds(goexfs_json("diff", "--step", "2", **where))
    assert found["READ"] == "renamed"
    assert found["src"] == "deleted"
    assert "new" not in found
    found = kinds(goexfs_json("diff", "--from", "2", "--to", "3", **where))
    assert found == {"src": "created", "src/main.py": "created"}
    goexfs("run", "--", "touch", "after-rewind", **where)
    goexfs("commit", **where)
    assert (tree / "READ").exists()
    assert (tree / "after-rewind").exists()
    assert not (tree / "src").exists()


def test_a_commit_of_a_part_keeps_the_rest(
    tree: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "sh", "-c", "echo 1 > one; echo 2 > two; echo 3 >> README.md", **where)
    result = goexfs_json("commit", "one", "README.md", **where)
    assert not result["closed"]
    assert (tree / "one").exists()
    assert not (tree / "two").exists()
    assert kinds(goexfs_json("diff", **where)) == {"two": "created"}
    goexfs("run", "--", "sh", "-c", "echo 4 >> README.md", **where)
    goexfs("commit", **where)
    assert (tree / "two").read_text() == "2\n"
    assert (tree / "README.md").read_text() == "# project\n3\n4\n"


def test_conflicts_apply_nothing(
    tree: Path, ordinary_user: User, goexfs: Goexfs, manifest: Manifests
) -> None:
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "sh", "-c", "echo s >> README.md; echo n > new; rm private", **where)
    (tree / "README.md").write_text("the user's own edit\n")
    (tree / "new").write_text("also the user's\n")
    before = manifest(tree)
    done = goexfs("commit", status=3, **where)
    assert "README.md" in done.out + done.err
    assert "new" in done.out + done.err
    assert manifest(tree) == before
    goexfs("discard", **where)
    assert manifest(tree) == before


def test_other_users_are_denied(
    tree: Path, ordinary_user: User, other_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    session = goexfs_json("mount", tree, user=ordinary_user)
    assert goexfs_json("ls", user=other_user)["sessions"] == []
    for command in (["status"], ["diff"], ["commit"], ["discard"], ["log"], ["rewind", "0"]):
        goexfs(*command, "-s", session["session"], user=other_user, status=5)
        goexfs(*command, "-s", session["name"], user=other_user, status=4)
    goexfs("run", "-s", session["session"], "--", "true", user=other_user, status=5)
    look = subprocess.run(
        ["ls", session["mountpoint"]],
        user=other_user.uid,
        cwd="/",
        capture_output=True,
        check=False,
    )
    assert b"Permission denied" in look.stderr


def test_sessions_survive_a_restart_and_a_crash(
    tree: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json, daemon: Daemon,
    manifest: Manifests,
) -> None:  # fmt: skip
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    view = goexfs_json("mount", tree, user=ordinary_user)["mountpoint"]
    goexfs("run", "--", "sh", "-c", EDITS, **where)
    held, inodes = manifest(view), {n: os.lstat(f"{view}/{n}").st_ino for n in os.listdir(view)}
    daemon.restart()
    assert manifest(view) == held
    assert {n: os.lstat(f"{view}/{n}").st_ino for n in os.listdir(view)} == inodes
    daemon.kill()
    daemon.start()
    assert manifest(view) == held
    goexfs("commit", **where)
    assert (tree / "moved.sh").exists()


def test_a_dead_view_worker_comes_back(
    tree: Path, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json, daemon: Daemon
) -> None:
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    view = goexfs_json("mount", tree, user=ordinary_user)["mountpoint"]
    goexfs("run", "--", "sh", "-c", "echo kept > kept", **where)
    locks = Path("/proc/locks").read_text().splitlines()
    inode = os.stat(daemon.state / "workers.lock").st_ino
    pids = [int(line.split()[4]) for line in locks if line.split()[5].endswith(f":{inode}")]
    assert len(pids) == 1
    os.kill(pids[0], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        try:
            assert Path(view, "kept").read_text() == "kept\n"
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    goexfs("commit", **where)


def test_busy_sessions_refuse(
    tree: Path, ordinary_user: User, goexfs: Goexfs, daemon: Daemon
) -> None:
    where: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "true", **where)
    running = subprocess.Popen(
        [Path(sys.executable).parent / "goexfs", "run", "--",
         "sh", "-c", "echo up; trap '' HUP; sleep 60 & sleep 60"],
        env=daemon.environment(), cwd=tree, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        user=ordinary_user.uid, group=ordinary_user.gid, extra_groups=[],
    )  # fmt: skip
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        for command in (["commit"], ["rewind", "0"], ["run", "--", "true"], ["discard"]):
            done = goexfs(*command, status=None, **where)
            assert done.status in (1, 125), done
            assert "busy" in done.err
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
    sleeping = subprocess.run(["pgrep", "-u", "21001", "sleep"], capture_output=True, check=False)
    assert sleeping.stdout == b""
    goexfs("discard", **where)


def test_the_room_of_a_session_that_ended_comes_back(
    tree: Path, goexfs: Goexfs, daemon: Daemon
) -> None:
    """Nobody waits for it: the answer comes before the disk has followed."""

    def free() -> int:
        st = os.statvfs(daemon.state / "store")
        return st.f_bfree * st.f_frsize

    goexfs("mount", tree)
    goexfs("run", "--", "sh", "-c", "head -c 50M /dev/urandom > large; sync large", cwd=tree)
    full = free()
    goexfs("discard", cwd=tree)
    deadline = time.monotonic() + 20  # sooner than the file system would by itself
    while free() < full + 40 * 2**20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert free() >= full + 40 * 2**20
