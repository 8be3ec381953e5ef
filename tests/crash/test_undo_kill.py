"""Kill an undo at every fault point, recover: the base is wholly undone, or wholly not.

As ``test_commit_kill``, with the manifest before the commit and the one after it as the only two
trees that may be found, times included.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cases import Case, fresh
from committing import Bench, Ran, litter
from manifests import Manifest, differences

pytestmark = pytest.mark.timeout(600)


class Committed:
    """A case whose session is committed, with both manifests."""

    def __init__(self, case: Case) -> None:
        self.case, self.bench = case, case.bench
        self.before = case.manifest()
        ran = self.bench.commit()
        assert ran.last["event"] == "applied", ran.messages
        self.after = case.manifest()

    def expect(self, wanted: Manifest) -> None:
        assert litter(str(self.case.base)) == []
        assert differences(wanted, self.case.manifest()) == []

    def recovered(self, undo: Bench, ran: Ran, fault: int = 0) -> Ran:
        return undo.recover("intent" if ran.intent else "staging", fault=fault)


def committed(tmp_path: Path, number: int) -> Committed:
    return Committed(fresh(tmp_path, number))


def end(found: Committed) -> None:
    found.case.close()
    shutil.rmtree(found.case.home)


def test_killed_at_every_point(tmp_path: Path) -> None:
    for number in range(1, 2000):
        found = committed(tmp_path, number)
        try:
            ran = found.bench.undo("undo", fault=number)
            undo = found.bench.beside("undo")
            if not ran.killed:
                assert ran.last["event"] == "applied", ran.messages
                found.expect(found.before)
                break
            for _ in range(2):  # a second recovery changes nothing
                done = found.recovered(undo, ran)
                assert done.last["event"] == "applied", done.messages
                assert done.last["outcome"] == ("forward" if ran.intent else "back")
                found.expect(found.before if ran.intent else found.after)
            if not ran.intent:
                shutil.rmtree(undo.before)
                again = found.bench.undo("undo")
                assert again.last["event"] == "applied", again.messages
                found.expect(found.before)
            redone = found.bench.undo("redo", of=undo.before)
            assert redone.last["event"] == "applied", redone.messages
            found.expect(found.after)
        finally:
            end(found)
    else:
        pytest.fail("no run completed")
    print(f"{number - 1} fault points of an undo")
    assert number > 60, "hardly any fault points"


def test_killed_in_recovery_at_every_point(tmp_path: Path) -> None:
    points = 0
    for number in (5, 20, 35, 50, 60, 70):
        for second in range(1, 2000):
            found = committed(tmp_path, number * 10_000 + second)
            try:
                ran = found.bench.undo("undo", fault=number)
                if not ran.killed:
                    break
                undo = found.bench.beside("undo")
                cut = found.recovered(undo, ran, fault=second)
                done = found.recovered(undo, ran)
                assert done.last["event"] == "applied", done.messages
                found.expect(found.before if ran.intent else found.after)
                points += cut.killed
                if not cut.killed:
                    break
            finally:
                end(found)
    print(f"{points} fault points of recoveries of an undo")
    assert points > 60
