"""The calls that change or sync something fail, one in a run: EIO, then ENOSPC, then EIO, ...

The calls are counted as the worker makes them (Python's ``os`` and ``goexfsd.kernel``), so there
is no list of places.  Whatever fails, the base is wholly before or wholly after, the worker says
which, and never that all is well when it is not.  A worker that gives up is followed by a
recovery, as the daemon does it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cases import Case, fresh
from committing import Bench, Ran, litter
from goexfsd import kernel
from goexfsd.commit import jobs
from goexfsd.worker import Worker
from manifests import Manifest, differences, manifest

pytestmark = pytest.mark.timeout(600)

CALLS = {
    os: [
        *("chmod", "chown", "copy_file_range", "fsync", "ftruncate", "link", "mkdir", "mknod"),
        *("pwrite", "removexattr", "rename", "rmdir", "setxattr", "symlink", "unlink", "utime"),
    ],
    kernel: ["ficlone", "renameat2", "syncfs"],
}
Entry = Callable[[Worker], None]
STEP = int(os.environ.get("GOEXFS_TEST_STEP", "3"))
"""Every how many calls one fails; 1 takes some 20 s."""


class Failing:
    """Makes the ``number``-th call fail, in the process that enters it."""

    def __init__(self, number: int, code: int) -> None:
        self._left, self._code = number, code

    def __call__(self, entry: Entry) -> Entry:
        def broken(worker: Worker) -> None:
            for module, names in CALLS.items():
                for name in names:
                    setattr(module, name, self._counted(getattr(module, name)))
            real = os.open
            counted = self._counted(real)

            def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
                call = counted if flags & os.O_CREAT else real
                return int(call(path, flags, *rest, **named))

            os.open = opened
            entry(worker)
            if self._left > 0:
                worker.send({"event": "spared"})

        return broken

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **named)

        return call


def outcome_of(bench: Bench, ran: Ran, code: int) -> str:
    """What a commit came to; where its worker gave up, after a recovery."""
    for message in ran.messages:
        error = message.get("error")
        if error is not None:
            said = str(error["message"])
            assert os.strerror(code) in said
            assert "a worker failed" not in said
    if ran.last["event"] == "applied":
        assert ran.last["outcome"] == "forward" or "error" in ran.last
        return str(ran.last["outcome"])
    assert ran.last["event"] == "error", ran.last
    done = bench.recover("intent" if ran.intent else "staging")
    assert done.last["event"] == "applied", done.messages
    return str(done.last["outcome"])


def check(case: Case, outcome: str, start: Manifest, end: Manifest) -> None:
    assert litter(str(case.base)) == []
    if outcome == "back":
        assert differences(start, case.manifest()) == []
    else:
        assert differences(end, untimed(case)) == []


def untimed(case: Case) -> Manifest:
    return manifest(case.base, times=False)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The tree after the commit."""
    case = fresh(tmp_path_factory.mktemp("whole"), 0)
    try:
        assert case.bench.commit().last["event"] == "applied"
        return untimed(case)
    finally:
        case.close()


def rounds(tmp_path: Path, step: int) -> Iterator[tuple[int, int, Case]]:
    for index, number in enumerate(range(1, 5000, step)):
        case = fresh(tmp_path, number)
        try:
            yield number, errno.ENOSPC if index % 2 else errno.EIO, case
        finally:
            case.close()
            shutil.rmtree(case.home)


def test_calls_of_a_commit_fail(
    tmp_path: Path, committed: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = Counter[str]()
    for number, code, case in rounds(tmp_path, STEP):
        start = case.manifest()
        with monkeypatch.context() as broken:
            broken.setattr(jobs, "commit", Failing(number, code)(jobs.commit))
            ran = case.bench.commit()
        if ran.last["event"] == "spared":
            break
        outcome = outcome_of(case.bench, ran, code)
        check(case, outcome, start, committed)
        outcomes[outcome] += 1
    print(f"{number - 1} calls: {dict(outcomes)}")
    assert outcomes["back"] > 20
    assert outcomes["forward"]


def test_calls_of_an_undo_fail(
    tmp_path: Path, committed: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = Counter[str]()
    for number, code, case in rounds(tmp_path, 2 * STEP):
        start = untimed(case)
        assert case.bench.commit().last["event"] == "applied"
        after = case.manifest()
        with monkeypatch.context() as broken:
            broken.setattr(jobs, "undo", Failing(number, code)(jobs.undo))
            ran = case.bench.undo("undo")
        if ran.last["event"] == "spared":
            break
        outcome = outcome_of(case.bench.beside("undo"), ran, code)
        check(case, outcome, after, start)
        outcomes[outcome] += 1
    print(f"{number - 1} calls: {dict(outcomes)}")
    assert outcomes["back"] > 10
