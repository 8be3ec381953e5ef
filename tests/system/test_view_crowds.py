"""Many processes in one view: no update is lost, nobody waits for ever, the worker stays small."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beside import as_user, picture
from calls import rename, told
from daemons import User
from goexfsd import kernel
from goexfsd.worker import Owner
from manifests import differences, manifest
from views import View, mounted

_PROCESSES = 64
_TOKENS = 150


@pytest.fixture
def base(arena: Path, ordinary_user: User) -> Iterator[Path]:
    top = arena / "base"
    (top / "d").mkdir(parents=True)
    for number in range(_TOKENS):
        (top / "d" / f"token{number}").write_text(f"{number}")
    (top / "d" / "counter").write_text("0")
    for name in ("left", "right", "current"):
        (top / "d" / name).write_text(name * 1000)
    ordinary_user.own(top)
    before = manifest(top)
    yield top
    assert differences(before, manifest(top)) == []


@pytest.fixture
def view(base: Path, arena: Path, btrfs_image: Path, ordinary_user: User) -> Iterator[View]:
    owner = Owner(ordinary_user.uid, ordinary_user.gid, ())
    with mounted(arena, [base], btrfs_image, owner) as mounted_view:
        before = mounted_view.command("stats")
        yield mounted_view
        after = _at_rest(mounted_view)
        assert after["fds"] < before["fds"] + 500  # directories are kept open, so many at most
        assert after["rss_kb"] < before["rss_kb"] + (48 << 10)
        assert os.listdir(mounted_view.layer / "work") == []


def _at_rest(view: View) -> dict[str, Any]:
    """The worker's figures once the kernel has told it of every closed file."""
    deadline = time.monotonic() + 30
    while (stats := view.command("stats"))["open_files"]:
        assert time.monotonic() < deadline, stats
        time.sleep(0.01)
    return stats


Wins = list[str]


def crowd(directory: Path, work: Callable[[int], Wins]) -> list[Wins]:
    """What each of the processes says it won; they start together."""
    os.chdir(directory)
    start, go = os.pipe()
    readers = []
    for number in range(_PROCESSES):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(go)
            os.read(start, 1)  # until everybody is there
            os.write(writer, "\n".join(work(number)).encode() + b"\n")
            os._exit(0)
        os.close(writer)
        readers.append(reader)
    os.close(start)
    os.close(go)
    said = []
    for reader in readers:
        with open(reader) as out:
            said.append(out.read().split())
    assert [os.wait()[1] for _ in readers] == [0] * _PROCESSES
    return said


def compete(me: int) -> Wins:
    """Everybody wants the same names; each way of taking one lets one process win."""
    dice = random.Random(me)
    wins = []
    for number in dice.sample(range(_TOKENS), _TOKENS):
        ways: tuple[tuple[str, Callable[[], object]], ...] = (
            ("token", lambda n=number: os.rename(f"token{n}", f"won{n}-{me}")),  # type: ignore[misc]
            ("made", lambda n=number: os.close(os.open(f"made{n}", _NEW, 0o644))),  # type: ignore[misc]
            ("dir", lambda n=number: os.mkdir(f"dir{n}")),  # type: ignore[misc]
            ("link", lambda n=number: os.symlink(f"{me}", f"link{n}")),  # type: ignore[misc]
        )
        kind, take = ways[(number + me) % 4]
        if told(take) is None:
            wins.append(f"{kind}{number}")
    return wins


_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY


def test_of_many_who_want_a_name_one_gets_it(view: View, ordinary_user: User) -> None:
    top = view.top / "d"
    said = as_user(ordinary_user.uid, lambda: crowd(top, compete))
    wins = [win for each in said for win in each]
    assert len(wins) == len(set(wins)), "two processes won the same"
    there = set(os.listdir(top))
    won = {name.split("-")[0].replace("won", "token") for name in there if name.startswith("won")}
    others = {n for n in there if n.startswith(("made", "dir", "link"))}
    assert set(wins) == won | others
    assert {f"token{n}" for n in range(_TOKENS)} == won | {
        n for n in there if n.startswith("token")
    }
    for name in there:
        if name.startswith("won"):
            assert (top / name).read_text() == name[3:].split("-")[0]
    before = picture(str(top))
    view.remount()
    assert picture(str(top)) == before


def share(me: int) -> Wins:
    """Everybody changes the same files, each change whole."""
    wins = []
    for turn in range(6):
        with open("counter", "r+") as counter:
            fcntl.flock(counter, fcntl.LOCK_EX)
            count = int(counter.read())
            counter.seek(0)
            counter.write(f"{count + 1}")
            counter.flush()
        fd = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.write(fd, f"{me}-{turn}\n".encode())
        os.close(fd)
        with open(f"new{me}", "w") as new:
            new.write(f"{me:04}" * 1000)
        os.rename(f"new{me}", "current")
        with open("current") as current:
            whole = current.read()
        wins += ["torn"] if whole != whole[: len(whole) // 1000] * 1000 else []
        done = told(rename, "left", "right", kernel.RENAME_EXCHANGE)
        wins += [f"exchange:{done}"] if done is not None else []
        for name in ("left", "right", "current", "counter"):
            wins += [] if os.path.exists(name) else [f"{name}:gone"]
        os.mkdir(f"mine{me}")
        os.rename(f"mine{me}", f"moved{me}")
        os.rmdir(f"moved{me}")
    return wins


def test_many_change_the_same_files_and_lose_nothing(view: View, ordinary_user: User) -> None:
    top = view.top / "d"
    said = as_user(ordinary_user.uid, lambda: crowd(top, share))
    assert said == [[]] * _PROCESSES
    assert (top / "counter").read_text() == str(6 * _PROCESSES)
    lines = (top / "log").read_text().split()
    assert sorted(lines) == sorted(f"{n}-{t}" for n in range(_PROCESSES) for t in range(6))
    assert {(top / "left").read_text()[:4], (top / "right").read_text()[:4]} == {"left", "righ"}
    assert {n for n in os.listdir(top) if not n.startswith("token")} == {
        "counter", "current", "left", "log", "right",
    }  # fmt: skip


def _run(user: User, cwd: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, user=user.uid, group=user.gid, extra_groups=[], check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"},
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


_MAKEFILE = """
objects := $(patsubst %.c,out/%.o,$(wildcard *.c))
out/prog: $(objects)
	$(CC) -o $@ $^
out/%.o: %.c | out
	$(CC) -MMD -c -o $@ $<
out:
	mkdir -p out
-include $(wildcard out/*.d)
"""


def test_parallel_make(base: Path, view: View, ordinary_user: User) -> None:
    """Sources from the base, objects in the session; what a header concerns is built again."""
    top, count = view.top, 24
    for n in range(count):
        (top / f"f{n}.c").write_text(f'#include "h{n % 4}.h"\nint f{n}(void) {{ return H; }}\n')
    for n in range(4):
        (top / f"h{n}.h").write_text(f"enum {{ H = {n} }};\n")
    calls = " + ".join(f"f{n}()" for n in range(count))
    protos = " ".join(f"int f{n}(void);" for n in range(count))
    (top / "main.c").write_text(
        f'#include <stdio.h>\n{protos}\nint main(void) {{ printf("%d\\n", {calls}); }}\n'
    )
    (top / "Makefile").write_text(_MAKEFILE)
    for name in os.listdir(top):
        os.chown(top / name, ordinary_user.uid, ordinary_user.gid)
    _run(ordinary_user, top, "make", "-s", "-j16")
    assert _run(ordinary_user, top, "out/prog") == f"{sum(n % 4 for n in range(count))}\n"
    _run(ordinary_user, top, "make", "-q")
    (top / "h3.h").write_text("enum { H = 100 };\n")
    again = _run(ordinary_user, top, "make", "-j16")
    assert again.count("-MMD") == count // 4
    assert _run(ordinary_user, top, "out/prog") == f"{6 * (0 + 1 + 2 + 100)}\n"


_WORK = """
set -eu
cd ../tree$1
for n in 1 2 3; do
    echo $n >> file$1; git add file$1; git commit -qm "$1 $n"
done
git tag -a -m t tag$1
"""


def test_parallel_git(view: View, ordinary_user: User) -> None:
    """Worktrees of one repository, worked in at once; then all merged, and nothing is missing."""
    git = ("git", "-c", "user.name=n", "-c", "user.email=e@example.invalid")
    for config in ("user.name=n", "user.email=e@example.invalid", "gc.auto=0"):
        _run(
            ordinary_user,
            view.top,
            "sh",
            "-c",
            f"git init -q -b main repo; git -C repo config {config.replace('=', ' ')}",
        )
    repo = view.top / "repo"
    _run(ordinary_user, repo, *git, "commit", "-q", "--allow-empty", "-m", "first")
    sides = [f"side{n}" for n in range(8)]
    for n, side in enumerate(sides):
        # One after another: git itself reads what another `worktree add` has not written yet.
        _run(ordinary_user, repo, "git", "worktree", "add", "-q", "-b", side, f"../tree{n}")
    as_user(ordinary_user.uid, lambda: _together(repo, 8))
    _run(ordinary_user, repo, *git, "merge", "-q", *sides)
    assert _run(ordinary_user, repo, "git", "rev-list", "--count", "--no-merges", "HEAD") == "25\n"
    assert len(_run(ordinary_user, repo, "git", "tag").split()) == 8
    assert sorted(n for n in os.listdir(repo) if n != ".git") == [f"file{n}" for n in range(8)]
    _run(ordinary_user, repo, "git", "fsck", "--strict")
    _run(ordinary_user, repo, "git", "gc", "-q")
    assert _run(ordinary_user, repo, "git", "status", "--porcelain") == ""


def _together(repo: Path, count: int) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    running = [
        subprocess.Popen(["sh", "-c", _WORK, "work", str(n)], cwd=repo, env=env)
        for n in range(count)
    ]
    assert [process.wait() for process in running] == [0] * count
