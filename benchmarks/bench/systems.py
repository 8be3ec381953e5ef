"""Who is measured: each system's way to show a directory so that changes to it stay apart.

A system gives a ``View`` of a base directory: a directory to work in from the host, or a prefix
that runs a program where the view is to be seen, or both.  What a system has not (a checkpoint,
a commit) the rows in ``sessions.py`` leave empty.  Every context undoes what it did.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.grounds import Ground, quietly, run, unmount
from bench.trees import Trees
from daemons import Daemon, User
from goexfs.client import Client

PYTHON = "/usr/bin/python3"
HERE = Path(__file__).resolve().parent


def _same(argv: list[str]) -> list[str]:
    return argv


@dataclass(slots=True)
class View:
    """A base directory as one system shows it."""

    top: Path
    upper: Path | None = None
    """Where the changes are, for those that keep them in a directory."""
    wrap: Callable[[list[str]], list[str]] = _same
    """The command line that runs a program in the view."""
    session: str = ""


@dataclass(slots=True)
class Stage:
    """What a measurement has at hand: one ground with its trees and a daemon."""

    ground: Ground
    trees: Trees
    user: User
    scale: float
    daemon: Daemon
    rivals: Path
    """A virtual environment with rivals in it; need not exist."""
    _spots: int = 0

    @property
    def client(self) -> Client:
        return Client(str(self.daemon.socket))

    @contextlib.contextmanager
    def spot(self) -> Iterator[Path]:
        """A fresh directory of the user's on the ground."""
        self._spots += 1
        path = self.ground.top / f"spot{self._spots}"
        path.mkdir()
        os.chown(path, self.user.uid, self.user.gid)
        try:
            yield path
        finally:
            run("rm", "-rf", path)

    @contextlib.contextmanager
    def as_user(self) -> Iterator[None]:
        """Connections made here are the user's."""
        os.setegid(self.user.gid)
        os.seteuid(self.user.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)

    def goexfs(self) -> list[str]:
        """The command line, for this daemon, as the user can start it."""
        return self.daemon._command(self.user)

    def popen(
        self, argv: list[str], *, socket: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the user; its output.  ``socket``: of another daemon than this."""
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            cwd="/",
            user=self.user.uid,
            group=self.user.gid,
            extra_groups=[],
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "LC_ALL": "C.UTF-8",
                "GOEXFS_SOCKET": socket or str(self.daemon.socket),
            },
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {''.join(said)[:300]}")
        return done

    def copy(self, base: Path, to: Path) -> Path:
        run("cp", "-a", "--reflink=auto", base, to)
        return to


class System:
    """One way to keep changes apart."""

    name = ""

    def missing(self, stage: Stage) -> str | None:
        """Why it cannot be measured here; None if it can."""
        return None

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        raise NotImplementedError
        yield


class Native(System):
    """No protection at all: the directory itself, or a copy of it where work writes."""

    name = "native"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with stage.spot() as spot:
            yield View(stage.copy(base, spot / "copy") if writes else base)


class Goexfs(System):
    """The FUSE view of a session, from the host."""

    name = "goexfs"
    kind = "fuse"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with stage.as_user():
            info = stage.client.mount(base, view=self.kind)
        try:
            yield View(Path(info.mountpoint), session=info.session)
        finally:
            with stage.as_user():
                if any(one.session == info.session for one in stage.client.ls()):
                    stage.client.discard(info.session)


class GoexfsKernel(Goexfs):
    """The kernel view of a session, from the host."""

    name = "goexfs kernel"
    kind = "kernel"


class GoexfsInside(Goexfs):
    """The same, by programs that run in the sandbox."""

    name = "goexfs run"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with super().view(stage, base, writes=writes) as view:
            command = [*stage.goexfs(), "run", "-s", view.session]

            def wrap(argv: list[str]) -> list[str]:
                if argv[0] != PYTHON:
                    return [*command, "--", *argv]
                return [
                    *command,
                    "--script",
                    argv[1],
                    "--",
                    *argv[2:],
                ]  # the sandbox has its own /tmp

            view.wrap = wrap
            view.top = base
            yield view


@contextlib.contextmanager
def _layer(stage: Stage) -> Iterator[Path]:
    """A spot with ``upper``, ``work`` and a mountpoint."""
    with stage.spot() as spot:
        for name in ("upper", "work", "mnt"):
            (spot / name).mkdir()
            os.chown(spot / name, stage.user.uid, stage.user.gid)
        yield spot


def _overlay_options(base: Path, spot: Path) -> str:
    return f"lowerdir={base},upperdir={spot}/upper,workdir={spot}/work"


class FuseOverlayfs(System):
    """fuse-overlayfs, mounted by root for everybody."""

    name = "fuse-overlayfs"

    def missing(self, stage: Stage) -> str | None:
        return None if shutil.which("fuse-overlayfs") else "not installed"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with _layer(stage) as spot:
            options = f"{_overlay_options(base, spot)},allow_other,default_permissions"
            quietly("fuse-overlayfs", "-o", options, spot / "mnt")
            try:
                yield View(spot / "mnt", spot / "upper")
            finally:
                if os.path.ismount(spot / "mnt"):
                    unmount(spot / "mnt")


class Overlayfs(System):
    """The kernel's overlayfs, mounted by root."""

    name = "overlayfs"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with _layer(stage) as spot:
            options = _overlay_options(base, spot)
            run("mount", "-t", "overlay", "-o", options, "overlay", spot / "mnt")
            try:
                yield View(spot / "mnt", spot / "upper")
            finally:
                if os.path.ismount(spot / "mnt"):
                    unmount(spot / "mnt")


class Bubblewrap(System):
    """bubblewrap with an overlay of its own (since 0.11), unprivileged."""

    name = "bwrap --overlay"

    def missing(self, stage: Stage) -> str | None:
        if not shutil.which("bwrap"):
            return "not installed"
        told = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=False)
        return None if "--overlay-src" in told.stdout + told.stderr else "this bwrap has no overlay"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with _layer(stage) as spot:
            words = ["bwrap", "--dev-bind", "/", "/", "--overlay-src", str(base), "--overlay"]
            words += [str(spot / "upper"), str(spot / "work"), str(base), "--"]
            yield View(base, spot / "upper", lambda argv: [*words, *argv])


class Sandlock(System):
    """sandlock's copy-on-write working directory, from a virtual environment."""

    name = "sandlock"

    def missing(self, stage: Stage) -> str | None:
        python = stage.rivals / "bin/python"
        if not python.exists():
            return f"no {python}"
        argv = [str(python), "-c", "import sandlock"]
        done = subprocess.run(argv, capture_output=True, check=False)
        return None if done.returncode == 0 else "not in the virtual environment"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with stage.spot() as spot:
            own = stage.copy(base, spot / "copy") if writes else base
            words = [str(stage.rivals / "bin/python"), str(HERE / "sandlocked.py"), str(own)]
            yield View(own, wrap=lambda argv: [*words, "abort", *argv])


class Git(System):
    """git as a shadow store beside the directory, as agents' own undo does it."""

    name = "shadow git"

    def missing(self, stage: Stage) -> str | None:
        return None if shutil.which("git") else "not installed"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with stage.spot() as spot:
            view = View(stage.copy(base, spot / "copy"))
            words = ["git", f"--git-dir={spot}/shadow", f"--work-tree={view.top}"]
            words += ["-c", "gc.auto=0", "-c", "user.name=b", "-c", "user.email=b@example.org"]
            view.wrap = lambda argv: [*words, *argv]
            stage.popen(view.wrap(["init", "-q"]))
            yield view


class Snapshot(System):
    """A btrfs snapshot of the directory's own subvolume, as snapper takes them."""

    name = "btrfs snapshot"

    def missing(self, stage: Stage) -> str | None:
        return None if stage.ground.reflinks else "btrfs only"

    @contextlib.contextmanager
    def view(self, stage: Stage, base: Path, *, writes: bool) -> Iterator[View]:
        with stage.spot() as spot:
            run("btrfs", "-q", "subvolume", "create", spot / "copy")
            run("cp", "-a", "--reflink=auto", f"{base}/.", spot / "copy")
            try:
                yield View(spot / "copy")
            finally:
                for path in sorted(spot.iterdir()):
                    run("btrfs", "-q", "subvolume", "delete", path)


SYSTEMS: tuple[System, ...] = (
    Native(),
    Goexfs(),
    GoexfsInside(),
    GoexfsKernel(),
    FuseOverlayfs(),
    Overlayfs(),
    Bubblewrap(),
    Sandlock(),
    Git(),
    Snapshot(),
)
BY_NAME = {system.name: system for system in SYSTEMS}
