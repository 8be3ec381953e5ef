"""The typed library, plain and trio: what it sends, what it returns, how it gives up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import goexfs
from goexfs import errors
from goexfs.protocol import METHODS
from scripted import NOTHING, PING, RAN, SESSION, Answer, Exchange, Scripted, change, serving


def run(exchange: Exchange) -> None:
    """Echo the input, a line on each stream, and the command's last word as status."""
    params = exchange.params
    exchange.emit("started", session="s-1", step=1)
    got = b""
    if params.get("stdin"):
        while True:
            notice = exchange.notice()
            if notice is None:
                return
            given = notice["params"]
            if given.get("eof"):
                break
            assert notice["method"] == "input"
            got += given["data"].encode()
            exchange.emit("taken", bytes=len(given["data"]))
    out, err = f"{len(got)} bytes\n", "warning\n"
    if params.get("stream", True):
        exchange.output(out)
        exchange.output(err, "stderr")
        exchange.reply({**RAN, "status": 3})
    else:
        exchange.reply({**RAN, "status": 3, "stdout": out, "stderr": err})


def diff(exchange: Exchange) -> None:
    exchange.emit("progress", stage="compare", done=1, total=2)
    if exchange.params.get("patch"):
        exchange.emit("chunk", data="diff --git ", encoding="utf-8")
        exchange.emit("chunk", data="/w==", encoding="base64")
    changes = [change("deleted", "old"), change("created", "base64:/w==")]
    summary = {**NOTHING, "deleted": 1, "created": 1}
    exchange.reply(
        {"session": "s-1", "from": 1, "to": None, "changes": changes, "summary": summary}
    )


def commit(exchange: Exchange) -> None:
    exchange.emit("progress", stage="apply", done=1, total=2)
    found = {"commit": "c-1", "session": "s-1", "applied": NOTHING, "remaining": NOTHING}
    exchange.reply({**found, "closed": True, "a_later_field": 1})


ANSWERS: dict[str, Any] = {
    "ping": PING,
    "mount": SESSION,
    "ls": {"sessions": [SESSION]},
    "status": {
        "session": SESSION,
        "summary": NOTHING,
        "checkpoints": 1,
        "steps": 1,
        "layer_bytes": 0,
    },
    "run": run,
    "start": {"name": "job-1", "command": ["true"], "started": 1.0},
    "jobs": {"jobs": [{"name": "job-1", "command": ["true"], "started": 1.0}]},
    "kill": {"name": "job-1", "command": ["true"], "started": 1.0, "ended": 2.0, "status": 0},
    "diff": diff,
    "log": {"session": SESSION, "checkpoints": [], "steps": [], "commits": []},
    "output": {"stdout": "o", "stderr": "e", "truncated": False},
    "checkpoint": {"number": 2, "parent": 1, "step": None, "label": "x", "created": 1.0},
    "rewind": {"session": "s-1", "checkpoint": 1, "saved": None},
    "fork": SESSION,
    "commit": commit,
    "discard": {"session": "s-1"},
    "verify": {"commit": "c-1", "session": "s-1", "checked": 3},
    "audit": {"entries": [], "checked": 3},
    "doctor": {"ok": True, "checks": []},
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Scripted]:
    with serving(tmp_path, ANSWERS) as scripted:
        yield scripted


def test_every_method_has_one_in_both_clients() -> None:
    for method in METHODS:
        assert callable(getattr(goexfs.Client, method))
        assert callable(getattr(goexfs.TrioClient, method))


def test_ten_lines(daemon: Scripted, tmp_path: Path) -> None:
    with goexfs.connect(daemon.path) as fs:
        session = fs.mount(tmp_path, name="otter")
        ran = fs.run(["make", "test"], session=session, timeout=60)
        assert (ran.status, ran.stdout, ran.stderr) == (3, "0 bytes\n", "warning\n")
        found = fs.diff(session=session)
        assert [each.path for each in found.changes] == ["old", "base64:/w=="]
        assert found.from_ == 1
        assert fs.patch(session=session) == b"diff --git \xff"
        assert fs.commit(session=session, message="m").closed
    assert daemon.params("mount") == {"roots": [str(tmp_path.resolve())], "name": "otter"}
    sent = daemon.params("run")
    assert (sent["session"], sent["command"], sent["timeout"]) == ("s-1", ["make", "test"], 60)
    assert sent["cwd"] == str(Path.cwd())
    assert daemon.params("commit")["message"] == "m"


def test_the_other_verbs(daemon: Scripted) -> None:
    fs = goexfs.connect(daemon.path)
    assert fs.ping().protocol == 1
    assert [each.name for each in fs.ls(all=True)] == ["otter"]
    assert fs.status("otter").steps == 1
    assert fs.log().checkpoints == []
    assert fs.output(1).stderr == "e"
    assert fs.checkpoint("x").number == 2
    assert fs.rewind(1).saved is None
    assert fs.fork("otter", step=2).name == "otter"
    assert (daemon.params("fork")["session"], daemon.params("fork")["step"]) == ("otter", 2)
    assert fs.discard().discarded
    assert fs.doctor().ok
    assert fs.verify("c-1").checked == 3
    assert daemon.params("verify")["commit"] == "c-1"
    assert fs.audit("otter", verify=True).checked == 3
    assert daemon.params("audit") == {"session": "otter", "verify": True}
    assert daemon.params("ls") == {"all": True}
    assert daemon.params("rewind")["to"] == 1


DECIDED = {
    "on_conflict": "merge",
    "resolve": [{"path": "a", "way": "mine"}, {"path": "base64:/w==", "way": "theirs"}],
    "isolation": "serializable",
    "switch": True,
    "leave_behind": True,
}


def test_conflicts_are_decided_from_both_clients(daemon: Scripted) -> None:
    how: dict[str, Any] = {
        "on_conflict": "merge",
        "resolve": {"a": "mine", b"\xff": "theirs"},
        "isolation": "serializable",
        "switch": True,
        "leave_behind": True,
    }
    goexfs.connect(daemon.path).commit(**how)
    assert daemon.params("commit").items() >= DECIDED.items()

    async def main() -> None:
        async with goexfs.connect_trio(daemon.path) as fs:
            await fs.commit("x", **how)

    trio.run(main)
    assert daemon.params("commit").items() >= {**DECIDED, "paths": ["x"]}.items()
    with pytest.raises(goexfs.Usage):
        goexfs.connect(daemon.path).commit(resolve={"a": "ours"})  # type: ignore[dict-item]


def test_output_and_progress_are_called_back(daemon: Scripted) -> None:
    fs = goexfs.connect(daemon.path)
    seen: list[tuple[str, bytes]] = []
    ran = fs.run([], script="echo", script_name="a.sh", on_output=lambda *e: seen.append(e))
    assert seen == [("stdout", b"0 bytes\n"), ("stderr", b"warning\n")]
    assert ran.stdout is None
    assert daemon.params("run")["script"] == {"text": "echo", "name": "a.sh"}
    stages: list[str] = []
    fs.diff("a", b"\xff", on_progress=lambda event: stages.append(event.stage))
    fs.commit(on_progress=lambda event: stages.append(event.stage))
    assert stages == ["compare", "apply"]
    assert daemon.params("diff")["paths"] == ["a", "base64:/w=="]


def test_input_is_fed_no_faster_than_it_is_taken(daemon: Scripted) -> None:
    ran = goexfs.connect(daemon.path).run(["wc"], stdin=b"x" * 5_000_000)
    assert ran.stdout == "5000000 bytes\n"


def test_mistakes_are_goexfs_errors(daemon: Scripted) -> None:
    fs = goexfs.connect(daemon.path)
    with pytest.raises(goexfs.Usage, match="mount: roots"):
        fs.mount()
    with pytest.raises(goexfs.Usage, match="timeout"):
        fs.run(["true"], timeout=-1)
    with pytest.raises(goexfs.Unavailable):
        goexfs.connect(daemon.path + "x")


def test_an_answer_of_another_version(tmp_path: Path) -> None:
    with serving(tmp_path, {"ping": PING, "ls": {"something": "else"}}) as daemon:
        fs = goexfs.connect(daemon.path)
        with pytest.raises(goexfs.Unavailable, match="LsResult"):
            fs.ls()


def test_trio(daemon: Scripted, tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[bytes] = []

        async def on_output(stream: str, data: bytes) -> None:
            seen.append(data)

        async with goexfs.connect_trio(daemon.path) as fs:
            session = await fs.mount(tmp_path)
            ran = await fs.run(["wc"], session=session, stdin=b"x" * 3_000_000, on_output=on_output)
            assert (ran.status, seen) == (3, [b"3000000 bytes\n", b"warning\n"])
            assert (await fs.run(["wc"])).stdout == "0 bytes\n"
            assert (await fs.diff()).summary.total == 2
            assert await fs.patch() == b"diff --git \xff"
            assert [each.name for each in await fs.ls()] == ["otter"]
            assert (await fs.status()).steps == 1
            assert (await fs.log()).steps == []
            assert (await fs.output(1)).stdout == "o"
            assert (await fs.checkpoint()).number == 2
            assert (await fs.rewind(1)).checkpoint == 1
            assert (await fs.fork(checkpoint=1)).session == "s-1"
            assert (await fs.commit()).commit == "c-1"
            assert (await fs.discard()).session == "s-1"
            assert (await fs.doctor()).ok
            assert (await fs.verify(session="otter")).differences == []
            assert (await fs.audit()).entries == []

    trio.run(main)


def test_trio_errors_arrive_unwrapped(tmp_path: Path) -> None:
    async def main(path: str) -> None:
        with pytest.raises(goexfs.Conflict):
            async with goexfs.connect_trio(path) as fs:
                await fs.commit()
        with pytest.raises(goexfs.Unavailable):
            async with goexfs.connect_trio(path + "x"):
                pass

    with serving(tmp_path, {"ping": PING, "commit": goexfs.Conflict("no")}) as daemon:
        trio.run(main, daemon.path)


def forever(exchange: Exchange) -> None:
    """A script that ends by KILL, and takes its time."""
    exchange.emit("started", session="s-1", step=1)
    exchange.output("up")
    notice = exchange.notice()
    assert notice is not None
    assert notice["params"] == {"request": exchange.id, "name": "KILL"}
    exchange.emit("output", stream="stdout", data="late", encoding="utf-8")
    time.sleep(0.2)
    exchange.params["ended"] = True
    exchange.reply({**RAN, "status": 137})


def test_a_cancelled_run_has_ended_when_it_returns(tmp_path: Path) -> None:
    async def main(scripted: Scripted) -> None:
        async with goexfs.connect_trio(scripted.path) as fs:
            with trio.move_on_after(0.2) as scope:
                await fs.run(["sleep", "inf"])
            assert scope.cancelled_caught
            assert scripted.params("run")["ended"]

    with serving(tmp_path, {"ping": PING, "run": forever}) as scripted:
        trio.run(main, scripted)


def test_a_run_whose_output_is_refused_has_ended_when_it_returns(tmp_path: Path) -> None:
    def refuse(stream: str, data: bytes) -> None:
        raise ZeroDivisionError

    with serving(tmp_path, {"ping": PING, "run": forever}) as daemon:
        with pytest.raises(ZeroDivisionError):
            goexfs.connect(daemon.path).run(["yes"], on_output=refuse)
        assert daemon.params("run")["ended"]


def test_a_cancelled_question_hangs_up(tmp_path: Path) -> None:
    heard: list[object] = []

    async def main(path: str) -> None:
        async with goexfs.connect_trio(path) as fs:
            with trio.move_on_after(0.2):
                await fs.commit()

    silent: dict[str, Answer] = {"ping": PING, "commit": lambda e: heard.append(e.notice())}
    with serving(tmp_path, silent) as daemon:
        trio.run(main, daemon.path)
    assert heard == [None]


def test_every_error_can_be_had_from_the_package() -> None:
    leaves = {leaf.__name__ for leaf in errors.BY_CODE.values()}
    assert leaves - set(goexfs.__all__) == {"BadRequest", "BadJSON", "NoSuchMethod"}
    assert all(getattr(goexfs, name) is not None for name in goexfs.__all__)
    assert set(goexfs.__all__) <= set(dir(goexfs))
    with pytest.raises(AttributeError):
        getattr(goexfs, "nonsense")  # noqa: B009 (mypy knows that it is not there)


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, goexfs; goexfs.GoexfsError;"
        "print(*{'pydantic', 'trio', 'click', 'json', 'socket'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
