"""What a parked process runs (see ``parked``): wait, then become what the daemon says.

Run by path, without site packages.  It imports nothing that a bare interpreter has not loaded:
half of what ``socket`` and ``json`` would cost is more than all the rest.  (``ctypes`` only where
it is to be walled off.)

``argv[1]`` is the descriptor of a socket.  One message comes: a byte and descriptors, the last of
which holds, between NULs: the number of the report, the numbers that the other descriptors are to
have (with commas), whether it is to be walled off (a letter, or nothing), and the arguments.
End-of-file: the daemon is gone, or has no use for this process.  The report is told why, if the
program cannot be executed.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import sys

_MOST = 250
_ASIDE = 500
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_SCOPES = 6
"""The first version that has scopes (Linux 6.12)."""
_IGNORED = (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT)
"""By Python, or by nohup(1) and "&" when the daemon was started so; by what it executes, not."""
# Never the caller's: root's shell would obey ENV, its loader LD_PRELOAD.
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def main() -> None:
    fds = _receive(_socket.socket(fileno=int(sys.argv[1])))
    if not fds:
        return
    with open(fds.pop(), "rb") as file:  # noqa: PTH123  (pathlib is not loaded)
        report, numbers, walled, *argv = file.read().split(b"\0")
    for index, fd in enumerate(fds):
        os.dup2(fd, _ASIDE + index, inheritable=False)
    os.closerange(3, _ASIDE)
    for index, number in enumerate(numbers.split(b",")):
        os.dup2(_ASIDE + index, int(number), inheritable=True)
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_DFL)
    os.umask(0o022)
    try:
        if walled:
            _wall_off()
        os.execve(argv[0], argv, _ENV)
    except OSError as error:
        os.write(int(report), f"{error.strerror}\n".encode())
        os._exit(125)


def _wall_off() -> None:
    """No abstract socket and no signal reaches what is outside, where the kernel has Landlock 6.

    It is for what shares the machine's network: a namespace of its own keeps the others from both.
    Landlock's rules on files would forbid bubblewrap its mounts.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1) < _LANDLOCK_SCOPES:
        return
    # No access to files, none to ports; abstract sockets and signals.
    attributes = (ctypes.c_uint64 * 3)(0, 0, 1 | 2)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    if ruleset < 0 or libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    os.close(ruleset)


def _receive(daemon: _socket.socket) -> list[int]:
    space = _socket.CMSG_LEN(_MOST * 4)
    _said, ancillary, _flags, _address = daemon.recvmsg(1, space)
    daemon.close()
    found: list[int] = []
    for _level, _kind, data in ancillary:
        found += [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, len(data), 4)]
    return found


if __name__ == "__main__":
    main()
