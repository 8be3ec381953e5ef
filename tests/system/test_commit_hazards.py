"""What else may happen to a commit: others at the same time, a client that goes, odd changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bases import mounted_at
from cases import Case, fresh
from committing import Bench, litter
from daemons import Daemon, Goexfs, User
from goexfsd.worker import Root
from manifests import differences, manifest

pytestmark = pytest.mark.timeout(300)


def started(daemon: Daemon, user: User, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*daemon._command(user), *arguments],
        cwd="/",
        env=daemon.environment(),
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_two_commits_and_a_discard_at_once(
    daemon: Daemon, goexfs: Goexfs, tree: Path, ordinary_user: User
) -> None:
    """Two sessions that changed the same file, and one of them is discarded at the same time."""
    before = manifest(tree)
    for name in ("one", "two"):
        goexfs("mount", tree, "--name", name, user=ordinary_user)
        code = f"echo {name} > README.md; echo {name} > {name}"
        goexfs("run", "-s", name, "--", "sh", "-c", code, user=ordinary_user)
    racers = {
        verb: started(daemon, ordinary_user, *verb.split())
        for verb in ("commit -s one", "commit -s two", "discard -s two")
    }
    ended = {verb: racer.wait(120) for verb, racer in racers.items()}
    committed = [name for name in ("one", "two") if ended[f"commit -s {name}"] == 0]
    assert len(committed) <= 1, ended
    assert litter(str(tree)) == []
    for name in ("one", "two"):
        assert (tree / name).exists() == (name in committed)
    if committed:
        assert (tree / "README.md").read_text() == f"{committed[0]}\n"
    else:
        assert differences(before, manifest(tree)) == []
    for each in json.loads(goexfs("ls", "--json", user=ordinary_user).out)["sessions"]:
        goexfs("discard", "-s", each["name"], user=ordinary_user)


def test_a_client_that_is_killed_in_its_commit(
    daemon: Daemon, goexfs: Goexfs, tree: Path, ordinary_user: User
) -> None:
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    before = manifest(tree)
    for wait in (0.0, 0.15, 0.4):
        goexfs("mount", tree, "--name", "gone", user=ordinary_user)
        goexfs("run", "--", "sh", "-c", "echo a > a; rm -r src", **how)
        client = started(daemon, ordinary_user, "commit", "-s", "gone")
        time.sleep(wait)
        client.send_signal(signal.SIGKILL)
        client.wait()
        deadline = time.monotonic() + 60
        while True:
            sessions = json.loads(goexfs("ls", "--json", user=ordinary_user).out)["sessions"]
            if not sessions or goexfs("discard", "-s", "gone", status=None, **how).status == 0:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert litter(str(tree)) == []
        if not sessions:
            assert (tree / "a").exists()
            assert not (tree / "src").exists()
            goexfs("undo", **how)
        assert differences(before, manifest(tree)) == []


def test_a_client_that_is_killed_after_the_intent(
    daemon: Daemon, goexfs: Goexfs, tree: Path, ordinary_user: User
) -> None:
    """The commit goes on to its end, and so does the session: nothing is left of it to discard."""
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    before = manifest(tree)
    goexfs("mount", tree, "--name", "gone", user=ordinary_user)
    code = "for n in $(seq 2000); do echo $n > new-$n; done"
    goexfs("run", "--", "sh", "-c", code, **how)
    client = started(daemon, ordinary_user, "commit", "-s", "gone")
    while not any(name.startswith("new-") for name in os.listdir(tree)):
        assert client.poll() is None
        time.sleep(0.001)
    client.kill()
    assert client.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while json.loads(goexfs("ls", "--json", user=ordinary_user).out)["sessions"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert litter(str(tree)) == []
    assert all((tree / f"new-{number}").exists() for number in range(1, 2001))
    goexfs("undo", **how)
    assert differences(before, manifest(tree)) == []


def test_names_that_change_places(goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    """Case alone, a cycle, two directories, a directory into what was its child."""
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    for path in ("p/q", "d1", "d2"):
        (tree / path).mkdir(parents=True)
        (tree / path / "in").write_text(f"{path}\n")
    for name in ("c1", "c2", "c3"):
        (tree / name).write_text(name)
    ordinary_user.own(tree)
    before = manifest(tree)
    code = (
        "mv README.md readme.MD; mv c1 t; mv c3 c1; mv c2 c3; mv t c2;"
        "mv d1 t; mv d2 d1; mv t d2; mv p/q q; mv p q/p"
    )
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "sh", "-c", code, **how)
    goexfs("commit", **how)
    names = {os.fsdecode(name) for name in manifest(tree)}
    assert {"readme.MD", "q/in", "q/p"} <= names
    assert not {"README.md", "p"} & names
    assert [(tree / name).read_text() for name in ("c1", "c2", "c3")] == ["c3", "c1", "c2"]
    assert (tree / "d1" / "in").read_text() == "d2\n"
    goexfs("undo", **how)
    assert differences(before, manifest(tree)) == []


def test_ten_gigabytes_of_nothing(goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    with open(tree / "hole", "wb") as file:
        file.truncate(10 << 30)
    ordinary_user.own(tree)
    before = manifest(tree)
    goexfs("mount", tree, user=ordinary_user)
    code = "printf end | dd of=hole bs=1 seek=10737418240 conv=notrunc; truncate -s 10G new"
    goexfs("run", "--", "sh", "-c", code, **how)
    goexfs("commit", **how)
    for name, size in (("hole", (10 << 30) + 3), ("new", 10 << 30)):
        st = (tree / name).stat()
        assert st.st_size == size
        assert st.st_blocks * 512 < 1 << 20
    goexfs("undo", **how)
    assert differences(before, manifest(tree)) == []


def test_no_room_for_the_before_images(tmp_path: Path) -> None:
    case: Case = fresh(tmp_path, 1)
    try:
        (case.base / "gone" / "a").write_bytes(os.urandom(8 << 20))
        with mounted_at(tmp_path / "little", "tmpfs", "size=2m") as little:
            roots = [Root(0, "r", str(case.base))]
            case.session.touch(b"edit")
            before = case.manifest()
            ran = Bench(case.session.layer, roots, little / "before").commit()
            assert ran.last["event"] in ("error", "conflicts"), ran.messages
            assert differences(before, case.manifest()) == []
            assert litter(str(case.base)) == []
    finally:
        case.close()
