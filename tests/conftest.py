"""For every test: a private temporary directory, and a guard that fails what leaves a trace."""

from __future__ import annotations

import multiprocessing.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import leaks
from daemons import Goexfs as Goexfs
from daemons import MakeDaemon as MakeDaemon

_TEMPORARY = pytest.StashKey[Path]()

# A machine may be busy: how long an example takes says nothing.  Whoever looks for new faults
# (GOEXFS_EXPLORE=1, with GOEXFS_EXAMPLES) gets other examples each time; everybody else the same,
# so that a change is judged by itself.
_explore = os.environ.get("GOEXFS_EXPLORE", "") not in ("", "0")
hypothesis.settings.register_profile("untimed", deadline=None, derandomize=not _explore)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """A directory of this run's own for whatever uses ``tempfile``: 0755, for other uids too."""
    leaks.become_reaper()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as nohup and "&" leave it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    temporary = Path(tempfile.mkdtemp(prefix="goexfs-test-"))
    temporary.chmod(0o755)
    (temporary / "pytest").mkdir()  # where tmp_path makes its own
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(temporary / "pytest")
    config.stash[_TEMPORARY] = temporary
    tempfile.tempdir = str(temporary)
    os.environ["TMPDIR"] = str(temporary)


def pytest_unconfigure(config: pytest.Config) -> None:
    temporary = config.stash.get(_TEMPORARY, None)
    if temporary is None:
        return
    for mount in sorted(leaks.mounts_below(temporary), reverse=True):
        # A test that left it was failed for it; the machine is cleaned all the same.
        subprocess.run(["umount", "--lazy", mount], check=False)
    multiprocessing.util._run_finalizers()  # type: ignore[attr-defined]  # they remove a directory of theirs in it
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def temporary(pytestconfig: pytest.Config) -> Path:
    """This run's temporary directory; every user may enter it."""
    return pytestconfig.stash[_TEMPORARY]


@pytest.fixture(autouse=True)
def _no_trace_left(temporary: Path) -> Iterator[None]:
    before = leaks.take(temporary)
    yield
    found = leaks.left_behind(before, temporary)
    if found:
        pytest.fail("the test left behind: " + "; ".join(found))
