"""What goexfsd says to systemd and takes from it: readiness, socket activation.

The protocol is a datagram and three variables; the libraries for it are either unmaintained or
need libsystemd's headers.  See sd_notify(3), sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_FIRST_FD = 3


def notify(state: str) -> None:
    """Tell the service manager, if there is one: ``READY=1``, ``STOPPING=1``, ``STATUS=...``."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as sock, suppress(OSError):
        sock.sendto(state.encode(), address)


def listening_sockets() -> list[socket.socket]:
    """The sockets that systemd opened for us; empty without socket activation."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    found = []
    for fd in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found
