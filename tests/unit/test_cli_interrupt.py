"""Ctrl-C while a commit is under way: the daemon's answer says what was done."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

GOEXFS = Path(sys.executable).parent / "goexfs"
EMPTY = dict.fromkeys(("deleted", "created", "modified", "renamed", "retyped", "metadata"), 0)
DONE = {
    "commit": "c-1",
    "session": "s-1",
    "applied": {**EMPTY, "modified": 1},
    "conflicts": [],
    "remaining": EMPTY,
    "closed": True,
}
STOPPED = {"code": -32603, "message": "it was stopped", "data": {"code": "commit_failed"}}


def answer(server: socket.socket, reply: dict[str, Any] | None, said: list[Any]) -> None:
    """Interrupt whoever asks; hear them out; answer (None: interrupt them again)."""
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as lines:
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, _, _ = struct.unpack("3i", told)
        request = json.loads(lines.readline())
        os.kill(pid, signal.SIGINT)
        said.append(json.loads(lines.readline()))
        if reply is None:
            os.kill(pid, signal.SIGINT)
            lines.readline()
            return
        line = json.dumps({"jsonrpc": "2.0", "id": request["id"], **reply})
        connection.sendall(line.encode() + b"\n")


def interrupted(home: Path, reply: dict[str, Any] | None) -> subprocess.CompletedProcess[str]:
    path = str(home / "sock")
    said: list[Any] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=answer, args=(server, reply, said))
        thread.start()
        environment = {**os.environ, "GOEXFS_SOCKET": path}
        command = [str(GOEXFS), "commit"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        thread.join(60)
    assert [each["method"] for each in said] == ["signal"]
    return done


def test_what_was_stopped_ends_as_an_interrupt(tmp_path: Path) -> None:
    done = interrupted(tmp_path, {"error": STOPPED})
    assert done.returncode == -signal.SIGINT
    assert "it was stopped" in done.stderr


def test_what_was_committed_all_the_same_is_told(tmp_path: Path) -> None:
    done = interrupted(tmp_path, {"result": DONE})
    assert done.returncode == 0
    assert "committed 1 modified as c-1" in done.stdout


def test_a_second_time_leaves_without_knowing(tmp_path: Path) -> None:
    done = interrupted(tmp_path, None)
    assert done.returncode == -signal.SIGINT
    assert "goexfs log says" in done.stderr
