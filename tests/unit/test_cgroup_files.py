"""What is written to control groups of either version: on plain files, for this machine has one.

Where the kernel has the controllers, the same runs for real in the system tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from goexfs.errors import SandboxFailed
from goexfsd.sandbox.cgroup import (
    Cgroup,
    Groups,
    Hierarchies,
    Limits,
    _counter,
    _hand_down,
    _here,
    _memberships,
    _mounts,
)

ALL = Limits(1 << 30, 64, 1.5)
V2_FILES = ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs",
            "cgroup.freeze", "cgroup.kill", "cgroup.events", "memory.events",
            "pids.events")  # fmt: skip
MOUNTINFO = r"""
30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 /docker/a\040b /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 23 0:29 / / rw - ext4 /dev/sda1 rw
""".strip()


def unified(top: Path, *controllers: str) -> Cgroup:
    """A v2 group with these controllers, as the kernel would have made it."""
    group = top / "1"
    group.mkdir(parents=True)
    for name in V2_FILES:
        (group / name).write_text("")
    memory, pids, cpu = (top if name in controllers else None for name in ("memory", "pids", "cpu"))
    return Cgroup(Hierarchies(top, frozenset(controllers), memory, pids, cpu, None), "1")


def test_limits_of_version_2(tmp_path: Path) -> None:
    unified(tmp_path, "memory", "pids", "cpu").bound(ALL)
    said = {name: (tmp_path / "1" / name).read_text() for name in V2_FILES}
    assert said["memory.max"] == str(1 << 30)
    assert said["memory.swap.max"] == "0"
    assert said["pids.max"] == "64"
    assert said["cpu.max"] == "150000 100000"


def test_a_kernel_without_swap_accounting(tmp_path: Path) -> None:
    group = unified(tmp_path, "memory")
    (tmp_path / "1" / "memory.swap.max").unlink()
    group.bound(Limits(1 << 20, None, None))
    assert (tmp_path / "1" / "memory.max").read_text() == str(1 << 20)
    assert (tmp_path / "1" / "pids.max").read_text() == ""


def test_events_of_version_2(tmp_path: Path) -> None:
    group = unified(tmp_path, "memory", "pids")
    (tmp_path / "1" / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    (tmp_path / "1" / "pids.events").write_text("max 7\n")
    assert (group.oom_kills(), group.fork_failures()) == (2, 7)
    group.kill()
    assert (tmp_path / "1" / "cgroup.kill").read_text() == "1"


def test_limits_of_both_versions_at_once(tmp_path: Path) -> None:
    """v2 freezes and kills, v1 has memory and processes."""
    memory, pids, top = tmp_path / "memory", tmp_path / "pids", tmp_path / "v2"
    files = {
        memory: ("memory.limit_in_bytes", "memory.oom_control"), pids: ("pids.max",),
        top: ("cgroup.kill",),
    }  # fmt: skip
    for base, names in files.items():
        (base / "1").mkdir(parents=True)
        for name in names:
            (base / "1" / name).write_text("oom_kill_disable 0\noom_kill 4\n")
    found = Hierarchies(top, frozenset(), memory, pids, None, None)
    group = Cgroup(found, "1")
    group.bound(Limits(1 << 25, 9, None))
    assert (memory / "1" / "memory.limit_in_bytes").read_text().startswith(str(1 << 25))
    assert (pids / "1" / "pids.max").read_text().startswith("9")
    assert group.oom_kills() == 4
    with pytest.raises(SandboxFailed, match="limit on cpu"):
        Groups(found).check(ALL)
    Groups(found).check(Limits(1, 1, 1, required=False))


def test_every_controller_that_is_there_is_handed_down(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    _hand_down(tmp_path)  # the kernel adds what is written; a file keeps the last
    assert (tmp_path / "cgroup.subtree_control").read_text()[:4] in ("+cpu", "+mem", "+pid")


def test_where_hierarchies_are_mounted() -> None:
    found = _mounts(MOUNTINFO)
    assert found[""] == (Path("/sys/fs/cgroup"), "/")
    assert found["memory"] == (Path("/sys/fs/cgroup/memory"), "/docker/a b")
    assert found["cpu"] == found["cpuacct"]
    own = _memberships("4:memory:/docker/a b/x\n3:cpu,cpuacct:/y\n0::/user.slice\n")
    assert own == {"memory": "/docker/a b/x", "cpu": "/y", "cpuacct": "/y", "": "/user.slice"}
    assert _here(found["memory"], own["memory"]) == Path("/sys/fs/cgroup/memory/x")
    assert _here(found["cpu"], own["cpu"]) == Path("/sys/fs/cgroup/cpu,cpuacct/y")
    assert _counter(Path("/nowhere"), "max") == 0
