"""The daemon's hold on one session's view, of either kind: its directories, its worker, its end.

``open_hold`` yields a view that serves.  When the block ends, for whatever reason, nothing is
left: the bind at ``--at`` and the FUSE mount are gone (lazily, so that a shell standing inside
holds up nobody), the worker has ended, its directories are removed.

Resource handling: the worker's death is noticed by the reader task, which sets ``ended``; all
waiting commands then fail with ViewFailed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import trio

from goexfs.errors import GoexfsError, ViewFailed, from_wire
from goexfs.names import display
from goexfsd import backing, kernel
from goexfsd.channel import Channel, open_channel
from goexfsd.overlay import worker as overlay_worker
from goexfsd.view import worker as view_worker
from goexfsd.worker import Workers, WorkerSpec

log = structlog.get_logger("goexfsd.hold")

START_SECONDS = 30.0
COMMAND_SECONDS = 120.0
READ_AHEAD_KB = "1024"
PASSTHROUGH_AFTER = 0.2
"""Seconds; whoever has just opened a session wants something else first."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a view is mounted: a private directory, the mountpoint in it, a bind elsewhere."""

    directory: Path
    enter_uid: int
    """Who may enter the directory besides root."""
    at: str | None = None
    at_ino: int = 0
    at_uid: int = 0
    kernel: bool = False
    """The view is the kernel's overlayfs, not FUSE."""
    names: tuple[str, ...] = ()
    """Of the roots, where there are several."""

    @property
    def mountpoint(self) -> Path:
        return self.directory / "mnt"

    @property
    def written(self) -> list[Path]:
        """The top of each file system that holds what was written."""
        if self.kernel and self.names:
            return [self.mountpoint / name for name in self.names]
        return [self.mountpoint]


@dataclass(slots=True)
class Hold:
    """A serving view; made by ``open_hold``."""

    place: Place
    channel: Channel
    ended: trio.Event = field(default_factory=trio.Event)
    _waiting: dict[int, tuple[trio.Event, list[dict[str, Any]]]] = field(default_factory=dict)
    _count: int = 0
    # A worker that its owner has stopped holds up this view's thread, not everybody's.
    _room: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    async def call(self, cmd: str, *, fds: Sequence[int] = (), **options: Any) -> dict[str, Any]:
        """Send a command (and descriptors) to the worker and wait for its answer."""
        if self.ended.is_set():
            raise ViewFailed("the view's worker has ended")
        self._count += 1
        number = self._count
        answered = trio.Event()
        answer: list[dict[str, Any]] = []
        self._waiting[number] = (answered, answer)
        try:
            self.channel.send({"cmd": cmd, "id": number, **options})
            for fd in fds:
                self.channel.send_fd(fd)
            with trio.move_on_after(COMMAND_SECONDS):
                await answered.wait()
        finally:
            del self._waiting[number]
        if not answer:
            raise ViewFailed(f"the view's worker did not answer {cmd!r}")
        if "error" in answer[0]:
            raise from_wire(answer[0]["error"])
        return answer[0]

    async def flush(self) -> int:
        """Bring everything written through the view into the layer.

        Returns the worker's count of changing operations so far.
        """
        try:
            with trio.fail_after(COMMAND_SECONDS):
                for top in self.place.written:
                    await trio.to_thread.run_sync(
                        _syncfs, str(top), abandon_on_cancel=True, limiter=self._room
                    )
        except trio.TooSlowError as error:
            raise ViewFailed("the view does not answer") from error
        except OSError as error:
            raise ViewFailed(f"the view cannot be written back: {error.strerror}") from error
        reply = await self.call("sync")
        return int(reply["mutations"])

    async def read(self) -> None:
        """Take the worker's messages until it ends."""
        try:
            while (message := await self.channel.receive()) is not None:
                waiting = self._waiting.get(message.get("id", 0))
                if waiting is not None:
                    waiting[1].append(message)
                    waiting[0].set()
        except GoexfsError as error:
            log.error("view worker failed", error=error.message, notes=_notes(error))
        finally:
            self.ended.set()
            for answered, _ in self._waiting.values():
                answered.set()


def _notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def _syncfs(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.syncfs(fd)
    finally:
        os.close(fd)


@asynccontextmanager
async def open_hold(workers: Workers, spec: WorkerSpec, place: Place) -> AsyncIterator[Hold]:
    """Mount the view that ``spec`` describes at ``place`` and serve it during the block.

    Raises NotFound or Denied for a root that cannot be opened, ViewFailed for the rest.
    """
    make_place(place)
    served_by = overlay_worker if place.kernel else view_worker
    watching = -1
    try:
        async with open_channel(
            workers, served_by.entry, spec, prepare=served_by.prepare
        ) as channel:
            await _ready(channel, place)
            if place.at is not None:
                bind_at(place)
            hold = Hold(place, channel)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold.read)
                if spec.options.get("passthrough") and not place.kernel:
                    nursery.start_soon(_pass_through, hold, spec)
                yield hold
                watching = await _stop(hold)
                nursery.cancel_scope.cancel()
    finally:
        clear_place(place)
        if watching >= 0:
            threading.Thread(target=os.close, args=(watching,), daemon=True).start()


async def _ready(channel: Channel, place: Place) -> None:
    with trio.move_on_after(START_SECONDS):
        await channel.expect("ready")
        if not place.kernel:
            await trio.to_thread.run_sync(_read_ahead, place, abandon_on_cancel=True)
        return
    raise ViewFailed("the view did not come up in time")


def _read_ahead(place: Place) -> None:
    """Let the kernel read files in pieces of 1 MiB: an eighth of the requests.

    The handshake between kernel and view can only lower it, so this comes after: the stat
    waits for that.  Where /sys is read-only it stays as it is.
    """
    with contextlib.suppress(OSError):
        device = os.stat(place.mountpoint).st_dev
        name = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        Path(name).write_text(READ_AHEAD_KB)


async def _pass_through(hold: Hold, spec: WorkerSpec) -> None:
    """Let files be open past the view; nobody waits for that, and it serves without it too."""
    await trio.sleep(PASSTHROUGH_AFTER)
    fd = backing.serve(Path(spec.layers["live"]), spec.owner)
    try:
        await hold.call("passthrough", fds=[fd])
    except GoexfsError as error:
        log.info("no passthrough", error=error.message)
    finally:
        os.close(fd)


async def _stop(hold: Hold) -> int:
    """Have the view end itself; returns a descriptor that is to be closed after it, or -1."""
    watching = -1
    with trio.move_on_after(5, shield=True), contextlib.suppress(GoexfsError):
        if not hold.place.kernel:
            watching = await _watching(hold)
        await hold.call("stop")
    return watching


async def _watching(hold: Hold) -> int:
    """A duplicate of the worker's inotify instance.

    The kernel takes some 15 ms to close one that watches, and the worker's end would wait for that.
    """
    number = int((await hold.call("watching"))["fd"])
    with contextlib.suppress(OSError):  # where it may not be traced, that is waited for
        if number >= 0:
            return kernel.pidfd_getfd(hold.channel.pid, number)
    return -1


def make_place(place: Place) -> None:
    """The directories for a view; whatever a crash left mounted there goes first."""
    if place.at is not None or os.path.lexists(place.directory):
        clear_place(place)
    place.directory.mkdir(mode=0o700)
    os.chown(place.directory, place.enter_uid, -1)
    place.mountpoint.mkdir(mode=0o700)


def clear_place(place: Place) -> None:
    """Unmount and remove a view's directories; quiet when there is nothing."""
    if place.at is not None:
        unmount_all(place.at)
    unmount_all(str(place.mountpoint))
    for directory in (place.mountpoint, place.directory):
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("mount directory stays", path=str(directory), error=error.strerror)


def unmount_all(path: str) -> None:
    """Detach every goexfs mount stacked at ``path``."""
    for _ in range(view_mounts().count(path)):
        try:
            kernel.umount(path, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                log.warning("cannot unmount", path=path, error=error.strerror)
            return


def view_mounts() -> list[str]:
    """Mount points of all goexfs views: what has the source ``goexfs``, or is a FUSE mount of
    ours below another source."""
    found = []
    for point, kind, source in kernel.mounts():
        fuse = kind.startswith(b"fuse") and b"goexfs" in source
        if fuse or (kind in (b"overlay", b"tmpfs") and source == b"goexfs"):
            found.append(point)
    return found


def bind_at(place: Place) -> None:
    """Show the view at the user's own directory too.

    The path was made canonical by the owner; here it must lead, without any symlink, to that
    very inode, which must be the owner's: root mounts over nothing else.
    """
    assert place.at is not None
    try:
        fd = kernel.openat2(
            kernel.AT_FDCWD,
            os.fsencode(place.at),
            os.O_PATH | os.O_DIRECTORY,
            resolve=kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS,
        )
    except OSError as error:
        raise ViewFailed(
            f"the mountpoint {display(place.at)} cannot be opened: {error.strerror}"
        ) from error
    try:
        st = os.fstat(fd)
        if (st.st_ino, st.st_uid) != (place.at_ino, place.at_uid):
            raise ViewFailed(f"the mountpoint {display(place.at)} is not what it was")
        # Only the kernel's view of several roots has mounts in it.
        flags = kernel.MS_BIND | (kernel.MS_REC if place.kernel else 0)
        kernel.mount(str(place.mountpoint), f"/proc/self/fd/{fd}", None, flags, None)
    except OSError as error:
        raise ViewFailed(
            f"the view cannot be shown at {display(place.at)}: {error.strerror}"
        ) from error
    finally:
        os.close(fd)
