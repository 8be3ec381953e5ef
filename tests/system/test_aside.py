"""The review in a process beside the commit: the same warnings, the same errors, nothing left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from committing import ROOT_USER, Bench, Ran
from goexfsd.commit import aside
from goexfsd.layer.jobs import Reviewed
from goexfsd.worker import Owner, Root
from layering import Session
from manifests import differences, manifest

SECRET = b"key = AKIAIOSFODNN7EXAMPLE\n"  # the example key of Amazon's own documentation


def fill(base: bytes) -> None:
    Path(os.fsdecode(base), "a").write_text("a")


class Case:
    """A session that wrote a few files, some of which earn warnings."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.session = Session.over(home, fill)
        self.base = Path(os.fsdecode(self.session.base))
        for number in range(20):
            self.session.write(b"plain%d" % number, b"text\n")
        self.session.write(b"a", SECRET)
        self.session.write(b"tool", b"\x7fELF\2\1\1" + bytes(64))

    def commit(self, owner: Owner = ROOT_USER, **options: Any) -> Ran:
        roots = [Root(0, "r", str(self.base))]
        bench = Bench(self.session.layer, roots, self.home / "before", owner)
        return bench.commit(review=True, rules=[], **options)


@pytest.fixture
def case(arena: Path) -> Iterator[Case]:
    made = Case(arena / "case")
    yield made
    made.session.close()


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All reviews go on in processes of their own."""
    monkeypatch.setattr(aside, "MANY", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


def children() -> set[str]:
    """Living processes of this one's group."""
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, group = (
                Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:3]
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == os.getpgid(0) and state != "Z":
            found.add(entry)
    return found


@pytest.mark.usefixtures("apart")
def test_the_warnings_are_those_of_a_review_on_the_spot(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    there = case.commit(dry=True).get("reviewed")
    monkeypatch.setattr(aside, "MANY", 10**9)
    here = case.commit(dry=True).get("reviewed")
    assert there == here
    assert here is not None
    assert [line.partition(":")[0] for line in here["warnings"]] == ["secret", "binary"]
    assert children() == before


@pytest.mark.usefixtures("apart")
def test_they_come_before_the_last_word(case: Case) -> None:
    ran = case.commit(at_intent=lambda: False)
    events = [message["event"] for message in ran.messages]
    assert events.index("reviewed") < events.index("intent")
    (case.base / "a").write_text("the user's\n")
    ran = case.commit()
    events = [message["event"] for message in ran.messages]
    assert events.index("reviewed") < events.index("conflicts") == len(events) - 1


def fails(self: object) -> NoReturn:
    del self
    raise PermissionError(13, "Permission denied", "name")


@pytest.mark.usefixtures("apart")
def test_an_owner_who_may_have_no_more_processes_is_reviewed_on_the_spot(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside.Aside, "lines", fails)  # it would be asked if there were one
    owner = Owner(21001, 21001, ())
    subprocess.run(["chown", "-R", "21001:21001", case.home], check=True)
    limits = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, limits[1]))  # which does not bind root
    try:
        ran = case.commit(owner)
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, limits)
    reviewed = ran.get("reviewed")
    assert reviewed is not None
    assert len(reviewed["warnings"]) == 2


def dies(self: Reviewed) -> NoReturn:
    del self
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("lines", "said"), [(fails, "(Permission denied)"), (dies, "the review of the changes was")]
)
def test_a_review_that_fails_ends_the_commit(
    case: Case, monkeypatch: pytest.MonkeyPatch, lines: Any, said: str
) -> None:
    before, processes = manifest(case.base), children()
    monkeypatch.setattr(Reviewed, "lines", lines)
    last = case.commit().last
    assert last["event"] == "error"
    assert said in last["error"]["message"]
    assert "nothing was changed" in last["error"]["message"]
    assert differences(before, manifest(case.base)) == []
    assert children() == processes


def sleeps(self: Reviewed) -> list[str]:
    del self
    signal.pause()
    return []


@pytest.mark.usefixtures("apart")
def test_a_worker_that_is_killed_takes_it_along(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = children()
    monkeypatch.setattr(Reviewed, "lines", sleeps)
    ran = case.commit(fault=5)
    assert ran.killed
    assert ran.get("reviewed") is None
    deadline = time.monotonic() + 10
    while children() != processes and time.monotonic() < deadline:
        time.sleep(0.01)  # it goes by a signal of the kernel's
    assert children() == processes
