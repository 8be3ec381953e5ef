"""Fixtures of the system tests: a btrfs, a private daemon, users, a small project.

Everything lies below the run's temporary directory, which other uids may enter (``arena``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import leaks
from bases import make_tree, mounted_image
from daemons import Daemon, Done, Goexfs, MakeDaemon, User
from manifests import Manifest, manifest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is a ``root`` test; without root it cannot run, and says so."""
    for item in items:
        if _HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.root)
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="the system tests need root"))


@pytest.fixture
def arena(temporary: Path) -> Iterator[Path]:
    """A directory that every user may enter (0755), gone after the test."""
    directory = Path(tempfile.mkdtemp(prefix="arena-", dir=temporary))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def ordinary_user() -> User:
    return User(21001, 21001)


@pytest.fixture
def other_user() -> User:
    return User(21002, 21002)


@pytest.fixture
def btrfs_image(arena: Path) -> Iterator[Path]:
    """A mounted btrfs of 512 MiB."""
    with mounted_image(arena, 512 * 2**20) as mount:
        yield mount


@pytest.fixture
def ext4_image(arena: Path) -> Iterator[Path]:
    """A mounted ext4 of 256 MiB."""
    with mounted_image(arena, 256 * 2**20, "ext4") as mount:
        yield mount


@pytest.fixture
def make_daemon(temporary: Path) -> Iterator[MakeDaemon]:
    """Start daemons with a configuration of the test's own; each is stopped and checked."""
    made: list[Daemon] = []
    groups = leaks.cgroups()

    def make(config: str = "", *arguments: str) -> Daemon:
        directory = Path(tempfile.mkdtemp(prefix="daemon-", dir=temporary))
        directory.chmod(0o755)
        daemon = Daemon(directory, config or "[store]\nsize = 536870912\n", arguments)
        made.append(daemon)
        daemon.start()
        return daemon

    yield make
    litter: list[str] = []
    for daemon in made:
        marks = (f"-{daemon.process.pid}-",) if daemon.process is not None else ()
        litter += _end(daemon)
        new = leaks.cgroups() - groups
        litter += [f"cgroup {path}" for path in new if any(mark in path for mark in marks)]
        shutil.rmtree(daemon.directory, ignore_errors=True)
    if litter:
        pytest.fail("the daemon left behind: " + "; ".join(litter))


def _end(daemon: Daemon) -> list[str]:
    """Stop a daemon and say what it left mounted, or that it did not end well."""
    if daemon.process is None:
        return []
    status = daemon.process.poll()
    if status is None:
        status = daemon.stop()
    found = [f"mount {at}" for at in sorted(leaks.mounts_below(daemon.directory))]
    for at in reversed(found):
        subprocess.run(["umount", "--lazy", at.removeprefix("mount ")], check=False)
    if status != 0:
        found.append(f"exit status {status} of goexfsd:\n{daemon.said()[-4000:]}")
    if daemon.socket.exists():
        found.append(f"socket {daemon.socket}")
    return found


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Daemon:
    """A private daemon with a store of 512 MiB."""
    return make_daemon()


@pytest.fixture
def goexfs(daemon: Daemon) -> Goexfs:
    """Run the command line against ``daemon``; ``status`` is what it must end with (None: any).

    Further keywords: ``user``, ``input``, ``cwd``, ``env``, ``timeout`` (see ``Daemon.run``).
    """

    def run(*arguments: str | Path, status: int | None = 0, **how: Any) -> Done:
        done = daemon.run(*arguments, **how)
        if status is not None and done.status != status:
            shown = " ".join(map(str, arguments))
            pytest.fail(
                f"goexfs {shown}: exit {done.status}, not {status}\n{done.out}{done.err}\n"
                f"daemon:\n{daemon.said()[-4000:]}"
            )
        return done

    return run


@pytest.fixture
def goexfs_json(goexfs: Goexfs) -> Callable[..., Any]:
    """The same with ``--json``; returns what it printed, parsed."""

    def run(*arguments: str | Path, **how: Any) -> Any:
        verb, *rest = arguments
        return json.loads(goexfs(verb, "--json", *rest, **how).out)

    return run


@pytest.fixture
def tree(arena: Path, ordinary_user: User) -> Path:
    """A small project of ``ordinary_user``'s with one of everything that must survive."""
    return make_tree(arena / "project", ordinary_user)


@pytest.fixture(name="manifest")
def _manifest() -> Callable[..., Manifest]:
    return manifest
