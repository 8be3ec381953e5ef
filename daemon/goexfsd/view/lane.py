"""The lane: the kernel's requests are read here, most are answered here, the rest by pyfuse3.

pyfuse3 (and libfuse beneath it) is given one end of a socket pair for its /dev/fuse.  What the
lane does not answer itself is written to the other end as the kernel sent it, and what comes
back goes to the kernel as it is: the handshake, and what is rare.
So everything that pyfuse3 can serve is served, and what a script asks for thousands of times
costs one read, one method, one write.

One request is one synchronous stretch, in the order in which the kernel sent them.  The lane
waits in poll(2) for a moment after each answer, because the next request mostly follows at once,
unless something is under way that must not be kept waiting; after ``_BURST`` requests everybody
else has their turn.

Where it is compiled, ``hotpath/`` reads the requests and answers the plain ones itself; it hands on
what it declines, and nothing else here changes.

The lane knows the protocol's envelope and nothing of what is in it (``direct.py``).
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import select
import socket
from concurrent.futures import ThreadPoolExecutor

import pyfuse3
import trio

from goexfsd.view import hot, wire
from goexfsd.view.copier import BigCopy
from goexfsd.view.direct import DIRECT, NO_ANSWER, Caller, Direct, Later

log = logging.getLogger("goexfsd.view")

_LARGEST = (1 << 20) + (64 << 10)
"""A write of 1 MiB with its head, and then some."""
_BUFFER = 4 << 20
_SO_SNDBUFFORCE = 32
_MOMENT_MS = 1
_BURST = 32
_SLOW = 16
"""Threads for slow work, at most."""
_PYFUSE3 = object()
_REFUSED = {wire.FLUSH: errno.ENOSYS, wire.IOCTL: errno.ENOTTY}
"""What nobody here answers.  The kernel asks no more for the first; the second comes with each
``isatty``."""
_MORE = (errno.EINTR, errno.EAGAIN, errno.ENOENT)
"""ENOENT: the request was taken back just now, for its process was killed."""


def inner_pair() -> tuple[int, socket.socket]:
    """pyfuse3's end, as a descriptor, and ours; as root, for room enough."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    ours.setblocking(False)
    return theirs.detach(), ours


class Lane:
    """Serves ``fuse_fd``; ``inner`` leads to pyfuse3."""

    def __init__(
        self,
        view: Direct,
        fuse_fd: int,
        inner: socket.socket,
        *,
        direct: bool = True,
        compiled: bool = True,
    ) -> None:
        """``direct``: answer requests here; else pyfuse3 gets all of them, to compare with.
        ``compiled``: by ``hotpath/`` where that can be."""
        self.view = view
        self.direct = DIRECT if direct else {}
        self.fd = fuse_fd
        self.inner = inner
        self.waiting = 0
        """Requests that wait for somebody of this thread's: pyfuse3, or a copy."""
        self._threads = ThreadPoolExecutor(_SLOW, "slow")
        self._init: int | None = None
        """The handshake's number, until it is answered."""
        self._buffer = mmap.mmap(-1, _LARGEST)  # takes no memory until it is used
        self._whole = memoryview(self._buffer)
        self._caller = Caller()
        self._poll = select.poll()
        self._poll.register(fuse_fd, select.POLLIN)
        self._take: hot.Take = self._take_one
        if direct and compiled:
            self._take = hot.take(view, fuse_fd, self._whole) or self._take_one

    async def serve(self) -> None:
        """Until the mount is no more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._bring_back)
            nursery.start_soon(self._pyfuse3)
            await self._read(nursery)
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Wait for slow work that was asked for."""
        self._threads.shutdown()

    async def _pyfuse3(self) -> None:
        await pyfuse3.main()

    async def _read(self, nursery: trio.Nursery) -> None:
        burst = 0
        while True:
            if burst >= _BURST or self.waiting:
                burst = 0
                await trio.lowlevel.checkpoint()
            try:
                length = self._take(0 if self.waiting else _MOMENT_MS, _BURST)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            except Exception:
                log.exception("a plain request failed")
                continue
            if length is None:
                burst = _BURST
            elif not length:
                burst = 0
                await trio.lowlevel.wait_readable(self.fd)
            else:
                left = self._one(self._whole[:length])
                burst += 1
                if left is not None:
                    await self._leave(left, self._whole[:length], nursery)
                    burst = 0

    def _take_one(self, moment: int, most: int, /) -> int:
        """The length of the next request; 0: none came in that many milliseconds."""
        while self._poll.poll(moment):
            try:
                return os.readv(self.fd, [self._buffer])
            except OSError as error:
                if error.errno not in _MORE:
                    raise
        return 0

    async def _leave(self, left: object, request: memoryview, nursery: trio.Nursery) -> None:
        """Have a request answered that cannot be at once."""
        if isinstance(left, BigCopy):
            self.waiting += 1
            nursery.start_soon(self._after, left, bytes(request))
        elif isinstance(left, Later):
            self._threads.submit(self._in_thread, left, wire.IN.unpack_from(request)[2])
        else:
            await self._forward(request)

    def _one(self, request: memoryview) -> BigCopy | Later | object | None:
        """Answer one request; or return the copy that it waits for, or what a thread is to do
        for it, or (``_PYFUSE3``) that it is not ours to answer."""
        _, opcode, unique, inode, uid, gid, pid, _, _ = wire.IN.unpack_from(request)
        method = self.direct.get(opcode)
        if method is None:
            return self._not_ours(opcode, unique)
        view = self.view
        view.requests += 1
        caller = self._caller
        caller.uid, caller.gid, caller.pid = uid, gid, pid
        try:
            done = method(view, inode, request[wire.BODY :], caller)
        except BigCopy as need:
            return need
        except OSError as error:
            self._fail(unique, error)
        except Exception:
            log.exception("%s failed", getattr(method, "__name__", opcode))
            self._fail(unique, None)
        else:
            if isinstance(done, bytes):
                self._answer(wire.OUT.pack(16 + len(done), 0, unique) + done)
            elif isinstance(done, Later):
                return done
            elif done is not NO_ANSWER:
                self._reply(unique, done)
        tree = view.tree
        if tree.table.dropped or len(tree.pool) > tree.pool_limit:
            tree.tidy()
        return None

    async def _after(self, need: BigCopy, request: bytes) -> None:
        """Answer a request once the copy that it waits for is made."""
        left: BigCopy | object | None = need
        try:
            while isinstance(left, BigCopy):
                await self.view.copy_aside(left)
                left = self._one(memoryview(request))
        except OSError as error:
            self._fail(wire.IN.unpack_from(request)[2], error)
        except Exception:
            log.exception("a copy failed")
            self._fail(wire.IN.unpack_from(request)[2], None)
        finally:
            self.waiting -= 1

    def _in_thread(self, later: Later, unique: int) -> None:
        """Do slow work and answer, both in a thread: nobody here need hear of it."""
        try:
            later.work()
        except OSError as error:
            self._fail(unique, error)
        except Exception:
            log.exception("slow work failed")
            self._fail(unique, None)
        else:
            self._reply(unique, b"")

    def _fail(self, unique: int, error: OSError | None) -> None:
        code = errno.EIO if error is None or not error.errno else error.errno
        self._answer(wire.OUT.pack(wire.OUT.size, -code, unique))

    def _reply(self, unique: int, data: bytes | memoryview) -> None:
        """Answer with data, perhaps in a buffer that is used again."""
        try:
            os.writev(self.fd, [wire.OUT.pack(16 + len(data), 0, unique), data])
        except OSError as error:
            _may_fail(error)

    def _answer(self, message: bytes | memoryview) -> None:
        try:
            os.write(self.fd, message)
        except OSError as error:
            _may_fail(error)

    # -- what is not ours ------------------------------------------------------------------------

    def _not_ours(self, opcode: int, unique: int) -> object | None:
        if opcode == wire.INTERRUPT:
            return None  # nothing here is ever waited for without an end
        if opcode == wire.INIT:
            self._init = unique
        refused = _REFUSED.get(opcode)
        if refused is not None:
            self._answer(wire.OUT.pack(wire.OUT.size, -refused, unique))
            return None
        if opcode not in (wire.FORGET, wire.BATCH_FORGET):  # they have no answer
            self.waiting += 1
        return _PYFUSE3

    async def _forward(self, request: memoryview) -> None:
        while True:
            try:
                self.inner.send(request)
                break
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.inner)
            except OSError as error:  # no memory for it
                self.waiting -= 1
                self._fail(wire.IN.unpack_from(request)[2], error)
                break
        await trio.lowlevel.checkpoint()

    async def _bring_back(self) -> None:
        """pyfuse3's answers to the kernel."""
        buffer = mmap.mmap(-1, _LARGEST)
        whole = memoryview(buffer)
        while True:
            await trio.lowlevel.wait_readable(self.inner)
            length = self.inner.recv_into(buffer)
            if not length:
                return
            _, _, unique = wire.OUT.unpack_from(buffer)
            if unique:
                self.waiting -= 1
            if unique == self._init:
                self._init = None
                if self.direct:
                    _want_more(buffer, length, passthrough=self.view.wants_passthrough)
            self._answer(whole[:length])


def _want_more(answer: mmap.mmap, length: int, *, passthrough: bool) -> None:
    """Our word in the handshake: we take set-id bits and capabilities off a file that is written
    ourselves, so that the kernel need not ask before each write; and files of the layer may be
    what stands behind the view's (the kernel takes no notice where it does not know that)."""
    at = wire.OUT.size
    told = list(wire.INIT_OUT.unpack_from(answer, at))
    flags = wire.INIT_HANDLE_KILLPRIV_V2
    if passthrough and length >= at + wire.INIT_OUT.size:
        flags |= wire.INIT_EXT | wire.INIT_PASSTHROUGH
        told[11] = 1  # how deep file systems may be stacked with this one
    told[3] |= flags & 0xFFFFFFFF
    told[10] |= flags >> 32
    wire.INIT_OUT.pack_into(answer, at, *told)


def _may_fail(error: OSError) -> None:
    """The kernel does not want every answer: a process was killed, the mount is going away.  One
    that it does not understand has ended its request, with EIO."""
    if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINTR):
        log.error("the kernel refused an answer: %s", error.strerror)
