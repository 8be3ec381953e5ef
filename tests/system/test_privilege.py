"""The daemon keeps the capabilities that it needs and no others, nor has whatever it starts."""

from __future__ import annotations

import re
from pathlib import Path

from daemons import Daemon, User
from goexfsd.privilege import KEPT

UNIT = Path(__file__).parents[2] / "systemd" / "goexfsd.service"
WANTED = sum(1 << number for number in KEPT.values())


def capabilities(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines)
    return {name: int(fields[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


def children(pid: int) -> list[int]:
    """All processes below this one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def test_the_daemon_and_what_it_starts_have_no_more_than_they_need(
    daemon: Daemon, tree: Path, ordinary_user: User
) -> None:
    assert daemon.run("mount", tree, user=ordinary_user).status == 0
    assert daemon.run("mount", tree).status == 0
    assert daemon.process is not None
    below = children(daemon.process.pid)
    assert len(below) >= 3
    for pid in (daemon.process.pid, *below):
        for name, found in capabilities(pid).items():
            assert found & ~WANTED == 0, (pid, name)


def test_the_unit_grants_the_same() -> None:
    found = re.search(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.M)
    assert found is not None
    assert {f"CAP_{name}" for name in KEPT} == set(found[1].split())
