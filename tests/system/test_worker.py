"""Workers become the owner for good, answer in JSON, and end with their pipe."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from goexfs.errors import Denied, Internal, NotFound
from goexfsd import recovery
from goexfsd.channel import open_channel
from goexfsd.probe import probe
from goexfsd.worker import Owner, Root, Worker, WorkerSpec, context

pytestmark = pytest.mark.root

USER = Owner(21001, 21001, (21001, 21005))


def status(worker: Worker) -> None:
    """Report this process's credentials, then wait for the end."""
    lines = Path("/proc/self/status").read_text().splitlines()
    wanted = ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs")
    found = {line.split(":")[0]: line.split(":")[1].split() for line in lines}
    worker.send({"event": "status", "bytes": b"\xff", **{key: found[key] for key in wanted}})
    try:
        worker.conn.recv()
    except EOFError:
        return


def regain(worker: Worker) -> None:
    """Try to become root again."""
    for attempt in (os.setuid, os.setgid, os.seteuid):
        try:
            attempt(0)
        except PermissionError:
            continue
        worker.send({"event": "root again"})
        return
    worker.send({"event": "refused"})


def crash(worker: Worker) -> None:
    """Fail in an unforeseen way."""
    raise RuntimeError("unforeseen")


def collected(worker: Worker) -> None:
    """How many objects a collection here leaves alone; and whether the fork server has what
    every worker needs."""
    known = {"multiprocessing.popen_fork", "multiprocessing.popen_forkserver"} <= set(sys.modules)
    worker.send({"event": "told", "frozen": gc.get_freeze_count(), "known": known})


def one(entry: Any, spec: WorkerSpec, event: str) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with open_channel(context(), entry, spec) as channel:
            return await channel.expect(event)

    return trio.run(main)


def test_credentials_of_an_ordinary_owner() -> None:
    message = one(status, WorkerSpec(USER, (), {}), "status")
    assert message["Uid"] == ["21001"] * 4
    assert message["Gid"] == ["21001"] * 4
    assert message["Groups"] == ["21001", "21005"]
    assert {message[key][0] for key in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert message["NoNewPrivs"] == ["1"]
    assert message["bytes"] == b"\xff"


def test_a_worker_is_nobody_elses_child() -> None:
    """multiprocessing polls all that it knows at each start, in whatever thread that is: it
    would read the sentinel of a worker that another thread is closing."""

    async def main() -> None:
        async with open_channel(context(), status, WorkerSpec(USER, (), {})) as channel:
            assert channel.process not in multiprocessing.active_children()

    trio.run(main)


def test_a_worker_does_not_collect_what_the_fork_server_has_loaded() -> None:
    """Or it would copy all of it."""
    told = one(collected, WorkerSpec(USER, (), {}), "told")
    assert told["known"]
    assert told["frozen"] > 20_000


def test_the_way_back_is_closed() -> None:
    one(regain, WorkerSpec(USER, (), {}), "refused")


def test_an_unforeseen_failure_reaches_the_daemon_with_its_traceback() -> None:
    with pytest.raises(Internal, match="unforeseen") as caught:
        one(crash, WorkerSpec(USER, (), {}), "anything")
    assert "in crash" in caught.value.__notes__[0]


def test_a_worker_ends_with_its_pipe_and_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "workers.lock"
    lock.touch()

    async def main() -> int:
        async with open_channel(
            context(), status, WorkerSpec(USER, (), {}, lock=str(lock))
        ) as channel:
            await channel.expect("status")
            held = recovery._holders(os.stat(lock))
            assert held == [channel.pid]
            return channel.pid

    pid = trio.run(main)
    assert not Path(f"/proc/{pid}").exists()
    started = time.monotonic()
    recovery.await_workers(lock)
    assert time.monotonic() - started < 1


def test_a_root_that_is_another_directory_now_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    root = Root(0, "r", str(tmp_path), tmp_path.stat().st_ino + 1)
    with pytest.raises(NotFound, match="not the directory it was"):
        one(status, WorkerSpec(Owner(0, 0, ()), (root,), {}), "status")


def test_probe_looks_with_the_owners_eyes(tmp_path: Path) -> None:
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    (tmp_path / "mine").mkdir(mode=0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("mine")

    def look(name: str) -> list[list[Any]]:
        options = {"roots": [str(tmp_path / name)], "at": None}
        found: list[list[Any]] = one(probe, WorkerSpec(USER, (), {}, options), "probed")["roots"]
        return found

    mine = tmp_path / "mine"
    assert look("link") == [[str(mine), mine.stat().st_ino]]
    with pytest.raises(Denied, match="not readable"):
        look("closed")
    with pytest.raises(NotFound, match="does not exist"):
        look("none")


def test_workers_that_wait_take_orders_and_end_with_us() -> None:
    """One that was killed while it waited is not noticed by whoever asks for the next."""
    workers = context()
    workers.keep_ready()
    waiting = [process.pid for process, _ in workers._ready]
    assert len(waiting) == workers.READY

    async def asked() -> int:
        async with open_channel(workers, status, WorkerSpec(USER, (), {})) as channel:
            message = await channel.expect("status")
            assert message["Uid"] == ["21001"] * 4
            return channel.pid

    try:
        assert trio.run(asked) == waiting[0]
        os.kill(waiting[1] or 0, signal.SIGKILL)
        workers._ready[0][0].join()
        assert trio.run(asked) not in waiting
    finally:
        workers.close()
    assert not workers._ready
    assert trio.run(asked) not in waiting
