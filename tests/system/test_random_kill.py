"""A commit of a few thousand files whose processes are killed at random moments.

The daemon, its workers and its fork server at once, as when the machine runs out of memory; then
it is started again.  The base is wholly before or wholly after, and after if that was told.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from committing import litter
from daemons import Daemon, Goexfs, User
from manifests import differences, manifest

pytestmark = pytest.mark.timeout(900)

FILES = 2000
ROUNDS = int(os.environ.get("GOEXFS_TEST_ROUNDS", "3"))
CHANGE = "rm -r gone; for f in keep/*; do echo more >> $f; done; mkdir new; cp keep/1* new"


def descendants(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def kill_all(daemon: Daemon) -> None:
    """The daemon first, so that it starts nothing more."""
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGSTOP)
    below = descendants(daemon.process.pid)
    daemon.kill()
    for pid in below:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_killed_at_random_moments(
    daemon: Daemon, goexfs: Goexfs, arena: Path, ordinary_user: User
) -> None:
    chance = random.Random(os.environ.get("GOEXFS_TEST_SEED", "1"))
    tree = arena / "many"
    for part in ("gone", "keep"):
        (tree / part).mkdir(parents=True)
        for number in range(FILES // 2):
            (tree / part / str(number)).write_text(f"{number}\n" * 20)
    ordinary_user.own(tree)
    before = manifest(tree)
    took, after = 0.0, before
    for number in range(ROUNDS + 1):
        goexfs("mount", tree, user=ordinary_user)
        goexfs("run", "--", "sh", "-c", CHANGE, cwd=tree, user=ordinary_user)
        started = time.monotonic()
        client = subprocess.Popen(
            [*daemon._command(ordinary_user), "commit"],
            cwd=tree,
            env=daemon.environment(),
            user=ordinary_user.uid,
            group=ordinary_user.gid,
            extra_groups=[],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if number == 0:  # how long one takes
            assert client.wait(120) == 0
            took = time.monotonic() - started
            after = manifest(tree, times=False)
        else:
            time.sleep(chance.random() * took)
            kill_all(daemon)
            told = client.wait(60) == 0
            daemon.start()
            committed = not (tree / "gone").exists()
            assert committed or not told
            if committed:
                assert differences(after, manifest(tree, times=False)) == []
            else:
                assert differences(before, manifest(tree)) == []
            assert litter(str(tree)) == []
            if not committed:
                goexfs("discard", cwd=tree, user=ordinary_user)
                continue
        goexfs("undo", cwd=tree, user=ordinary_user)
        assert differences(before, manifest(tree)) == []
