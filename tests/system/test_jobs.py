"""Jobs: what runs beside a session's steps, and ends with it at the latest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import Daemon, User

Json = Callable[..., Any]
MARK = "goexfs-test-job"


@pytest.fixture(params=["root", "ordinary"])
def owner(request: pytest.FixtureRequest, ordinary_user: User) -> User:
    return User(0, 0) if request.param == "root" else ordinary_user


@pytest.fixture
def project(tree: Path, owner: User, goexfs: Goexfs) -> Path:
    owner.own(tree)
    goexfs("mount", tree, "--name", "mine", user=owner)
    return tree


def alive(mark: str) -> list[str]:
    """The processes on this machine that have the mark among their words."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words and words[0].endswith(b"sleep-like"):
            found.append(pid)
    return found


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


STUBBORN = f"""
trap '' TERM INT HUP; echo out; echo err >&2; touch made
(setsid sh -c 'exec -a sleep-like sleep 1000 {MARK}' &) 2>/dev/null
exec bash -c 'trap "" TERM; exec -a sleep-like sleep 1000 & exec -a sleep-like python3 -c \
"import time; time.sleep(1000)" {MARK}'
"""


def start(goexfs: Goexfs, owner: User, project: Path) -> None:
    run = ("run", "--background", "--name", "server", "--", "bash", "-c", STUBBORN)
    assert goexfs(*run, user=owner, cwd=project).out == "job server runs in the background\n"
    until(lambda: alive(MARK))


def test_a_job_runs_beside_steps_until_it_is_killed(
    project: Path, owner: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    mine: dict[str, Any] = {"user": owner, "cwd": project}
    start(goexfs, owner, project)
    goexfs("run", "--background", "--name", "server", "--", "true", status=1, **mine)
    assert "made" in goexfs("run", "--", "ls", **mine).out
    assert goexfs_json("status", **mine)["session"]["jobs"] == ["server"]
    (found,) = goexfs_json("jobs", **mine)["jobs"]
    assert (found["ended"], found["status"]) == (None, None)
    assert "jobs in the background: server" in goexfs("commit", status=1, **mine).err
    assert "jobs in the background: server" in goexfs("rewind", "0", status=1, **mine).err
    done = goexfs("jobs", "server", **mine)
    assert (done.out, done.err) == ("out\n", "err\n")
    assert goexfs("kill", "server", **mine).out == "job server has ended\n"
    assert alive(MARK) == []
    assert "server" in goexfs("jobs", **mine).out
    goexfs("commit", **mine)
    assert (project / "made").exists()


def test_a_job_that_ends_tells_how(project: Path, owner: User, goexfs: Goexfs) -> None:
    mine: dict[str, Any] = {"user": owner, "cwd": project}
    shout = "head -c 3M /dev/zero | tr '\\0' x; exit 7"
    goexfs("run", "--background", "--", "sh", "-c", shout, **mine)
    until(lambda: "ended: 7" in goexfs("jobs", **mine).out)
    kept = goexfs("jobs", "job-1", **mine).out
    assert "bytes not kept" in kept
    assert len(kept) < 2 << 20
    goexfs("kill", "job-1", **mine)
    goexfs("kill", "nobody", status=4, **mine)
    goexfs("run", "--background", "--layer", "1M", "--", "true", status=2, **mine)


@pytest.mark.parametrize("way", ["discard", "stop"])
def test_no_job_outlives_its_session_or_the_daemon(
    project: Path, owner: User, goexfs: Goexfs, daemon: Daemon, way: str
) -> None:
    start(goexfs, owner, project)
    if way == "discard":
        goexfs("discard", "-s", "mine", user=owner)
        assert alive(MARK) == []
        return
    daemon.stop()
    assert alive(MARK) == []
    daemon.start()
    assert "server" not in goexfs("jobs", "-s", "mine", user=owner).out


def test_others_have_no_part_in_it(
    project: Path, owner: User, goexfs: Goexfs, other_user: User
) -> None:
    goexfs("run", "--background", "--", "sleep", "100", user=owner, cwd=project)
    for verb in (("jobs",), ("kill", "job-1"), ("run", "--background", "--", "true")):
        goexfs(verb[0], "-s", "mine", *verb[1:], user=other_user, status=4)
