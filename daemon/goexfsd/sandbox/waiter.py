"""What a parked process runs (see ``parked``): wait, then become what the daemon says.

Run by path, without site packages: it imports nothing of goexfs.  ``argv[1]`` is the descriptor
of a socket.  One message: a byte and descriptors, the last of which holds JSON with ``argv`` and
the ``numbers`` that the others are to have.  End-of-file: the daemon is gone, or has no use for
this process.  Descriptor ``report`` is told why, if it cannot be.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

_MOST = 250
_ASIDE = 500
# Never the caller's: root's shell would obey ENV, its loader LD_PRELOAD.
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as daemon:
        said, fds, _flags, _address = socket.recv_fds(daemon, 1, _MOST)
    if not said:
        return
    with os.fdopen(fds.pop(), "rb") as file:
        task = json.load(file)
    numbers: list[int] = task["numbers"]
    for index, fd in enumerate(fds):
        os.dup2(fd, _ASIDE + index, inheritable=False)
    os.closerange(3, _ASIDE)
    for index, number in enumerate(numbers):
        os.dup2(_ASIDE + index, number, inheritable=True)
    # Python ignores these; what it executes must not.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.umask(0o022)
    try:
        os.execve(task["argv"][0], task["argv"], _ENV)
    except OSError as error:
        os.write(task["report"], f"{error.strerror}\n".encode())
        os._exit(125)


main()
