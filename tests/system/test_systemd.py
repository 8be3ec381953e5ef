"""What the systemd units rely on: readiness, a socket that is handed over, a clean stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemons import Daemon

GOEXFSD = str(Path(sys.executable).parent / "goexfsd")


def test_ready_and_stopping_are_told(arena: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(arena / "notify"))
        notified.settimeout(20)
        process = subprocess.Popen(
            [GOEXFSD, "--state-dir", arena / "state", "--runtime-dir", arena / "run"],
            env={**os.environ, "NOTIFY_SOCKET": str(arena / "notify")},
            stderr=subprocess.DEVNULL,
        )
        assert notified.recv(4096).startswith(b"READY=1")
        assert (arena / "run" / "goexfs.sock").is_socket()
        process.send_signal(signal.SIGTERM)
        assert notified.recv(4096).startswith(b"STOPPING=1")
        assert process.wait(20) == 0


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="no systemd here")
def test_a_socket_handed_over_is_used_and_left_in_place(arena: Path) -> None:
    (arena / "run").mkdir()
    daemon = Daemon(arena)
    activated = ["systemd-socket-activate", "--listen", str(daemon.socket), GOEXFSD]
    places = ["--state-dir", str(daemon.state), "--runtime-dir", str(daemon.runtime)]
    process = subprocess.Popen([*activated, *places], stderr=subprocess.DEVNULL)
    try:
        while not daemon.socket.exists():
            time.sleep(0.02)
        daemon.socket.chmod(0o666)
        assert daemon.run("ls", "--json").status == 0  # starts it
        assert daemon.run("ls", "--json").status == 0
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(20)
    assert status == 0
    assert daemon.socket.exists()  # systemd's, who would start the daemon again with it
