"""The embedded store: a sparse image file, formatted btrfs, loop-mounted.

* An image is made aside, formatted, synced and renamed into place: a half-made one is never
  taken for a store.
* Its superblock is read before it is attached, so that a foreign, cut-off or overwritten image
  is named as such, with the way out, rather than handed to the kernel.
* The loop device is set to clear itself, so unmounting frees it even if we are gone by then; a
  mount that a killed daemon left is found again and used.
* Whoever has the image open for use holds a lock on it; a second user is refused.

It knows nothing of sessions.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from goexfs.errors import InvalidState, Limit, StoreFailed, Unsupported
from goexfsd import kernel
from goexfsd.store import mounts
from goexfsd.store.marker import sync_directory
from goexfsd.store.settings import MIB, SMALLEST, default_size

_SUPERBLOCK = 64 * 1024
_MAGIC = b"_BHRfS_M"
_FSID = slice(32, 48)  # offsets in struct btrfs_super_block
_MAGIC_AT = slice(64, 72)
_TOTAL_BYTES = struct.Struct("<112xQ")
_MIXED_BELOW = 256 * MIB  # separate data and metadata groups waste a small file system
_LEAST_RESIZE = 256 * MIB  # the kernel refuses to resize to less
_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_NOATIME
# What a discarded session held goes back to the host's disk.  And no change of names becomes
# durable before data that was written earlier: the origins log before what it speaks of.
OPTIONS = "discard=async,flushoncommit"


@dataclass(frozen=True, slots=True)
class Superblock:
    fsid: str
    total_bytes: int


def create(image: Path, size_bytes: int | None) -> str:
    """Make and format a new image; returns its file system's UUID.  Atomic against a crash."""
    size = size_bytes or default_size(shutil.disk_usage(image.parent).free)
    if size < SMALLEST:
        raise Limit(
            f"a store of {size // MIB} MiB is too small",
            hint=f"give it at least {SMALLEST // MIB} MiB (store.size in goexfsd.toml)",
        )
    aside = image.with_name(image.name + ".new")
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fsid = str(uuid.uuid4())
    try:
        os.truncate(fd, size)
        _format(aside, size, fsid)
        os.fsync(fd)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    aside.rename(image)
    sync_directory(image.parent)
    return fsid


def _format(image: Path, size: int, fsid: str) -> None:
    mixed = ["--mixed", "-m", "single", "-d", "single"] if size < _MIXED_BELOW else []
    run(["mkfs.btrfs", "-q", "-K", "-L", "goexfs", "-U", fsid, *mixed, str(image)], "btrfs-progs")


def run(argv: list[str], package: str) -> str:
    """Run one of the system's tools; its output.  StoreFailed with its last words."""
    try:
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise Unsupported(
            f"{argv[0]} is not installed", hint=f"apt-get install {package}"
        ) from error
    if done.returncode != 0:
        words = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise StoreFailed(f"{argv[0]} failed: {words[-1].strip() if words else done.returncode}")
    return done.stdout.strip()


def lock(image: Path) -> int:
    """Open the image and hold it for as long as the descriptor lives."""
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    if not kernel.lock_exclusive(fd, wait=False):
        os.close(fd)
        raise InvalidState(
            f"the store image {image} is in use by another goexfsd",
            hint="stop that daemon first, or give this one an image of its own",
        )
    return fd


def examine(image: Path, fd: int, fsid: str | None) -> Superblock:
    """The image's superblock, checked against its size and the UUID that is expected."""
    data = os.pread(fd, 4096, _SUPERBLOCK)
    if len(data) < 4096 or data[_MAGIC_AT] != _MAGIC:
        raise StoreFailed(
            f"the store image {image} is damaged: no btrfs superblock in it",
            hint=f"try: btrfs rescue super-recover -v {image}; otherwise {_restore(image)}",
        )
    (total,) = _TOTAL_BYTES.unpack_from(data)
    found = Superblock(str(uuid.UUID(bytes=data[_FSID])), total)
    if fsid is not None and found.fsid != fsid:
        raise StoreFailed(
            f"the image {image} is not this daemon's store (it is {found.fsid}, not {fsid})",
            hint="put the original image back in its place",
        )
    size = os.fstat(fd).st_size
    if size < total:
        raise StoreFailed(
            f"the store image {image} is cut off: {size} of {total} bytes are left",
            hint=_restore(image),
        )
    return found


def missing(image: Path, marker: Path) -> StoreFailed:
    """The error for an image that was there once."""
    hint = _restore(image) + (
        f"; to give up its open sessions and undo history for good, remove {marker} "
        "and the catalog beside it, and start again"
    )
    device = next((dev for dev, file in mounts.loops() if file == f"{image} (deleted)"), None)
    if device is not None:
        hint = f"it was deleted but is still attached: cp --sparse=always {device} {image}"
    return StoreFailed(f"the store image {image} is missing", hint=hint)


def _restore(image: Path) -> str:
    return f"restore {image} from a backup"


def attach(image: Path, target: Path) -> None:
    """Mount the image at ``target`` unless it is mounted there already."""
    device = mounts.loop_of(image)
    if device is not None:
        elsewhere = [at for at in mounts.mounted_at(device) if at != str(target)]
        if elsewhere:
            raise InvalidState(
                f"the store image {image} is mounted at {elsewhere[0]}",
                hint=f"umount {elsewhere[0]}",
            )
        if str(target) in mounts.mounted_at(device):
            return
    if os.path.ismount(target):
        raise StoreFailed(
            f"something else is mounted at {target}", hint=f"look at it, then: umount {target}"
        )
    device = _attach_loop(image)
    try:
        _mount(image, device, target)
    finally:
        # While mounted this only asks the device to clear itself at unmount.
        subprocess.run(["losetup", "-d", device], check=False, capture_output=True)


def _attach_loop(image: Path) -> str:
    argv = ["losetup", "--find", "--show", "--nooverlap"]
    try:
        # Direct I/O: no second copy of everything in the page cache.
        return run([*argv, "--direct-io=on", str(image)], "util-linux")
    except StoreFailed:
        pass
    try:
        return run([*argv, str(image)], "util-linux")
    except StoreFailed as error:
        raise StoreFailed(
            f"no loop device can be had for the store: {error.message}",
            hint="modprobe loop; or let the store be a directory on a btrfs (store in "
            "goexfsd.toml)",
        ) from error


def _mount(image: Path, device: str, target: Path) -> None:
    try:
        kernel.mount(device, str(target), "btrfs", _FLAGS, OPTIONS)
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise Unsupported(
                "this kernel has no btrfs", hint="modprobe btrfs, or install a kernel with it"
            ) from error
        raise StoreFailed(
            f"the store image {image} cannot be mounted: {error.strerror}; it is probably damaged",
            hint=f"look at it with: btrfs check --readonly {image}; save what is in it with: "
            f"btrfs restore {image} DIRECTORY; otherwise {_restore(image)}",
        ) from error


def grow(image: Path, fd: int, target: Path, size_bytes: int) -> None:
    """Enlarge the mounted image to ``size_bytes``; smaller is left alone."""
    if size_bytes <= os.fstat(fd).st_size:
        return
    size_bytes = max(size_bytes, _LEAST_RESIZE)
    os.truncate(fd, size_bytes)
    os.fsync(fd)
    device = mounts.loop_of(image)
    if device is None:
        raise StoreFailed(f"the store image {image} is not attached any more")
    run(["losetup", "--set-capacity", device], "util-linux")
    run(["btrfs", "filesystem", "resize", "max", str(target)], "btrfs-progs")
