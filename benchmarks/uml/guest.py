"""What runs in the machine: its disks, a daemon, and what the plan says; told on the console."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import goexfs
from daemons import Daemon
from goexfs.client import Client
from uml.machine import MARK
from uml.plan import ACKED, BEGIN, END, KEPT, USER, Plan
from uml.tree import change

_UNSYNCED = "LD_PRELOAD=libeatmydata.so"


def say(*words: object) -> None:
    print(MARK + " ".join(map(str, words)), flush=True)


@contextlib.contextmanager
def user() -> Iterator[None]:
    """As the session's owner: for the kernel, and for what the daemon is told of a client."""
    os.setegid(USER)
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def session(fs: Client) -> goexfs.SessionInfo:
    return fs.ls()[0]


def view(fs: Client) -> Path:
    return Path(session(fs).roots[0].view)


def write(fs: Client, plan: Plan) -> None:
    """A session with changes; each file that is on disk is told."""
    fs.mount(Path(plan.home) / "base" / "tree")
    say(BEGIN)
    top = view(fs)

    def sync(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        say(KEPT, path.relative_to(top))

    change(top, sync)
    say(ACKED)


def commit(fs: Client, plan: Plan) -> None:
    """Commit the only session."""
    name = session(fs).session
    say(BEGIN)
    done = fs.commit(session=name)
    say("conflicts" if done.conflicts else ACKED)


def undo(fs: Client, plan: Plan) -> None:
    """Take the newest commit back."""
    os.chdir(Path(plan.home) / "base" / "tree")
    say(BEGIN)
    done = fs.undo()
    say("conflicts" if done.conflicts else ACKED)
    os.chdir("/")


STEPS = {step.__name__: step for step in (write, commit, undo)}


@contextlib.contextmanager
def disks(plan: Plan) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for disk, letter in zip(plan.disks, "abcd", strict=False):
            at = f"{plan.home}/{disk.name}"
            argv = ["mount", "-t", disk.fstype, "-o", disk.options, f"/dev/ubd{letter}", at]
            subprocess.run(argv, check=True)
            stack.callback(subprocess.run, ["umount", at], check=True)
        yield


def work(plan: Plan) -> None:
    home = Path(plan.home)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "run", home / "run"], check=True)
    with disks(plan):
        wrapper = ["env", _UNSYNCED] if plan.unsynced else []
        daemon = Daemon(home, plan.config, wrapper=wrapper, patience=240)
        daemon.start()
        fs = goexfs.connect(daemon.socket)
        for name in plan.do:
            with user():
                STEPS[name](fs, plan)
        daemon.stop()
    say(END)


if __name__ == "__main__":
    try:
        work(Plan.read(Path(sys.argv[1])))
    except BaseException:
        say("failed")
        traceback.print_exc()
