"""A client that asks for a lot: it may wait for it, others do not."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

from daemons import Daemon, User

SECONDS = 6.0
PATTERNS = ["**/[a-z]*" * 90 + str(n) for n in range(1000)]
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "many globs": ("diff", {"paths": [f"a*{n}" for n in range(60_000)]}),
    "many exclusions": ("diff", {"exclude": [f"a*/b*/{n}" for n in range(50_000)]}),
    "many wrong words": ("commit", {"resolve": ["wrong"] * 90_000}),
    "long patterns": ("policy", {"run": {"command": ["true"], "rules": {"hide": PATTERNS}}}),
}  # fmt: skip


def ask(daemon: Daemon, method: str, params: dict[str, Any], seconds: float) -> bytes:
    """One line of an answer; empty: none in time."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(seconds)
        sock.connect(str(daemon.socket))
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            return sock.makefile("rb").readline()
        except TimeoutError:
            return b""


def test_a_large_request_keeps_the_daemon_from_nobody(
    daemon: Daemon, tree: Path, ordinary_user: User
) -> None:
    daemon.run("mount", tree, user=ordinary_user)
    assert {n: took for n in LARGE if (took := longest_wait(daemon, tree, n)) > SECONDS / 2} == {}


def longest_wait(daemon: Daemon, tree: Path, name: str) -> float:
    """For an answer, while the daemon has this to do."""
    method, params = LARGE[name]
    params = params if method == "policy" else {**params, "session": None, "cwd": str(tree)}
    asking = threading.Thread(target=ask, args=(daemon, method, params, SECONDS))
    asking.start()
    longest, end = 0.0, time.monotonic() + SECONDS
    while asking.is_alive() and time.monotonic() < end:
        began = time.monotonic()
        assert ask(daemon, "ping", {}, 60).startswith(b'{"jsonrpc"')
        longest = max(longest, time.monotonic() - began)
    asking.join()
    return longest
