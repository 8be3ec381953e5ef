"""``goexfs run``: streams, input, signals, statuses, and an end that waits for nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from goexfs import errors
from scripted import NOTHING, RAN, SESSION, Answer, Exchange, change, serving

BIN = Path(sys.executable).parent


@contextmanager
def running(
    tmp_path: Path, answer: Answer, *argv: str, **how: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """``goexfs ARGV`` against a daemon that answers ``run`` so."""
    others: dict[str, Answer] = {
        "mount": SESSION,
        "discard": {"session": "s-1"},
        **how.pop("others", {}),
    }
    with serving(tmp_path, {"run": answer, **others}) as daemon:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": "/",
            "GOEXFS_SOCKET": daemon.path,
            "SHOWN": "yes",
        }
        for stream in ("stdin", "stdout", "stderr"):
            how.setdefault(stream, subprocess.PIPE)
        with subprocess.Popen([BIN / "goexfs", *argv], env=env, **how) as process:
            process.daemon = daemon  # type: ignore[attr-defined]
            try:
                yield process
            finally:
                process.kill()


def ended(process: subprocess.Popen[bytes], data: bytes | None = None) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(data, timeout=20)
    return process.returncode, out, err


def sent(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = process.daemon.params("run")  # type: ignore[attr-defined]
    return found


def both(exchange: Exchange) -> None:
    exchange.emit("started", session="s-1", step=1)
    exchange.output("out")
    exchange.emit("output", stream="stderr", data="/wA=", encoding="base64")
    exchange.output("put\n")
    exchange.reply({**RAN, "status": 42})


def test_streams_and_status(tmp_path: Path) -> None:
    with running(tmp_path, both, "run", "-s", "x", "--", "cmd", "--json", "--", "-e") as process:
        assert ended(process) == (42, b"output\n", b"\xff\x00")
    assert sent(process)["command"] == ["cmd", "--json", "--", "-e"]
    assert (sent(process)["session"], sent(process)["stream"]) == ("x", True)


def test_a_command_needs_no_dashes(tmp_path: Path) -> None:
    argv = ["run", "-e", "SHOWN", "-e", "A=b=c", "-e", "UNSET", "--timeout", "2m", "ls", "-l"]
    with running(tmp_path, RAN, *argv) as process:
        assert ended(process) == (0, b"", b"")
    assert sent(process)["command"] == ["ls", "-l"]
    assert sent(process)["env"] == {"SHOWN": "yes", "A": "b=c"}
    assert sent(process)["timeout"] == 120


def test_json_is_not_streamed(tmp_path: Path) -> None:
    answer = {**RAN, "status": 5, "stdout": "o", "stderr": "e"}
    with running(tmp_path, answer, "run", "--json", "--", "x") as process:
        status, out, err = ended(process)
    assert (status, json.loads(out), err) == (5, answer, b"")
    assert sent(process)["stream"] is False


def test_a_time_limit_says_so(tmp_path: Path) -> None:
    answer = {**RAN, "status": 124, "timed_out": True}
    with running(tmp_path, answer, "run", "--timeout", "1.5", "--", "x") as process:
        assert ended(process) == (124, b"", b"goexfs: stopped at the time limit of 1.5 s\n")


@pytest.mark.parametrize(
    ("name", "data", "script"),
    [
        ("a.py", b"print()", {"text": "print()", "encoding": "utf-8", "name": "a.py"}),
        ("b", b"\xff\x00", {"text": "/wA=", "encoding": "base64", "name": "b"}),
        ("-", b"echo", {"text": "echo", "encoding": "utf-8", "name": "script"}),
    ],
)
def test_scripts(tmp_path: Path, name: str, data: bytes, script: dict[str, str]) -> None:
    if name != "-":
        (tmp_path / name).write_bytes(data)
    argv = ["run", "--script", name, "--", "one", "--two"]
    with running(tmp_path, RAN, *argv, cwd=tmp_path) as process:
        assert ended(process, data) == (0, b"", b"")
    assert sent(process)["script"] == script
    assert sent(process)["command"] == ["one", "--two"]
    assert sent(process)["stdin"] is (name != "-")


def test_a_script_that_is_too_long(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 5_000_000)
    with running(tmp_path, RAN, "run", "--script", str(tmp_path / "big")) as process:
        status, out, err = ended(process)
    assert (status, out) == (6, b"")
    assert b"too long" in err


def count(exchange: Exchange) -> None:
    """Take all input, slowly at first; say how much it was and how far ahead it ever was."""
    got, ahead, most, waiting = 0, 0, 0, []
    for notice in iter(exchange.notice, None):
        params = notice["params"]
        if params.get("eof"):
            break
        size = len(params["data"])
        got, ahead = got + size, ahead + size
        most = max(most, ahead)
        waiting.append(size)
        if len(waiting) > 3:
            taken = sum(waiting)
            ahead -= taken
            waiting.clear()
            exchange.emit("taken", bytes=taken)
    exchange.output(f"{got} {most <= 1024 * 1024}")
    exchange.reply(RAN)


@pytest.mark.parametrize("data", [b"", b"x" * 4_000_000, b"\xff" * 3_000_000, "ü".encode() * 10**6])
def test_input_is_passed_on_and_never_far_ahead(tmp_path: Path, data: bytes) -> None:
    with running(tmp_path, count, "run", "--", "wc") as process:
        status, out, _ = ended(process, data)
    assert status == 0
    assert out.endswith(b" True")
    assert int(out.split()[0]) >= len(data) / 2


def test_input_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with (
        open(tmp_path / "file", "rb") as file,
        running(tmp_path, count, "run", "--", "wc", stdin=file) as process,
    ):
        assert ended(process)[:2] == (0, b"100000 True")


def test_an_open_stdin_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with running(tmp_path, both, "run", "--", "x") as process:
        assert process.wait(10) == 42
    assert sent(process)["stdin"] is True


@pytest.mark.parametrize("how", ["null", "closed"])
def test_no_stdin_at_all(tmp_path: Path, how: str) -> None:
    more: dict[str, Any] = {"stdin": subprocess.DEVNULL}
    if how == "closed":
        more = {"preexec_fn": lambda: os.close(0)}
    with running(tmp_path, RAN, "run", "--", "x", **more) as process:
        assert ended(process) == (0, b"", b"")
    assert sent(process)["stdin"] is False


def forge(exchange: Exchange) -> None:
    """A script whose output is a request."""
    exchange.emit("started", session="s-1", step=1)
    request = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "commit", "params": {}})
    for stream in ("stdout", "stderr"):
        exchange.emit("output", stream=stream, data=request + "\n", encoding="utf-8")
    exchange.reply(RAN)


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_output_to_a_closed_stream_never_reaches_the_daemon(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    def close() -> None:
        for fd in closed:
            os.close(fd)

    with running(tmp_path, forge, "run", "--", "x", preexec_fn=close) as process:
        status, _, err = ended(process)
    assert status == RAN["status"]
    assert b"Traceback" not in err
    assert [name for name, _ in process.daemon.requests] == ["run"]  # type: ignore[attr-defined]


def obey(exchange: Exchange) -> None:
    """End as soon as KILL comes; say what came."""
    exchange.emit("started", session="s-1", step=1)
    exchange.output("up\n")
    for notice in iter(exchange.notice, None):
        if notice["method"] == "signal":
            exchange.output(notice["params"]["name"] + "\n")
            if notice["params"]["name"] == "KILL":
                exchange.reply({**RAN, "status": 137, "signal": 9})
                return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_is_passed_on_and_the_second_kills(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, obey, "run", "--", "x") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.stdout.readline() == number.name[3:].encode() + b"\n"
        process.send_signal(number)
        assert process.stdout.readline() == b"KILL\n"
        assert process.wait(10) == 137


def test_a_third_gives_up_on_a_daemon_that_does_nothing(tmp_path: Path) -> None:
    def stubborn(exchange: Exchange) -> None:
        exchange.output("up\n")
        while exchange.notice() is not None:
            exchange.output("no\n")

    with running(tmp_path, stubborn, "run", "--", "x") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == b"no\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


def test_a_signal_arrives_though_nobody_reads_our_output(tmp_path: Path) -> None:
    got: list[str] = []
    asked = threading.Event()

    def flood(exchange: Exchange) -> None:
        asked.set()
        exchange.output("x" * 3_000_000)
        notice = exchange.notice()
        assert notice is not None
        got.append(notice["params"]["name"])
        exchange.reply({**RAN, "status": 130})

    with running(tmp_path, flood, "run", "--", "x", stdin=subprocess.DEVNULL) as process:
        assert asked.wait(20)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 10
        while not got and time.monotonic() < deadline:
            time.sleep(0.02)
        assert got == ["INT"]
        assert ended(process)[0] == 130


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    def endless(exchange: Exchange) -> None:
        while True:
            exchange.output("y\n" * 1000)

    with running(tmp_path, endless, "run", "--", "yes", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound("no"), 4),
        (errors.Denied("no"), 5),
        (errors.Limit("no"), 6),
        (errors.InvalidState("no"), 125),
        (errors.ViewFailed("no"), 125),
        (errors.SandboxFailed("no"), 125),
        (errors.NotExecutable("no"), 126),
        (errors.Internal("no"), 125),
    ],
)
def test_failures_of_goexfs_are_told_from_the_scripts(
    tmp_path: Path, error: errors.GoexfsError, status: int
) -> None:
    with running(tmp_path, error, "run", "--", "x") as process:
        assert ended(process) == (status, b"", b"goexfs: no\n")


def test_a_daemon_that_dies_under_a_script(tmp_path: Path) -> None:
    def die(exchange: Exchange) -> None:
        exchange.emit("started", session="s-1", step=1)
        raise BrokenPipeError

    with running(tmp_path, die, "run", "--", "x") as process:
        status, _, err = ended(process)
    assert status == 125
    assert b"goexfsd went away" in err


# -- try ------------------------------------------------------------------------------------------

CHANGES = {
    "session": "s-1",
    "from": None,
    "to": None,
    "changes": [change("deleted", "a"), change("created", "b")],
    "summary": {**NOTHING, "deleted": 1, "created": 1},
}
NONE = {**CHANGES, "changes": [], "summary": NOTHING}
COMMITTED = {
    "commit": "c-1", "session": "s-1", "applied": CHANGES["summary"], "remaining": NOTHING,
    "conflicts": [], "closed": True,
}  # fmt: skip
CONFLICTS = {
    **COMMITTED, "commit": None, "closed": False,
    "conflicts": [{"root": "p", "path": "a", "reason": "changed", "detail": "edited"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "ran", "diff", "commit", "status", "fate"),
    [
        ("--yes", 0, CHANGES, COMMITTED, 0, "committed as c-1: 1 deleted, 1 created"),
        ("--yes", 2, CHANGES, COMMITTED, 2, "is kept, uncommitted, since the script failed"),
        ("--yes", 0, CHANGES, CONFLICTS, 3, "since it conflicts"),
        ("--yes", 0, NONE, COMMITTED, 0, "discarded: nothing was changed"),
        ("--no", 0, CHANGES, COMMITTED, 0, "discarded"),
        ("--no", 9, CHANGES, COMMITTED, 9, "discarded"),
        ("--keep", 0, NONE, COMMITTED, 0, "is kept, uncommitted\n"),
        (None, 0, CHANGES, COMMITTED, 0, "since nobody is there to ask"),
        (None, 1, NONE, COMMITTED, 1, "discarded: nothing was changed"),
    ],
)
def test_try(
    tmp_path: Path,
    flag: str | None,
    ran: int,
    diff: dict[str, Any],
    commit: dict[str, Any],
    status: int,
    fate: str,
) -> None:
    argv = ["try", *([flag] if flag else []), "--", "x"]
    others = {"diff": diff, "commit": commit}
    answer = {**RAN, "status": ran}
    with running(tmp_path, answer, *argv, others=others, cwd=tmp_path) as process:
        found, out, err = ended(process)
    assert (found, out) == (status, b"")
    assert fate in err.decode()
    if diff is CHANGES:
        assert "-- " in err.decode().splitlines()[0]
        assert err.decode().splitlines()[1:3] == ["D  a", "A  b"]
    daemon = process.daemon  # type: ignore[attr-defined]
    assert daemon.params("mount") == {"roots": [str(tmp_path)]}
    asked = [method for method, _ in daemon.requests]
    if "committed" in fate and "un" not in fate:
        assert daemon.params("commit")["checkpoint"] == 1
    assert ("discard" in asked) is fate.startswith("discarded")


def test_try_as_json(tmp_path: Path) -> None:
    others = {"diff": CHANGES, "commit": COMMITTED}
    with running(tmp_path, RAN, "try", "--json", "--yes", "--", "x", others=others) as process:
        status, out, err = ended(process)
    found = json.loads(out)
    assert (status, err) == (0, b"")
    assert found["fate"] == "committed"
    assert found["commit"]["commit"] == "c-1"
    assert found["changes"] == CHANGES["changes"]
    assert found["run"]["status"] == 0


def test_try_names_what_it_leaves_when_it_fails(tmp_path: Path) -> None:
    error = errors.SandboxFailed("no bwrap")
    with running(tmp_path, error, "try", "--yes", "--", "x") as process:
        status, _, err = ended(process)
    assert status == 125
    assert b"session otter is kept" in err
    assert b"goexfs: no bwrap" in err


def test_an_argument_that_is_not_utf8_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with running(tmp_path, RAN, "run", "--", os.fsdecode(b"a\xff")) as process:
        status, _, err = ended(process)
    assert status == 2
    assert b"an argument is not UTF-8" in err
