"""``goexfs commit --switch``: others see a commit as one switch, on a real btrfs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import btrfsutil
import pytest

from bases import make_tree, mounted_at
from committing import litter
from daemons import Daemon, MakeDaemon, User
from goexfs.errors import CommitFailed
from goexfsd import kernel
from goexfsd.commit.faults import arm
from goexfsd.seat import Seat, survey
from goexfsd.worker import Owner
from manifests import Manifest, differences, manifest

STEP = 1 if os.environ.get("GOEXFS_TEST_STEP") == "1" else 2
"""At every how manyth point the daemon is killed."""
SCRIPT = """
echo changed >> README.md
rm -r src/deep
mv run.sh moved.sh
ln src/main.py third.py
mkdir -p new/inner && echo new > new/inner/file
chmod 0640 private
rm pipe
echo two > a; echo two > b
"""


@pytest.fixture
def site(btrfs_image: Path, make_daemon: MakeDaemon, ordinary_user: User) -> Site:
    """A project that is a subvolume of its own, beside a store on the same btrfs."""
    (btrfs_image / "store").mkdir(mode=0o700)
    home = btrfs_image / "home" / "user"
    home.mkdir(parents=True)
    btrfsutil.create_subvolume(str(home / "site"))
    root = make_tree(home / "site", ordinary_user)
    for name in ("a", "b"):
        (root / name).write_text("one\n")
    ordinary_user.own(home)
    daemon = make_daemon(f'store = "{btrfs_image / "store"}"\n')
    return Site(daemon, root, btrfs_image / "store", ordinary_user)


class Site:
    """The project, and the command line over it."""

    def __init__(self, daemon: Daemon, root: Path, store: Path, user: User) -> None:
        self.daemon, self.root, self.store, self.user = daemon, root, store, user
        self.before = self.now()

    def __call__(self, verb: str, *arguments: str | Path, status: int | None = 0) -> Any:
        done = self.daemon.run(verb, "--json", *arguments, user=self.user, cwd="/")
        said = f"{done.out}{done.err}\n{self.daemon.said()[-3000:]}"
        assert status is None or done.status == status, said
        return json.loads(done.out)

    def open(self, script: str = SCRIPT, *options: str | Path) -> str:
        """A session in which ``script`` was run."""
        sid: str = self("mount", self.root, *options)["session"]
        if script:
            assert self("run", "-s", sid, "--", "sh", "-ec", script)["status"] == 0
        return sid

    def commit(self, sid: str, *arguments: str | Path, status: int | None = 0) -> Any:
        return self("commit", "-s", sid, *arguments, status=status)

    def switch(self, sid: str, *arguments: str | Path, status: int | None = 0) -> Any:
        return self.commit(sid, "--switch", *arguments, status=status)

    def refused(self, sid: str, *arguments: str | Path) -> str:
        """Why it cannot be switched; nothing is changed then."""
        number, before = self.number(), self.now()
        error = self.switch(sid, *arguments, status=1)["error"]
        assert error["code"] == "cannot_switch"
        assert error["hint"]
        assert (self.number(), self.now()) == (number, before)
        self.nothing_else()
        message: str = error["message"]
        return message

    def now(self) -> Manifest:
        return manifest(self.root, extents=False)

    def number(self) -> int:
        return int(btrfsutil.subvolume_id(str(self.root)))

    def kept(self) -> list[Path]:
        """Trees before a switch, in the store."""
        return sorted(self.store.glob("commits/*/whole"))

    def nothing_else(self) -> None:
        """Beside the root there is nothing, and it can be written in."""
        assert os.listdir(self.root.parent) == [self.root.name]
        assert litter(str(self.root)) == []
        assert not btrfsutil.get_subvolume_read_only(str(self.root))


def test_it_is_committed_and_undone(site: Site) -> None:
    number, sid = site.number(), site.open()
    result = site.switch(sid)
    assert result["closed"]
    assert (result["late"], result["losses"]) == (0, [])
    assert site.number() != number
    site.nothing_else()
    after = site.now()
    assert (site.root / "new/inner/file").read_text() == "new\n"
    (whole,) = site.kept()
    assert result["kept"] == str(whole)
    assert btrfsutil.subvolume_id(str(whole)) == number
    assert btrfsutil.get_subvolume_read_only(str(whole))
    assert differences(site.before, manifest(whole, extents=False)) == []
    assert site("verify", result["commit"])["differences"] == []
    undone = site("undo", result["commit"])
    assert differences(site.before, site.now()) == []
    assert site.kept() == []
    site("undo", undone["commit"])
    assert differences(after, site.now()) == []


ONLOOKER = """
import os, sys
top, done = sys.argv[1:]
def read(name, fd=None):
    with open(os.open(name, os.O_RDONLY, dir_fd=fd)) as file:
        return file.read()
seen, count = [], 0
while not os.path.exists(done):
    first, other, again = (read(f"{top}/{name}") for name in "aba")
    assert first != again or other == first, (first, other, again)
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    assert read("a", here) == read("b", here)
    os.close(here)
    if not seen or seen[-1] != again:
        seen.append(again)
        print(again, end="", flush=True)
    count += 1
assert seen == ["one\\n", "two\\n"], seen
print(count)
"""


def test_an_onlooker_never_sees_a_mixture(site: Site, arena: Path) -> None:
    sid = site.open(f"{SCRIPT}\nfor i in $(seq 300); do echo $i > new/$i; done")
    argv = [sys.executable, "-c", ONLOOKER, str(site.root), str(arena / "done")]
    onlooker = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert onlooker.stdout is not None
        assert onlooker.stdout.readline() == "one\n"
        site.switch(sid, "--leave-behind")
        assert onlooker.stdout.readline() == "two\n"
        (arena / "done").touch()
        assert int(onlooker.stdout.readline()) > 1
        assert onlooker.wait(60) == 0
    finally:
        onlooker.kill()
        onlooker.communicate()


@contextmanager
def standing(code: str, *arguments: str | Path, cwd: Path | str = "/") -> Iterator[Any]:
    """A process that ran ``code`` and stands still until it is told to go on, once."""
    argv = [
        sys.executable,
        "-c",
        f"{code}\nprint(flush=True); input()\n{LATER}",
        *map(str, arguments),
    ]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(argv, cwd=cwd, **pipes)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        yield process
    finally:
        process.kill()
        process.communicate()


LATER = """
import os
print(open("a").read().strip(), end=" ")
try:
    open("a", "w")
except OSError as error:
    print(os.strerror(error.errno), flush=True)
"""


def test_who_writes_or_stands_in_the_root_prevents_it(site: Site) -> None:
    sid = site.open()
    with standing("import sys; f = open(sys.argv[1], 'r+')", site.root / "a") as process:
        for more in ((), ("--leave-behind",)):
            said = site.refused(sid, *more)
            assert f"(pid {process.pid})" not in said, "another user's"
            assert f"({process.pid}) has a file in {site.root} open or mapped for writing" in said
    mapping = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()"
    )
    with standing(mapping, site.root / "a"):
        assert "mapped for writing" in site.refused(sid, "--leave-behind")
    with standing("", cwd=site.root) as process:
        assert "stands in" in site.refused(sid)
        assert site.switch(sid, "--leave-behind")["late"] == 0
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "one Read-only file system\n"
    assert (site.root / "a").read_text() == "two\n"
    site.nothing_else()


def test_what_others_wrote_meanwhile_is_a_conflict_or_stays(site: Site) -> None:
    sid = site.open()
    (site.root / "a").write_text("mine\n")
    (site.root / "empty" / "mine").write_text("mine\n")
    before, number = site.now(), site.number()
    conflicts = site.switch(sid, status=3)["conflicts"]
    assert [each["path"] for each in conflicts] == ["a"]
    assert (site.now(), site.number()) == (before, number)
    site.nothing_else()
    site.switch(sid, "--on-conflict", "theirs")
    assert (site.root / "a").read_text() == "mine\n"
    assert (site.root / "b").read_text() == "two\n"
    assert (site.root / "empty" / "mine").read_text() == "mine\n"


WRITER = """
import contextlib, os, sys, time
with contextlib.suppress(OSError):
    os.setpriority(os.PRIO_PROCESS, 0, -20)
print(flush=True)
while not os.path.exists(sys.argv[2]):
    for act in (os.mkdir, os.rmdir):
        with contextlib.suppress(OSError):  # read-only for a moment
            act(sys.argv[1])
    time.sleep(0.002)
with contextlib.suppress(FileNotFoundError):
    os.rmdir(sys.argv[1])
"""


def test_it_gives_up_where_somebody_writes_all_the_time(site: Site, arena: Path) -> None:
    sid, number = site.open(), site.number()
    argv = [sys.executable, "-c", WRITER, str(site.root / "empty" / "x"), str(arena / "done")]
    writer = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        error = site.switch(sid, status=3)["error"]
        assert (error["code"], "each time" in error["message"]) == ("conflict", True)
        (arena / "done").touch()
        assert writer.wait(60) == 0
    finally:
        writer.kill()
        writer.communicate()
    assert site.number() == number
    assert {name for name in site.now() if site.now()[name] != site.before.get(name)} <= {b"empty"}
    site.nothing_else()
    site("discard", "-s", sid)


def test_where_it_cannot_be(site: Site, btrfs_image: Path, ordinary_user: User) -> None:
    sid = site.open()
    usage = site.commit(sid, "--leave-behind", status=None)
    assert usage["error"]["code"] == "usage"
    assert "only all of" in site.refused(sid, site.root / "a")
    with mounted_at(site.root / "empty" / "tmp", "tmpfs"):
        assert "mounted on" in site.refused(sid)
    inside = f"mount -t tmpfs none '{site.root}/empty' && echo && read end"
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as elsewhere:
        assert elsewhere.stdout is not None
        assert elsewhere.stdout.readline() == b"\n"
        assert "mounted on" in site.refused(sid), "another mount namespace counts too"
        elsewhere.communicate(b"\n")
    (btrfs_image / "bound").mkdir()
    kernel.mount(str(site.root), str(btrfs_image / "bound"), None, kernel.MS_BIND, None)
    try:
        assert "it is mounted at" in site.refused(sid)
    finally:
        kernel.umount(str(btrfs_image / "bound"))
    site("discard", "-s", sid)
    plain = make_tree(btrfs_image / "home" / "plain", ordinary_user)
    several = site.open("", "--root", plain)
    assert "several roots" in site.refused(several)
    site("discard", "-s", several)
    single = site("mount", plain)["session"]
    assert "not the top of a btrfs subvolume" in site.refused(single)
    site("discard", "-s", single)
    sid = site.open()
    (site.root.parent).chmod(0o555)
    assert site.switch(sid, status=5)["error"]["code"] == "denied"
    (site.root.parent).chmod(0o755)
    btrfsutil.create_subvolume(str(site.root / "nested"))
    assert "has others in it" in site.refused(sid)
    live = site.open("")
    btrfsutil.delete_subvolume(str(site.root / "nested"))
    assert "shows the real directory" in site.refused(live)
    assert "live" in site.refused(sid)
    site("discard", "-s", live)
    assert site.switch(sid, "--dry-run")["plan"]
    assert site.switch(sid)["closed"]


def test_other_sessions_and_earlier_commits_go_on(site: Site) -> None:
    first = site.commit(site.open("echo first > empty/first; rm dangling"))["commit"]
    early = site.open("echo mine > private")
    sid = site.open()
    fork = site("fork", "-s", sid)["session"]
    site("run", "-s", fork, "--", "sh", "-c", "echo fork > a; echo fork > forked")
    site.switch(sid)
    assert site("verify", first)["differences"] == []
    assert "a" in {each["path"] for each in site.commit(fork, status=3)["conflicts"]}
    site("discard", "-s", fork)
    assert {each["path"] for each in site("diff", "-s", early)["changes"]} == {"private"}
    assert [each["path"] for each in site.commit(early, status=3)["conflicts"]] == ["private"]
    assert site.switch(early, "--on-conflict", "mine")["closed"]
    assert (site.root / "private").read_text() == "mine\n"
    assert (site.root / "a").read_text() == "two\n"
    undone = site("undo", first)
    assert os.readlink(site.root / "dangling") == "/nowhere/at/all"
    assert not (site.root / "empty" / "first").exists()
    assert (site.root / "new" / "inner" / "file").read_text() == "new\n"
    third = site.switch(site.open("echo third > a"))["commit"]
    site("undo", undone["commit"])
    assert not (site.root / "dangling").is_symlink()
    site("undo", third)
    assert (site.root / "a").read_text() == "two\n"
    assert len(site.kept()) == 2


@pytest.fixture
def seat(btrfs_image: Path) -> Seat:
    return make_seat(btrfs_image / "top", btrfs_image / "store" / "commits" / "c-1")


def make_seat(top: Path, commit: Path) -> Seat:
    """The seat of a small subvolume, and a commit's directory for what was there."""
    btrfsutil.create_subvolume(str(top))
    (top / "file").write_text("one\n")
    commit.mkdir(parents=True)
    store = commit.parents[1]
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (top.parent, top)]
    try:
        row = survey(store, str(top), f".goexfs-stage-{commit.name}", *fds)
    finally:
        for fd in fds:
            os.close(fd)
    return Seat(store, Owner(0, 0, ()), str(top), replace(row, frozen_ns=time.time_ns()))


def test_what_is_written_at_the_very_end_is_kept_and_told(seat: Seat, btrfs_image: Path) -> None:
    """By somebody whom /proc does not show: the file is open, and nobody looks."""
    top, commit = btrfs_image / "top", btrfs_image / "store" / "commits" / "c-1"
    made = seat.prepare()
    (btrfs_image / ".goexfs-stage-c-1" / "file").write_text("two\n")
    with open(top / "file", "a") as file:

        def write() -> None:
            file.write("late\n")
            file.flush()

        assert made.exchange(write)
        assert made.done()
        with pytest.raises(CommitFailed):
            made.back()
        assert made.keep(commit) == made.keep(commit) == str(commit / "whole")
        assert made.late() == 1
        write()
    assert (top / "file").read_text() == "two\n"
    assert (commit / "whole" / "file").read_text() == "one\nlate\nlate\n"
    assert sorted(os.listdir(btrfs_image)) == ["store", "top"]


def test_what_cannot_be_moved_stays_beside_the_root(seat: Seat, btrfs_image: Path) -> None:
    made, commit = seat.prepare(), btrfs_image / "store" / "commits" / "c-1"
    assert made.exchange(lambda: None)
    (commit / "whole").mkdir()
    assert made.keep(commit) == made.hidden_path
    assert made.done()
    assert btrfsutil.get_subvolume_read_only(made.hidden_path)
    made.drop()
    assert sorted(os.listdir(btrfs_image)) == ["store", "top"]


def test_what_is_written_before_it_prevents_it(seat: Seat, btrfs_image: Path) -> None:
    """Also what is not yet written back, and what comes in between the last look and the first."""
    top, made = btrfs_image / "top", seat.prepare()
    with open(top / "file", "a") as file:
        file.write("mine\n")
        file.flush()
        assert not made.exchange(lambda: None)
        made.back()
        again = seat.prepare()
        with pytest.raises(RuntimeError):
            again.exchange(_refuse)
        again.back()
    assert not again.done()
    (top / "file").write_text("as before\n")
    assert sorted(os.listdir(btrfs_image)) == ["store", "top"]


def _refuse() -> None:
    raise RuntimeError


@pytest.mark.timeout(900)
def test_the_daemon_is_killed_at_many_points(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """At all of them: the test below.  Workers: the tests in ``tests/crash``, for here they do the
    same, but in a snapshot that goes if they do not come to their end, of which one is tried."""
    sid, outcomes = site.open(), []
    after: Manifest | None = None
    site.daemon.stop()
    with monkeypatch.context() as armed:
        armed.setenv("GOEXFS_FAULT", "40")
        site.daemon.start()
    assert site.switch(sid, status=1)["error"]["code"] == "commit_failed"
    site.nothing_else()
    site.daemon.stop()
    monkeypatch.setenv("GOEXFS_SWITCH_FAULT", str(STEP))
    site.daemon.start()
    for number in range(2 * STEP, 100, STEP):
        if not site.daemon.run("commit", "--switch", "-s", sid, user=site.user).status:
            break
        site.daemon.kill()
        monkeypatch.setenv("GOEXFS_SWITCH_FAULT", str(number))
        site.daemon.start()
        site.nothing_else()
        outcomes.append(not site("ls")["sessions"])
        if outcomes[-1]:
            now = manifest(site.root, times=False, extents=False)
            after = after or now
            assert differences(after, now) == []
            assert len(site.kept()) == 1
            site("undo")
            sid = site.open()
        assert site.kept() == []
        assert differences(site.before, site.now()) == []
    assert outcomes == sorted(outcomes), "before it is taken back, after it carried on"
    assert (outcomes.count(False), outcomes.count(True)) == (7 // STEP, 4 // STEP)


def test_killed_and_its_recovery_killed_at_every_point(btrfs_image: Path) -> None:
    outcomes = []
    for number in range(1, 100):
        top, commit = btrfs_image / f"top-{number}", btrfs_image / f"store/commits/c-{number}"
        before = make_seat(top, commit)
        made = before.prepare()
        Path(made.hidden_path, "file").write_text("two\n")
        whole = _survives(number, lambda: made.exchange(lambda: None) and made.keep(commit))  # noqa: B023
        after = made.done()
        for second in range(1, 100):
            if _survives(second, lambda: made.keep(commit) if after else made.back()):  # noqa: B023
                break
        assert made.done() == after
        assert (top / "file").read_text() == ("two\n" if after else "one\n")
        assert not btrfsutil.get_subvolume_read_only(str(top))
        assert not os.path.exists(made.hidden_path)
        assert (commit / "whole" / "file").exists() == after
        if after:
            assert btrfsutil.get_subvolume_read_only(str(commit / "whole"))
        if whole:
            break
        outcomes.append(after)
    assert (outcomes.count(False), outcomes.count(True)) == (3, 4)


def _survives(number: int, act: Callable[[], object]) -> bool:
    """Whether a process that does it comes to its end, which it does not at point ``number``."""
    pid = os.fork()
    if pid == 0:
        try:
            arm({"fault": number})
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == 0
