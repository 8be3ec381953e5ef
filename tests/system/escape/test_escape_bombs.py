"""Using everything up, and staying alive: bounded, while the machine and other sessions go on.

Measured: how long another session of another user's takes to run ``true`` meanwhile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks import Field
from attacks import open_field as open_field
from daemons import User

PATIENCE = 10.0
"""Seconds within which others must be served; usual are 0.2, and 2 on a busy machine."""

BOMBS = {
    "fork": ("bash -c ':(){ :|:& };: 2>/dev/null; sleep 60'", {"--processes": "64"}),
    "threads": (
        'python3 -c "import threading,time\nwhile True:\n'
        " try: threading.Thread(target=time.sleep,args=(60,)).start()\n"
        ' except RuntimeError: pass"',
        {"--processes": "64"},
    ),
    "memory": ("python3 -c 'x=[]\nwhile True: x.append(bytearray(1<<20))'", {"--memory": "64M"}),
    "memory in /tmp": ("head -c 1G /dev/zero > /tmp/x", {"--memory": "64M"}),
    "memory in shared memory": ("head -c 1G /dev/zero > /dev/shm/x", {"--memory": "64M"}),
    "processor": ("sh -c 'while :; do :; done & while :; do :; done'", {"--cpu": "0.5"}),
    "descriptors": (
        'python3 -c "import os,time\nfds=[]\nwhile True:\n'
        " try: fds.append(os.open('README.md',0))\n except OSError: time.sleep(0.1)\"",
        {},
    ),
    "output": ("yes", {}),
    "directories": ("sh -c 'while :; do mkdir d && cd d; done'", {}),
    "signals": ("sh -c 'trap : TERM; while :; do kill -TERM $$; done'", {}),
    "requests": ("sh -c 'while :; do ls -lR . >/dev/null; done'", {}),
    "connections": (
        'python3 -c "import socket\nheld=[]\nwhile True:\n'
        " held=held[-200:]+[socket.create_connection(('127.0.0.1',3128))]\n"
        " held[-1].sendall(b'GET http://x.test/ HTTP/1.1'+b'\\r\\nHost: x.test\\r\\n\\r\\n'"
        ' *(len(held)%2))"',
        {"--allow-host": "y.test"},
    ),
}


@contextmanager
def neighbour(field: Field, arena: Path, other: User) -> Iterator[Path]:
    root = arena / "neighbour"
    root.mkdir()
    other.own(root)
    assert field.daemon.run("mount", root, user=other).status == 0
    yield root


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_bounded_and_others_are_served(
    field: Field, arena: Path, other_user: User, name: str
) -> None:
    command, options = BOMBS[name]
    given = [part for pair in options.items() for part in pair]
    argv = ["run", "--json", "--timeout", "1.5", *given, "--", "sh", "-c", command]
    with neighbour(field, arena, other_user) as root:
        began = time.monotonic()
        with subprocess.Popen(
            [*field.daemon._command(field.owner), *argv], cwd=field.root,
            env=field.daemon.environment(), user=field.owner.uid, group=field.owner.gid,
            extra_groups=[], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ) as bomb:  # fmt: skip
            time.sleep(0.5)
            start = time.monotonic()
            served = field.daemon.run("run", "--", "true", user=other_user, cwd=root)
            took = time.monotonic() - start
            out, _ = bomb.communicate(timeout=40)
        lasted = time.monotonic() - began
    assert served.status == 0, served.err
    assert took < PATIENCE
    assert lasted < 30
    assert bomb.returncode != 0
    assert len(out) < 8 * 2**20
    # And its own session goes on.
    assert field.goexfs("run", "--", "echo", "fine").strip() == "fine"


def test_a_log_that_never_ends_is_kept_in_part(field: Field) -> None:
    field.goexfs("run", "--timeout", "1", "--json", "--", "yes", status=124)
    kept = field.daemon.state / "store" / "sessions" / field.at["session"] / "steps" / "1.out"
    assert kept.stat().st_size <= 2**20 + 100


# -- staying alive ------------------------------------------------------------------------------

WAYS = {
    "background": "sleep {0} &",
    "new session": "setsid sleep {0} & sleep 0.1",
    "double fork": "(setsid sh -c 'sleep {0} & exit' &); sleep 0.1",
    "nohup": "nohup sleep {0} >/dev/null 2>&1 &",
    "deaf": "(trap '' INT TERM HUP QUIT; sleep {0}) &",
    "stopped": "sleep {0} & kill -STOP $!",
    "a terminal of its own": "script -qc 'sleep {0}' /dev/null >/dev/null 2>&1 & sleep 0.2",
    "a writer": "(while :; do echo later >> README.md; sleep 0.01; done) & sleep {0} &",
    "a deleted program": "cp /usr/bin/sleep ./s; ./s {0} & rm s",
}


def mark() -> str:
    return f"3000{uuid.uuid4().int % 10**9}"


def alive(marked: str) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if marked.encode() in line and b"goexfs" not in line:
            found.append(int(pid))
    return found


def test_nothing_survives_its_step(field: Field) -> None:
    marks = {way: mark() for way in WAYS}
    for way, script in WAYS.items():
        field.goexfs("run", "--", "sh", "-c", script.format(marks[way]))
        assert alive(marks[way]) == [], way
    before = field.goexfs("run", "--", "cat", "README.md")
    time.sleep(0.3)
    assert field.goexfs("run", "--", "cat", "README.md") == before
    assert field.goexfs("run", "--", "sh", "-c", "ls /proc | grep -c '^[0-9]'").strip() in "3456"


@pytest.mark.parametrize("how", ["timeout", "killed client", "interrupted client"])
def test_nothing_survives_however_the_step_ends(field: Field, how: str) -> None:
    marked = mark()
    script = f"trap '' TERM INT; setsid sleep {marked} & echo up; sleep {marked}"
    limit = ["--timeout", "1"] if how == "timeout" else []
    with subprocess.Popen(
        [*field.daemon._command(field.owner), "run", *limit, "--", "sh", "-c", script],
        cwd=field.root, env=field.daemon.environment(), user=field.owner.uid,
        group=field.owner.gid, extra_groups=[], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as client:  # fmt: skip
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        assert len(alive(marked)) >= 2
        if how != "timeout":
            client.send_signal(signal.SIGKILL if how == "killed client" else signal.SIGINT)
        client.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while alive(marked) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(marked) == []


FILLS = {
    "bytes": ("head -c 200M /dev/urandom > big || exit 9", "layer_bytes"),
    "bytes in many files": (
        "i=0; while head -c 1M /dev/urandom > f$i; do i=$((i+1)); done; exit 9", "layer_bytes",
    ),
    "bytes of deleted files": (
        "while exec {fd}> x; rm x; head -c 10M /dev/urandom >&$fd; do :; done; exit 9",
        "layer_bytes",
    ),
    "entries": ("i=0; while touch f$i; do i=$((i+1)); done; exit 9", "layer_inodes"),
    "directories, deep": ("while mkdir d && cd d; do :; done; exit 9", "layer_inodes"),
    "links": (
        "ln README.md x; i=0; while ln -s x l$i; do i=$((i+1)); done; exit 9", "layer_inodes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", FILLS)
def test_what_a_session_changes_is_bounded(field: Field, way: str) -> None:
    """The script is told, as on a disk with a quota; the layer never holds more."""
    script, limit = FILLS[way]
    (field.root / ".goexfs.toml").write_text('layer_bytes = "32M"\nlayer_inodes = 500\n')
    found = field.json("run", "--", "bash", "-c", script, status=9)
    assert found["exceeded"] == [limit]
    assert field.json("status")["layer_bytes"] < 40 * 2**20
    field.goexfs("rewind", "0")
    assert field.goexfs("run", "--", "echo", "fine").strip() == "fine"


def test_one_file_is_bounded_at_once(field: Field) -> None:
    (field.root / ".goexfs.toml").write_text('file_bytes = "1M"\n')
    field.goexfs("run", "--", "sh", "-c", "head -c 10M /dev/zero > big", status=None)
    assert field.goexfs("run", "--", "stat", "-c", "%s", "big").strip() == str(2**20)
