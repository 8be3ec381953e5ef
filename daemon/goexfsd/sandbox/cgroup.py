"""Control groups: one for each running step, to bound it, and to freeze and kill it whole.

Controllers are taken from the unified hierarchy (v2) where it has them, else from v1; killing
and freezing from v2 where it is mounted at all, else from v1's freezer and signals.  All groups
lie below one of the daemon's own, named for it, so that a daemon finds and ends what its former
life left behind.

Sync functions on cgroupfs, each microseconds, except ``empty_within`` and what calls it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from goexfs.errors import SandboxFailed

_V2_CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD = 100_000
_MOST_CPUS = 8192  # as the kernel has it
_FREEZE_SECONDS = 0.2
_LEAF = "goexfs-daemon"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one group may use; None: not bounded."""

    memory_bytes: int | None
    max_processes: int | None
    cpu: float | None
    required: bool = True
    """Refuse to run where a limit cannot be enforced."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """The daemon's own group in each hierarchy; a missing one is None.

    ``unified`` may be there without controllers: it still freezes and kills.
    """

    unified: Path | None
    v2: frozenset[str]
    memory: Path | None
    pids: Path | None
    cpu: Path | None
    freezer: Path | None

    def directories(self) -> list[Path]:
        """Each once."""
        found = (self.unified, self.memory, self.pids, self.cpu, self.freezer)
        return list(dict.fromkeys(path for path in found if path is not None))

    def renamed(self, name: str) -> Hierarchies:
        """The same of another daemon beside this one."""
        other = [
            path.with_name(name) if path else None
            for path in (self.unified, self.memory, self.pids, self.cpu, self.freezer)
        ]
        return Hierarchies(other[0], self.v2, *other[1:])

    def lacks(self, limits: Limits) -> list[str]:
        """The controllers that ``limits`` needs and this machine has not."""
        needed = {
            "memory": limits.memory_bytes is not None and self.memory is None,
            "pids": limits.max_processes is not None and self.pids is None,
            "cpu": limits.cpu is not None and self.cpu is None,
        }
        return [name for name, missing in needed.items() if missing]


class Groups:
    """The daemon's groups; ``new`` makes one."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self.hierarchies = hierarchies
        self._next = 0

    def check(self, limits: Limits) -> None:
        """SandboxFailed if this machine cannot enforce them."""
        lacking = self.hierarchies.lacks(limits)
        if lacking and limits.required:
            raise SandboxFailed(
                f"this machine cannot enforce the limit on {' and '.join(lacking)}: "
                "the control group controller is missing",
                hint='enable it, or set unenforced = "allow" in the policy',
            )

    def new(self) -> Cgroup:
        """A new empty group without limits."""
        self._next += 1
        group = Cgroup(self.hierarchies, str(self._next))
        try:
            group.create()
        except OSError as error:
            group.remove()
            raise SandboxFailed(f"no control group could be made: {error}") from error
        return group

    def leftovers(self) -> list[str]:
        """Names of groups that exist: while nothing runs, what a former life left."""
        names: set[str] = set()
        for directory in self.hierarchies.directories():
            with contextlib.suppress(OSError), os.scandir(directory) as entries:
                names.update(entry.name for entry in entries if entry.is_dir())
        return sorted(names)

    def sweep(self, seconds: float = 10) -> None:
        """Kill and remove every group there is (at start, before anything runs; at the end)."""
        for name in self.leftovers():
            group = Cgroup(self.hierarchies, name)
            group.end_blocking(seconds)

    def close(self) -> None:
        """Sweep, and remove the daemon's own groups."""
        self.sweep()
        for directory in self.hierarchies.directories():
            _rmdir(directory)


class Cgroup:
    """One step's group, in every hierarchy that has a part in it."""

    def __init__(self, hierarchies: Hierarchies, name: str) -> None:
        self.name = name
        self._paths = [path / name for path in hierarchies.directories()]
        self._unified = hierarchies.unified / name if hierarchies.unified else None
        self._memory = hierarchies.memory / name if hierarchies.memory else None
        self._pids = hierarchies.pids / name if hierarchies.pids else None
        self._cpu = hierarchies.cpu / name if hierarchies.cpu else None
        self._freezer = hierarchies.freezer / name if hierarchies.freezer else None
        self._v2 = hierarchies.v2

    def create(self) -> None:
        for path in self._paths:
            path.mkdir(exist_ok=True)

    def bound(self, limits: Limits) -> None:
        """Set the limits, as far as there are controllers for them."""
        if limits.memory_bytes is not None and self._memory is not None:
            self._bound_memory(self._memory, limits.memory_bytes)
        if limits.max_processes is not None and self._pids is not None:
            _write(self._pids / "pids.max", str(limits.max_processes))
        if limits.cpu is not None and self._cpu is not None:
            quota = max(1000, int(min(limits.cpu, _MOST_CPUS) * _PERIOD))
            if "cpu" in self._v2:
                _write(self._cpu / "cpu.max", f"{quota} {_PERIOD}")
            else:
                _write(self._cpu / "cpu.cfs_period_us", str(_PERIOD))
                _write(self._cpu / "cpu.cfs_quota_us", str(quota))

    def _bound_memory(self, path: Path, size: int) -> None:
        if "memory" in self._v2:
            _write(path / "memory.max", str(size))
            with contextlib.suppress(FileNotFoundError):  # no swap accounting
                _write(path / "memory.swap.max", "0")
            return
        _write(path / "memory.limit_in_bytes", str(size))
        with contextlib.suppress(FileNotFoundError):
            _write(path / "memory.memsw.limit_in_bytes", str(size))

    def add(self, pid: int) -> None:
        """Move a process in; what it starts from now on is in, too."""
        for path in self._paths:
            _write(path / "cgroup.procs", str(pid))

    def pids(self) -> set[int]:
        """Everything in the group now."""
        with contextlib.suppress(FileNotFoundError):
            return {int(line) for line in (self._paths[0] / "cgroup.procs").read_text().split()}
        return set()

    async def signal(self, number: int, spare: int | None = None) -> None:
        """Send a signal to all but ``spare``, to all at one moment, as a terminal would.

        They are frozen meanwhile: what is started between looking and sending would miss it.
        """
        self._freeze(True)
        try:
            for pause in _pauses(_FREEZE_SECONDS):
                if self._frozen():
                    break
                await trio.sleep(pause)
            self._send(number, spare)
        finally:
            self._freeze(False)

    def _send(self, number: int, spare: int | None = None) -> None:
        """Through pidfds, and only after a second look at the group: a pid that was free for a
        moment may be somebody else's by now."""
        for pid in self.pids() - {spare}:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                try:
                    if pid in self.pids():
                        signal.pidfd_send_signal(fd, number)
                finally:
                    os.close(fd)

    def kill(self) -> None:
        """SIGKILL for everything in it, atomically where the kernel can."""
        if self._unified is not None:
            with contextlib.suppress(FileNotFoundError):
                _write(self._unified / "cgroup.kill", "1")
                return
        self._freeze(True)
        try:
            self._send(signal.SIGKILL)
        finally:
            self._freeze(False)

    def _freeze(self, frozen: bool) -> None:
        with contextlib.suppress(OSError):
            if self._freezer is not None:
                _write(self._freezer / "freezer.state", "FROZEN" if frozen else "THAWED")
            elif self._unified is not None:
                _write(self._unified / "cgroup.freeze", "1" if frozen else "0")

    def _frozen(self) -> bool:
        """Whether everything stands still (what waits for a disk does not until it has it)."""
        if self._freezer is not None:
            return (self._freezer / "freezer.state").read_text().strip() == "FROZEN"
        if self._unified is not None:
            return _counter(self._unified / "cgroup.events", "frozen") == 1
        return True

    async def end(self, seconds: float = 10) -> bool:
        """Kill all, wait until none is left, remove; False if something does not die.

        Cancellation does not interrupt it: leaving processes behind is worse than being late.
        """
        with trio.CancelScope(shield=True):
            for pause in _pauses(seconds):
                self.kill()
                if not self.pids() and self.remove():
                    return True
                await trio.sleep(pause)
        return False

    def end_blocking(self, seconds: float) -> bool:
        """``end`` for start and stop, when no event loop runs."""
        for pause in _pauses(seconds):
            self.kill()
            if not self.pids() and self.remove():
                return True
            time.sleep(pause)
        return False

    def remove(self) -> bool:
        """Remove the empty group; False if some part is still busy."""
        return all([_rmdir(path) for path in self._paths])

    def oom_kills(self) -> int:
        """How often the kernel killed something in it for want of memory."""
        if self._memory is None:
            return 0
        name = "memory.events" if "memory" in self._v2 else "memory.oom_control"
        return _counter(self._memory / name, "oom_kill")

    def fork_failures(self) -> int:
        """How often a fork failed for the limit on processes."""
        return _counter(self._pids / "pids.events", "max") if self._pids is not None else 0


Mounts = dict[str, tuple[Path, str]]
"""Controller (``""`` for v2) → (mount point, the group that is mounted there)."""


def find_mounts() -> Mounts:
    """Where this machine's hierarchies are mounted."""
    return _mounts(Path("/proc/self/mountinfo").read_text())


def open_groups(mounts: Mounts) -> Groups:
    """This daemon's groups, after ending what daemons that are gone left in theirs."""
    name = _own_name()
    hierarchies = _hierarchies(mounts, name)
    for directory in hierarchies.directories():
        for orphan in _orphans(directory.parent):
            Groups(hierarchies.renamed(orphan)).close()
    return Groups(hierarchies)


def _own_name() -> str:
    """Names a daemon for ever: its pid namespace, pid, and when it started."""
    return f"{_name_prefix()}{os.getpid()}-{_started(os.getpid())}"


def _name_prefix() -> str:
    return f"goexfs-{Path('/proc/self/ns/pid').stat().st_ino}-"


def _started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _orphans(parent: Path) -> list[str]:
    """Daemons' groups whose daemon is gone (of our pid namespace: others we cannot judge)."""
    found = []
    for path in parent.glob(_name_prefix() + "*"):
        pid, _, started = path.name.removeprefix(_name_prefix()).partition("-")
        if pid.isdigit() and _started(int(pid)) != started:
            found.append(path.name)
    return found


def _hierarchies(mounts: Mounts, name: str) -> Hierarchies:
    own = _memberships(Path("/proc/self/cgroup").read_text())
    unified = _unified(mounts, own, name)
    v2: frozenset[str] = frozenset()
    if unified is not None:
        v2 = frozenset((unified / "cgroup.controllers").read_text().split())
    chosen: dict[str, Path | None] = {}
    for controller in ("memory", "pids", "cpu", "freezer"):
        if controller in v2:
            chosen[controller] = unified
        elif controller == "freezer" and unified is not None:
            chosen[controller] = None  # v2 freezes without a controller
        else:
            chosen[controller] = _v1(mounts, own, controller, name)
    return Hierarchies(
        unified=unified,
        v2=v2,
        memory=chosen["memory"],
        pids=chosen["pids"],
        cpu=chosen["cpu"],
        freezer=chosen["freezer"],
    )


def _mounts(mountinfo: str) -> Mounts:
    found: Mounts = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, point = (_unescape(field) for field in before.split()[3:5])
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("", (Path(point), root))
        elif kind == "cgroup":
            for option in options.rsplit(" ", 1)[-1].split(","):
                found.setdefault(option, (Path(point), root))
    return found


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _memberships(text: str) -> dict[str, str]:
    """Controller (``""`` for v2) → the daemon's group, from /proc/self/cgroup."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = group
    return found


def _here(mount: tuple[Path, str], group: str) -> Path:
    """The directory of ``group`` below a hierarchy's mount point."""
    point, root = mount
    if root != "/" and (group == root or group.startswith(root + "/")):
        group = group[len(root) :]
    return point / group.lstrip("/")


def _v1(mounts: Mounts, own: dict[str, str], controller: str, name: str) -> Path | None:
    if controller not in mounts:
        return None
    for base in (_here(mounts[controller], own.get(controller, "/")), mounts[controller][0]):
        with contextlib.suppress(OSError):
            (base / name).mkdir(exist_ok=True)
            return base / name
    return None


def _unified(mounts: Mounts, own: dict[str, str], name: str) -> Path | None:
    """The daemon's v2 group: in its own one if that is delegated to it alone, else at the top.

    A v2 group that hands controllers down may hold no processes itself, so that a daemon that
    systemd started steps aside into a leaf first; one started by hand shares its group with
    the shell and makes its own at the top.
    """
    if "" not in mounts:
        return None
    here = _here(mounts[""], own.get("", "/"))
    if here.name == _LEAF:
        here = here.parent
    for base in (here, mounts[""][0]):
        with contextlib.suppress(OSError):
            if base != mounts[""][0] and not _step_aside(base):
                continue
            _hand_down(base)
            (base / name).mkdir(exist_ok=True)
            _hand_down(base / name)
            return base / name
    return None


def _step_aside(base: Path) -> bool:
    """Move the daemon's processes into a leaf of ``base``; False if others live in ``base``."""
    pids = [int(pid) for pid in (base / "cgroup.procs").read_text().split()]
    if not all(_ours(pid) for pid in pids):
        return False
    if pids:
        (base / _LEAF).mkdir(exist_ok=True)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            _write(base / _LEAF / "cgroup.procs", str(pid))
    return True


def _ours(pid: int) -> bool:
    """Whether a process is the daemon or descends from it."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True  # gone meanwhile
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def _hand_down(group: Path) -> None:
    """Give the group's children the controllers that it has."""
    present = (group / "cgroup.controllers").read_text().split()
    for controller in set(present) & set(_V2_CONTROLLERS):
        with contextlib.suppress(OSError):
            _write(group / "cgroup.subtree_control", f"+{controller}")


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _counter(path: Path, key: str) -> int:
    with contextlib.suppress(OSError):
        match = re.search(rf"^{key} (\d+)$", path.read_text(), re.MULTILINE)
        return int(match[1]) if match else 0
    return 0


def _pauses(seconds: float) -> Iterator[float]:
    """Rising pauses that add up to ``seconds``."""
    pause, total = 0.0005, 0.0
    while total < seconds:
        yield pause
        total += pause
        pause = min(pause * 2, 0.1)
