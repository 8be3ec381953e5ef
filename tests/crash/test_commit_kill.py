"""Kill a commit at every fault point, recover, and hold the base to one of two manifests.

The points number themselves (``goexfsd.commit.faults``): the worker is killed at the first, then
at the second, ..., until a run completes.  After each kill, recovery runs as the daemon would run
it: with state ``intent`` if the daemon had heard the intent (and so made it durable), else
``staging``.  Then the base must equal the tree before, or the tree after, wholly, attributes and
times included, and nothing else may lie in it.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cases import Case, fresh
from committing import Ran, litter
from manifests import Manifest, differences, manifest

pytestmark = pytest.mark.timeout(600)


def settle(case: Case, ran: Ran, fault: int = 0) -> Ran:
    return case.bench.recover("intent" if ran.intent else "staging", fault=fault)


def expect(case: Case, before: Manifest, ran: Ran) -> None:
    """Wholly before, or wholly after: the change list of what is left is empty then."""
    now = case.manifest()
    assert litter(str(case.base)) == []
    if not ran.intent:
        assert differences(before, now) == []
        return
    view = manifest(os.fsdecode(case.session.model), times=False, extents=False)
    base = manifest(case.base, times=False, extents=False)
    assert differences(inside(view), inside(base)) == []
    check_times(case, now)


def inside(tree: Manifest) -> Manifest:
    """Without the count of names outside: the model's own copies have none."""
    return {name: replace(entry, outside_links=0) for name, entry in tree.items()}


def check_times(case: Case, now: Manifest) -> None:
    upper = os.fsdecode(case.session.upper(b""))
    for name, entry in now.items():
        layered = os.path.join(os.fsencode(upper), name)
        if name and os.path.lexists(layered) and entry.type == "file":
            st = os.lstat(layered)
            if stat.S_ISREG(st.st_mode):
                assert entry.mtime_ns == st.st_mtime_ns, name


def test_killed_at_every_point(tmp_path: Path) -> None:
    for number in range(1, 2000):
        case = fresh(tmp_path, number)
        try:
            before = case.manifest()
            ran = case.bench.commit(fault=number)
            if not ran.killed:
                assert ran.last["event"] == "applied", ran.messages
                expect(case, before, ran)
                break
            recovered = settle(case, ran)
            assert recovered.last["event"] == "applied", recovered.messages
            assert recovered.last["outcome"] == ("forward" if ran.intent else "back")
            expect(case, before, ran)
            again = settle(case, ran)
            assert again.last["event"] == "applied", again.messages
            expect(case, before, ran)
        finally:
            case.close()
            shutil.rmtree(case.home)
    else:
        pytest.fail("no run completed")
    assert number > 60, "hardly any fault points"


def test_killed_in_recovery_at_every_point(tmp_path: Path) -> None:
    points = 0
    for number in (3, 12, 30, 45, 60, 75):
        for second in range(1, 2000):
            case = fresh(tmp_path, number * 10_000 + second)
            try:
                before = case.manifest()
                ran = case.bench.commit(fault=number)
                if not ran.killed:
                    break
                cut = settle(case, ran, fault=second)
                done = settle(case, ran)
                assert done.last["event"] == "applied", done.messages
                expect(case, before, ran)
                points += cut.killed
                if not cut.killed:
                    break
            finally:
                case.close()
                shutil.rmtree(case.home)
    assert points > 60


def test_killed_in_a_partial_commit_at_every_point(tmp_path: Path) -> None:
    """The rest of the session survives too: committing it gives the whole view."""
    paths = [(0, path) for path in (b"d", b"moved", b"edit", b"edit-too", b"gone")]
    for number in range(1, 2000):
        case = fresh(tmp_path, number)
        try:
            bench = replace(case.bench, live=case.session.layer)
            before = case.manifest()
            ran = bench.commit(paths, fault=number)
            done = ran
            if ran.killed:
                done = bench.recover("intent" if ran.intent else "staging")
            if ran.intent:
                done = bench.recover("intent")  # once more, as after a crash of the daemon
            assert done.last["event"] == "applied", done.messages
            if ran.intent:
                assert done.last["remaining_total"] > 0
            else:
                assert differences(before, case.manifest()) == []
            rest = replace(bench, before=case.home / "rest").commit()
            assert rest.last["event"] == "applied", rest.messages
            expect(case, before, rest)
            if not ran.killed:
                break
        finally:
            case.close()
            shutil.rmtree(case.home)
    assert number > 35, "hardly any fault points"
