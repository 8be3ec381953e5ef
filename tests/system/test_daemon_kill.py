"""The daemon is killed at one system call after another of an operation, and started again.

strace ends it (SIGKILL) at the K-th call that changes or syncs something, K = 1, 1 + step, ...,
until the operation completes: no list of places.  After each start the base is wholly before or
wholly after, what was acknowledged is so, the session is usable, and nothing else is left.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from committing import litter
from daemons import Daemon, Done, Goexfs, User
from manifests import Manifest, differences, manifest

pytestmark = pytest.mark.timeout(900)

CALLS = (
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,ioctl,fsync,fdatasync,"
    "pwrite64,mount,umount2,fchownat,fchmodat"
)
STEP = int(os.environ.get("GOEXFS_TEST_STEP", "13"))
"""Every how many calls the daemon is killed; 1 takes some minutes."""
MOST = 1000


@dataclass
class Stage:
    """A session with two checkpoints' worth of work over ``tree``."""

    daemon: Daemon
    goexfs: Goexfs
    tree: Path
    user: User
    before: Manifest

    def do(self, *arguments: str, status: int | None = 0) -> Done:
        return self.goexfs(*arguments, status=status, cwd=self.tree, user=self.user)

    def open(self) -> None:
        self.do("mount", str(self.tree))
        self.do("run", "--", "sh", "-c", "echo one > made; rm -r src")
        self.do("run", "--", "sh", "-c", "echo two > made; mv README.md moved")

    def sessions(self) -> list[str]:
        return [each["session"] for each in json.loads(self.do("ls", "--json").out)["sessions"]]

    def end(self) -> None:
        """Nothing of ours is left, and the base is as it was."""
        for session in self.sessions():
            self.do("discard", "-s", session)
        assert litter(str(self.tree)) == []
        assert differences(self.before, manifest(self.tree)) == []


@pytest.fixture
def stage(daemon: Daemon, goexfs: Goexfs, tree: Path, ordinary_user: User) -> Stage:
    return Stage(daemon, goexfs, tree, ordinary_user, manifest(tree))


@contextmanager
def killed_at(daemon: Daemon, number: int) -> Iterator[None]:
    """The daemon ends at its ``number``-th call of CALLS; afterwards it is started again."""
    assert daemon.process is not None
    rule = f"inject={CALLS}:signal=KILL:when={number}"
    argv = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", rule]
    tracer = subprocess.Popen([*argv, "-p", str(daemon.process.pid)], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    tracer.stderr.readline()  # it says that it is attached
    try:
        yield
    finally:
        tracer.terminate()
        tracer.stderr.close()
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:  # it waits for a thread of a process that is gone
            tracer.kill()
            tracer.wait()


def died(daemon: Daemon) -> bool:
    """Whether the daemon is gone (a moment is given to a call that was the last)."""
    assert daemon.process is not None
    deadline = time.monotonic() + 0.3
    while daemon.process.poll() is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    daemon.process = None
    return True


def rounds(stage: Stage, *command: str) -> Iterator[Done]:
    """Run ``command`` again and again with the daemon killed in it; yields when it is up again."""
    for number in itertools.count(1, STEP):
        with killed_at(stage.daemon, number):
            done = stage.do(*command, status=None)
        dead = died(stage.daemon)
        if dead:
            stage.daemon.start()
        yield done
        if not dead and done.status == 0:
            return
        # Or else a child was ended in its place: strace counts the calls of each by themselves.
        assert number < MOST, done


def test_killed_in_a_discard(stage: Stage) -> None:
    stage.open()
    for done in rounds(stage, "discard"):
        left = stage.sessions()
        assert not left or done.status != 0, "acknowledged, and it is still there"
        if left:
            assert stage.do("run", "--", "cat", "made").out == "two\n"
            stage.do("discard")
        stage.end()
        stage.open()
    stage.end()


def test_killed_in_a_rewind(stage: Stage) -> None:
    stage.open()
    for done in rounds(stage, "rewind", "1"):
        said = stage.do("run", "--", "cat", "made").out
        assert said == "one\n" if done.status == 0 else said in ("one\n", "two\n")
        stage.do("rewind", "2")
        assert stage.do("run", "--", "cat", "made").out == "two\n"
    stage.end()


def test_killed_in_a_step(stage: Stage) -> None:
    stage.open()
    for number, done in enumerate(rounds(stage, "run", "--", "sh", "-c", "echo three > made")):
        said = stage.do("run", "--", "cat", "made").out
        assert said == "three\n" if done.status == 0 else said in ("two\n", "three\n", "")
        stage.do("run", "--", "sh", "-c", f"echo two > made; echo {number} > other")
    stage.end()


def test_killed_in_a_mount(stage: Stage) -> None:
    for done in rounds(stage, "mount", str(stage.tree)):
        left = stage.sessions()
        assert left or done.status != 0
        if left:
            assert stage.do("run", "--", "cat", "README.md").out == "# project\n"
        stage.end()


def test_killed_in_a_commit(stage: Stage) -> None:
    """Of the daemon; its workers are killed at every point by the tests in ``tests/crash``."""
    stage.open()
    for done in rounds(stage, "commit"):
        committed = (stage.tree / "made").exists()
        assert litter(str(stage.tree)) == []
        assert committed or done.status != 0
        if committed:
            assert stage.sessions() == []
            assert not (stage.tree / "src").exists()
            stage.do("undo")
        stage.end()
        stage.open()
    stage.end()
