"""What an idle session holds of the machine's memory: little, and no more the more there are."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from daemons import Daemon, Goexfs, User

BOUND = 10_000
"""kB of private memory a session: the bar of docs/performance.md; 5,500 were measured."""


def family(top: int) -> set[int]:
    """A process and everything below it."""
    argv = ["ps", "-e", "-o", "pid=,ppid="]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, told.splitlines())}
    found: set[int] = set()
    more = {top}
    while more:
        found |= more
        more = {pid for pid, parent in parents.items() if parent in found} - found
    return found


def private_kb(daemon: Daemon) -> int:
    """Memory that the daemon's processes share with nobody."""
    assert daemon.process is not None
    total = 0
    for pid in family(daemon.process.pid):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if "Private" in line)
    return total


def test_an_idle_session(daemon: Daemon, goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    count = 4
    goexfs("mount", tree, "--name", "s0", user=ordinary_user)
    time.sleep(0.5)  # until the workers that wait are two again
    before = private_kb(daemon)
    for number in range(1, 1 + count):
        goexfs("mount", tree, "--name", f"s{number}", user=ordinary_user)
    time.sleep(0.5)
    assert (private_kb(daemon) - before) / count < BOUND
