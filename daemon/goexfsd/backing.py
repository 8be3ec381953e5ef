"""Backing files: what the kernel reads and writes itself (FUSE passthrough, Linux 6.9).

Which file stands behind one of a view's only CAP_SYS_ADMIN may say, and a view's worker has no
more rights than its session's owner.  So it hands the file to a thread of the daemon's, one for
each view, over a socket of its own.  The kernel opens the file anew with the flags of whoever
opened it in the view, without asking whether that one may, and accesses it as the thread that
handed it on: therefore it must be a regular file of the store's, the worker must have it open for
reading and writing already, and the thread accesses files as the owner.

Messages, a datagram each: ``f`` with /dev/fuse, once, first; ``o`` with a file, answered by its
number or minus an errno; ``c`` and a number, which is not answered.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import threading
import uuid
from pathlib import Path

import structlog

from goexfsd import kernel
from goexfsd.store.directory import file_system_id
from goexfsd.view.through import NUMBER
from goexfsd.worker import Owner

log = structlog.get_logger("goexfsd.backing")

_OPEN = 0x4010E501  # FUSE_DEV_IOC_BACKING_OPEN
_CLOSE = 0x4004E502  # FUSE_DEV_IOC_BACKING_CLOSE
_MAP = struct.Struct("=iIQ")
"""fuse_backing_map: fd, flags, padding"""


def serve(layer: Path, owner: Owner) -> int:
    """Serve one view of the owner's, whose layer lies where ``layer`` does, until the worker
    closes its end.

    Returns that end, the caller's to close.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    threading.Thread(
        target=answer, args=(ours, layer, owner), name="backing files", daemon=True
    ).start()
    return theirs.detach()


def answer(sock: socket.socket, layer: Path, owner: Owner) -> None:
    """Answer one view's worker until it closes its end."""
    with sock:
        try:
            at = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                store = file_system_id(at)
            finally:
                os.close(at)
            with kernel.eyes_of(owner.uid, owner.gid, owner.groups):
                _answer(sock, store)
        except OSError as error:
            log.info("a view's backing files end", error=error.strerror)


def _answer(sock: socket.socket, store: uuid.UUID) -> None:
    fuse = -1
    try:
        while True:
            message, fds, _, _ = socket.recv_fds(sock, 16, 1, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return
            told: int | None = None
            if message == b"f" and fuse < 0 and fds:
                fuse, told = fds.pop(), 0
            elif message == b"o" and fds:
                told = _register(fuse, fds[0], store)
            elif message[:1] == b"c" and len(message) == 1 + NUMBER.size:
                with contextlib.suppress(OSError):
                    fcntl.ioctl(fuse, _CLOSE, message[1:])
            for fd in fds:
                os.close(fd)  # before the answer: nothing holds the file after it
            if told is not None:
                sock.send(NUMBER.pack(told))
    finally:
        if fuse >= 0:
            os.close(fuse)


def _register(fuse: int, fd: int, store: uuid.UUID) -> int:
    """The kernel's number for a file; minus an errno where it may not or cannot have one."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_ACCMODE != os.O_RDWR or flags & os.O_PATH:
        return -errno.EPERM
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return -errno.EPERM
    try:
        if file_system_id(fd) != store:
            return -errno.EPERM
        number: int = fcntl.ioctl(fuse, _OPEN, bytearray(_MAP.pack(fd, 0, 0)), True)
        return number
    except OSError as error:
        return -(error.errno or errno.EIO)
