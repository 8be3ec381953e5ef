"""One crash: a machine with prepared disks begins its work and is killed; then what is left.

The disks are mounted by this machine, and a daemon started on them recovers.  Base and catalog
have to agree on before or after; what had been acknowledged or synced is there; nothing else lies
in the base; a second start changes nothing; the session, or the undo, can go on; and both file
systems are whole.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import goexfs
from committing import litter
from daemons import Daemon
from goexfs.client import Client
from goexfsd.catalog import open_catalog
from manifests import Manifest, differences, manifest
from uml.guest import user
from uml.machine import Machine
from uml.plan import ACKED, BEGIN, END, KEPT, Disk, Plan
from uml.tree import fill

SIZE = 512 << 20
_FORMAT = {
    "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-K"],
}
_CHECK = {"ext4": ["e2fsck", "-fn"], "btrfs": ["btrfs", "check", "--readonly"]}
_WAIT = 600.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What the base lies on, and the daemon's state with the store."""

    base: str
    state: str
    """``btrfs``: it is the store, too.  ``ext4``: the store is an image on it, as installed."""

    @property
    def name(self) -> str:
        return f"{self.base}+{self.state}"

    @property
    def disks(self) -> tuple[Disk, ...]:
        flush = "flushoncommit" if self.state == "btrfs" else "defaults"
        return Disk("base", self.base), Disk("state", self.state, flush)

    def config(self, home: Path) -> str:
        if self.state == "btrfs":
            return f'[store]\ndirectory = "{home}/state/store"\n'
        return "[store]\nsize = 268435456\n"


SETTINGS = tuple(Setting(base, state) for state in ("btrfs", "ext4") for base in ("ext4", "btrfs"))


@dataclass
class Ended:
    """What came of one crash."""

    what: str
    delay: float
    told: bool
    """It had been acknowledged."""
    outcome: str
    """``before``, ``after``, or what a write left: ``open``."""
    kept: int = 0
    """Files that had been synced in the view."""
    wrong: list[str] = field(default_factory=list)


@dataclass
class Stand:
    """Disks of one setting, prepared for crashes in a commit and in an undo."""

    home: Path
    setting: Setting
    synced: bool = False
    unsynced: bool = False
    took: dict[str, float] = field(default_factory=dict)
    """Seconds from the beginning to the acknowledgement, without a crash."""
    before: Manifest = field(default_factory=dict)
    after: Manifest = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("base", "state", "run", "write", "commit", "undo"):
            (self.home / name).mkdir()

    @property
    def tree(self) -> Path:
        return self.home / "base" / "tree"

    @property
    def images(self) -> list[Path]:
        return [self.home / f"{disk.name}.img" for disk in self.setting.disks]

    def prepare(self) -> None:
        """Disks as they are before each kind of work, each of it done once to its end."""
        for disk, image in zip(self.setting.disks, self.images, strict=True):
            with open(image, "wb") as file:
                file.truncate(SIZE)
            subprocess.run([*_FORMAT[disk.fstype], str(image)], check=True, capture_output=True)
        with self.mounted():
            fill(self.tree, 21001)
            (self.home / "base").chmod(0o755)
            if self.setting.state == "btrfs":
                (self.home / "state" / "store").mkdir()
            self.before = manifest(self.tree)
        self._keep("write")
        self.run("write")
        self._keep("commit")
        self.run("commit")
        self._keep("undo")
        with self.mounted():
            self.after = manifest(self.tree)
        self.run("undo")
        with self.mounted():
            left = differences(self.before, manifest(self.tree))
        if left or not differences(self.before, self.after):
            raise RuntimeError(f"the work does not do what it should without a crash: {left}")

    def run(self, what: str) -> None:
        """Let a machine do it and end."""
        machine = self.boot(what)
        try:
            machine.until(BEGIN, _WAIT)
            began = time.monotonic()
            machine.until(ACKED, _WAIT)
            self.took[what] = time.monotonic() - began
            machine.until(END, _WAIT)
            machine.rest(60)
        finally:
            machine.end()

    def boot(self, what: str, *, unsynced: bool = False) -> Machine:
        plan = Plan(
            str(self.home), self.setting.disks, self.setting.config(self.home), (what,), unsynced
        )
        plan.write(self.home / "plan.json")
        machine = Machine(self.home, self.images, self.home / "plan.json", self.synced)
        machine.start()
        return machine

    def crash(self, what: str, part: float) -> Ended:
        """Kill it after ``part`` of the time that it takes, and look."""
        self._restore(what)
        machine = self.boot(what, unsynced=self.unsynced)
        try:
            machine.until(BEGIN, _WAIT)
            delay = part * self.took[what]
            machine.rest(delay)
        finally:
            machine.kill()
        told = ACKED in machine.lines
        kept = [line.removeprefix(KEPT + " ") for line in machine.lines if line.startswith(KEPT)]
        ended = Ended(what, delay, told, "", len(kept))
        try:
            with self.mounted():
                self._look(ended, kept)
            ended.wrong += self._whole()
        except (AssertionError, goexfs.GoexfsError, OSError, RuntimeError) as error:
            ended.wrong.append(repr(error))
        except subprocess.CalledProcessError as error:
            ended.wrong.append(f"{error} {error.stderr!r}")
        return ended

    def _look(self, ended: Ended, kept: list[str]) -> None:
        daemon = Daemon(self.home, self.setting.config(self.home), patience=120)
        daemon.start()
        try:
            first = manifest(self.tree)
            daemon.restart()
            ended.wrong += [f"a second start: {line}" for line in differences(first, self.now())]
            self._judge(ended, first)
            fs = goexfs.connect(daemon.socket)
            with user():
                self._go_on(ended, fs, kept)
        finally:
            if daemon.process is not None:
                daemon.stop()

    def now(self) -> Manifest:
        return manifest(self.tree)

    def _judge(self, ended: Ended, found: Manifest) -> None:
        """Whether the base is what the catalog says."""
        catalog = open_catalog(self.home / "state" / "catalog.sqlite")
        done = {row.id for row in catalog.commits(state="done")}
        pending = [*catalog.commits(state="staging"), *catalog.commits(state="intent")]
        catalog.close()
        already = {"write": 0, "commit": 0, "undo": 1}[ended.what]
        happened = len(done) > already
        ended.outcome = "after" if happened else "open" if ended.what == "write" else "before"
        changed = happened != (ended.what == "undo")
        wanted = self.after if changed else self.before
        ended.wrong += [
            *(f"neither: {line}" for line in differences(wanted, found)),
            *(f"litter: {path}" for path in litter(str(self.tree))),
            *(f"pending: {row.id}" for row in pending),
            *(["acknowledged, and not done"] if self._lost(ended, happened) else []),
        ]

    def _lost(self, ended: Ended, happened: bool) -> bool:
        return ended.told and ended.what != "write" and not happened

    def _go_on(self, ended: Ended, fs: Client, kept: list[str]) -> None:
        """Finish what was cut off, then take it back: both as if there had been no crash."""
        os.chdir(self.tree)
        try:
            if ended.what == "write":
                ended.wrong += self._written(fs, kept)
            elif ended.what == "commit":
                if ended.outcome == "before":
                    self._commit(ended, fs)
                    ended.wrong += differences(self.after, self.now())
                fs.undo()
                ended.wrong += differences(self.before, self.now())
            elif ended.outcome == "before":
                fs.undo()
                ended.wrong += differences(self.before, self.now())
        finally:
            os.chdir("/")

    def _written(self, fs: Client, kept: list[str]) -> list[str]:
        """A session in which a crash came: it is usable, and what was synced is in it."""
        sessions = fs.ls()
        if not sessions:
            return ["the session is gone"]
        top = Path(sessions[0].roots[0].view)
        lost = [name for name in kept if not self._is_there(top / name)]
        fs.diff(session=sessions[0].session)
        committed = fs.commit(session=sessions[0].session)
        wrong = [f"synced, and lost: {name}" for name in lost]
        wrong += [f"conflict: {conflict}" for conflict in committed.conflicts]
        if committed.commit is not None:
            fs.undo()
        return wrong + differences(self.before, self.now())

    @staticmethod
    def _is_there(path: Path) -> bool:
        part, number = int(path.parent.name[1:]), int(path.name[1:])
        try:
            return path.read_text() == f"new {part} {number}\n" * (1 + 30 * number)
        except FileNotFoundError:
            return False

    def _commit(self, ended: Ended, fs: Client) -> None:
        sessions = fs.ls()
        done = fs.commit(session=sessions[0].session)
        ended.wrong += [f"conflict: {conflict}" for conflict in done.conflicts[:5]]

    def _whole(self) -> Iterator[str]:
        for disk, image in zip(self.setting.disks, self.images, strict=True):
            argv = [*_CHECK[disk.fstype], str(image)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                yield f"{disk.name}: {done.stdout[-400:]}{done.stderr[-400:]}"

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """The disks, mounted here."""
        with contextlib.ExitStack() as stack:
            for disk, image in zip(self.setting.disks, self.images, strict=True):
                at = str(self.home / disk.name)
                options = f"loop,{disk.options}"
                subprocess.run(["mount", "-o", options, str(image), at], check=True)
                stack.callback(subprocess.run, ["umount", at], check=True)
            yield

    def _keep(self, name: str) -> None:
        for image in self.images:
            _copy(image, self.home / name / image.name)

    def _restore(self, name: str) -> None:
        for image in self.images:
            _copy(self.home / name / image.name, image)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)
