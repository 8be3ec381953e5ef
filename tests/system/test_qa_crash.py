"""Processes of a daemon killed at bad moments: it goes on, and so do the sessions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from daemons import Daemon, Goexfs, MakeDaemon, User


def processes_below(pid: int) -> dict[int, str]:
    """Every descendant of ``pid``, with its command line."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parents[int(name)] = int(stat.rsplit(")", 1)[1].split()[1])
    found: dict[int, str] = {}
    level = {pid}
    while level := {child for child, parent in parents.items() if parent in level}:
        for child in level:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
            found[child] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def test_a_killed_waiting_process_costs_no_run(
    daemon: Daemon, goexfs: Goexfs, tree: Path, ordinary_user: User
) -> None:
    """The process parked for the next script may die while it waits."""
    goexfs("mount", tree, user=ordinary_user)
    assert daemon.process is not None
    for _ in range(3):
        time.sleep(0.2)  # it is parked a moment after the last run
        parked = [
            pid for pid, line in processes_below(daemon.process.pid).items() if "waiter.py" in line
        ]
        assert parked
        for pid in parked:
            os.kill(pid, signal.SIGKILL)
        done = goexfs("run", "--", "echo", "ran", cwd=tree, user=ordinary_user)
        assert done.out == "ran\n"
    goexfs("discard", cwd=tree, user=ordinary_user)


def test_a_daemon_without_standard_streams(make_daemon: MakeDaemon) -> None:
    """Nothing that it opens may get the number of its log, nor be written to as its log."""
    daemon = make_daemon()
    daemon.stop()
    command: list[str | Path] = [
        Path(sys.executable).parent / "goexfsd",
        "--state-dir", daemon.state,
        "--runtime-dir", daemon.runtime,
        "--config", daemon.directory / "goexfsd.toml",
    ]  # fmt: skip
    closed = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
    try:
        deadline = time.monotonic() + 20
        while not daemon.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert daemon.run("ls").status == 0
        for number in range(3):
            assert os.readlink(f"/proc/{closed.pid}/fd/{number}") == "/dev/null"
    finally:
        closed.terminate()
        assert closed.wait(20) == 0
