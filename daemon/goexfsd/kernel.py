"""Linux calls that Python's ``os`` lacks: openat2, renameat2, file handles, FICLONE, mount.

The only ctypes and fcntl in the tree.  Every function raises OSError with the call's errno.
It knows nothing of layers, views or sessions.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

ATTR_IMMUTABLE = 0x10
ATTR_APPEND = 0x20
ATTR_MOUNT_ROOT = 0x2000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_NOATIME = 1024
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_FS_IOC_GETFLAGS = 0x80086601
_FS_CASEFOLD_FL = 0x40000000
_FICLONE = 0x40049409
_SNAP_DESTROY_V2 = 0x5000943F  # btrfs.h: _IOW(0x94, 63, struct btrfs_ioctl_vol_args_v2)
_SUBVOL_SPEC_BY_ID = 1 << 4
_STATX_MNT_ID = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_MAX_HANDLE = 128
_SYS_OPENAT2 = 437
_SYS_PIDFD_GETFD = 438
_SOL_SOCKET = 1
_SO_PEERGROUPS = 59
_SYS_SETGROUPS = {"x86_64": 116, "i686": 206, "ppc64le": 81, "s390x": 206}  # else 159
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


_Statx = ctypes.c_char * 256
_LOOK = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
_EXTRA = struct.Struct("<8xQ128xQ")


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def _check(result: int, path: bytes | str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


def openat2(dir_fd: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); the descriptor is close-on-exec.  ``resolve`` takes the RESOLVE_* bits."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        result = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if result < 0 and ctypes.get_errno() in (errno.EINTR, errno.EAGAIN):
            continue  # EAGAIN: a rename raced with the resolution (man openat2)
        return int(_check(result, path))


def open_beneath(dir_fd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` below ``dir_fd``: no symlink, magic link or ``..`` is ever followed."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    return openat2(dir_fd, path or b".", flags | os.O_NOFOLLOW, mode, resolve)


def open_dir_beneath(dir_fd: int, path: bytes) -> int:
    """An O_PATH descriptor of the directory ``path`` below ``dir_fd``, of any depth.

    Paths beyond PATH_MAX are walked in pieces.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    if len(path) < 4000:
        return open_beneath(dir_fd, path, flags)
    here = os.dup(dir_fd)
    try:
        for piece in _pieces(path):
            deeper = open_beneath(here, piece, flags)
            os.close(here)
            here = deeper
    except BaseException:
        os.close(here)
        raise
    return here


def _pieces(path: bytes) -> list[bytes]:
    pieces: list[bytes] = []
    current = b""
    for name in path.split(b"/"):
        if current and len(current) + len(name) > 3000:
            pieces.append(current)
            current = b""
        current = current + b"/" + name if current else name
    return [*pieces, current]


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int = 0) -> None:
    """renameat2(2) with the RENAME_* bits."""
    _check(_libc.renameat2(old_dir, old, new_dir, new, ctypes.c_uint(flags)), old)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with the FALLOC_FL_* bits."""
    _check(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def linkat_fd(fd: int, new_dir: int, new: bytes) -> None:
    """Give the inode behind ``fd`` (O_TMPFILE or O_PATH) a name, through /proc/self/fd."""
    os.link(f"/proc/self/fd/{fd}".encode(), new, dst_dir_fd=new_dir, follow_symlinks=True)


def statx_extra(dir_fd: int, name: bytes) -> tuple[int, int]:
    """The ATTR_* bits of an entry and the id of the mount it lies on, by statx(2).

    Never follows a symlink; an empty name asks about ``dir_fd`` itself.
    """
    buffer = _Statx()
    if _libc.statx(dir_fd, name, _LOOK, _STATX_MNT_ID, buffer) < 0:
        _check(-1, name)
    return _EXTRA.unpack_from(buffer)


def device_of(path: str) -> int:
    """The device that a path, followed, lies on, as far as the kernel knows: a file system that
    does not answer (FUSE, NFS) is not asked."""
    buffer = (ctypes.c_char * 256)()
    flags = ctypes.c_int(_AT_STATX_DONT_SYNC)
    _check(_libc.statx(AT_FDCWD, os.fsencode(path), flags, ctypes.c_uint(0), buffer), path)
    return os.makedev(*struct.unpack_from("<II", buffer, 136))


class _Handle(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint),
        ("kind", ctypes.c_int),
        ("data", ctypes.c_ubyte * _MAX_HANDLE),
    )


def handle_of(fd: int) -> str:
    """What ``open_handle`` finds the file behind ``fd`` by, over reboots too (file handle)."""
    handle, mount = _Handle(size=_MAX_HANDLE), ctypes.c_int()
    result = _libc.name_to_handle_at(
        fd, b"", ctypes.byref(handle), ctypes.byref(mount), AT_EMPTY_PATH
    )
    _check(result)
    return f"{handle.kind}:{bytes(handle.data[: handle.size]).hex()}"


def open_handle(mount_fd: int, handle: str, flags: int) -> int:
    """Open by handle, on the mount of ``mount_fd``: whatever way leads there, if any still does.

    Needs root; ESTALE when it is gone.
    """
    kind, _, data = handle.partition(":")
    raw = bytes.fromhex(data)
    found = _Handle(size=len(raw), kind=int(kind), data=(ctypes.c_ubyte * _MAX_HANDLE)(*raw))
    return int(_check(_libc.open_by_handle_at(mount_fd, ctypes.byref(found), flags | os.O_CLOEXEC)))


def delete_subvolume(fd: int, number: int) -> None:
    """Delete the btrfs subvolume ``number`` of the file system of ``fd``, whatever its name."""
    request = struct.pack("<qQQ32xQ", 0, 0, _SUBVOL_SPEC_BY_ID, number)
    fcntl.ioctl(fd, _SNAP_DESTROY_V2, bytearray(request.ljust(4096, b"\0")))


def syncfs(fd: int) -> None:
    """Write back the whole file system that ``fd`` lies on."""
    _check(_libc.syncfs(fd))


IN_NAMES = 0x40 | 0x80 | 0x100 | 0x200  # MOVED_FROM, MOVED_TO, CREATE, DELETE
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_SELF_GONE = 0x400 | 0x800  # DELETE_SELF, MOVE_SELF
_IN_CHANGES = 0x2 | 0x4 | 0x8 | IN_NAMES | IN_SELF_GONE  # MODIFY, ATTRIB, CLOSE_WRITE
_IN_ONLYDIR = 0x01000000


def pidfd_getfd(pid: int, fd: int) -> int:
    """A duplicate of another process's descriptor.  OSError (EPERM) unless it may be traced,
    (EBADF, ESRCH) where there is none."""
    process = os.pidfd_open(pid)
    try:
        return int(_check(_libc.syscall(_SYS_PIDFD_GETFD, process, fd, 0)))
    finally:
        os.close(process)


def inotify_init() -> int:
    """A new inotify instance, non-blocking.  OSError (EMFILE) if the user has too many."""
    return int(_check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)))


def inotify_add_watch(fd: int, path: bytes) -> int:
    """Watch a directory for whatever changes it or what lies in it; the watch's number, the same
    for the same directory.  OSError (EACCES) unless it may be read, (ENOSPC) for one too many."""
    return int(_check(_libc.inotify_add_watch(fd, path, _IN_CHANGES | _IN_ONLYDIR), path))


def inotify_rm_watch(fd: int, number: int) -> None:
    _check(_libc.inotify_rm_watch(fd, number))


def file_system(fd: int) -> int:
    """The magic number of the file system that ``fd`` lies on (statfs(2))."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(fd, buffer))
    return int(ctypes.c_long.from_buffer(buffer).value)


def ficlone(dst_fd: int, src_fd: int) -> None:
    """Make ``dst_fd`` share all data of ``src_fd`` (reflink)."""
    fcntl.ioctl(dst_fd, _FICLONE, src_fd)


def folds_case(fd: int) -> bool:
    """Whether a directory takes names that differ in case only for one (ext4, f2fs)."""
    flags = bytearray(8)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
    except OSError:
        return False
    return bool(int.from_bytes(flags, sys.byteorder) & _FS_CASEFOLD_FL)


def lock_exclusive(fd: int, *, wait: bool) -> bool:
    """flock ``fd`` exclusively; False if somebody else holds it and ``wait`` is false."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def lock_shared(fd: int) -> None:
    """flock ``fd`` shared, waiting for it."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None) -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            source.encode(),
            os.fsencode(target),
            fstype.encode() if fstype else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        ),
        target,
    )


def umount(target: str | bytes, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


class Mount(NamedTuple):
    """A line of the mount table (proc_pid_mountinfo(5))."""

    number: int
    above: int
    """The number of the mount that it lies on."""
    device: str
    """``major:minor``."""
    top: str
    """The directory of the file system that is mounted."""
    point: str
    kind: bytes
    source: bytes


def mount_table(process: int | str = "self") -> Iterator[Mount]:
    """The mounts that a process sees."""
    with open(f"/proc/{process}/mountinfo", "rb") as table:
        for line in table:
            before, _, rest = line.rstrip(b"\n").partition(b" - ")
            kind, source = rest.split(b" ")[:2]
            number, above, device, top, point = before.split(b" ")[:5]
            numbers = int(number), int(above), device.decode()
            yield Mount(*numbers, _plain(top), _plain(point), kind, source)


def _plain(field: bytes) -> str:
    return os.fsdecode(field.decode("unicode_escape").encode("latin-1"))


def mounts() -> Iterator[tuple[str, bytes, bytes]]:
    """(mount point, file system type, source) of each mount that this namespace shows."""
    for mount in mount_table():
        yield mount.point, mount.kind, mount.source


def mounted_on() -> frozenset[int]:
    """The ids (``statx_extra``) of the mounts that other mounts lie on, somewhere in them."""
    return frozenset(mount.above for mount in mount_table())


def peer_groups(fd: int) -> tuple[int, ...]:
    """The supplementary groups of a unix socket's peer (SO_PEERGROUPS), of any number."""
    count = 64
    while True:
        groups = (ctypes.c_uint32 * count)()
        size = ctypes.c_uint32(ctypes.sizeof(groups))
        # Python's own getsockopt takes at most 1024 bytes.
        result = _libc.getsockopt(fd, _SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size))
        if result < 0 and ctypes.get_errno() == errno.ERANGE:
            count = size.value // 4 + 64
            continue
        _check(result)
        return tuple(groups[: size.value // 4])


@contextlib.contextmanager
def eyes_of(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """This thread alone accesses files as ``uid`` meanwhile (setfsuid(2), setgroups of the
    thread); needs root.  Capabilities over files are gone while uid is not 0.

    Nothing inside may start threads or processes.
    """
    kept = os.getgroups()
    _set_thread_groups(groups)
    try:
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        if _libc.setfsuid(uid) != uid:  # it reports no error otherwise (man setfsuid)
            raise PermissionError(errno.EPERM, "cannot take the user's identity")
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())
        _set_thread_groups(kept)


def _set_thread_groups(groups: Sequence[int]) -> None:
    """setgroups(2) of the calling thread only; libc's wrapper would change all threads."""
    array = (ctypes.c_uint32 * len(groups))(*groups)
    number = _SYS_SETGROUPS.get(os.uname().machine, 159)
    _check(_libc.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), array))


def no_new_privs() -> None:
    """prctl(PR_SET_NO_NEW_PRIVS)."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def drop_bounding_set() -> None:
    """Remove every capability from the bounding set (needs CAP_SETPCAP)."""
    for cap in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, cap, 0, 0, 0) < 0:
            break


_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


def keep_capabilities(mask: int) -> None:
    """Give up every capability that is not in ``mask``, in all of the thread's sets."""
    for cap in range(64):
        if not mask >> cap & 1 and _libc.prctl(_PR_CAPBSET_DROP, cap, 0, 0, 0) < 0:
            break
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    found = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, found))
    low, high = mask & 0xFFFFFFFF, mask >> 32
    effective, permitted, inheritable, *more = struct.unpack("6I", found.raw)
    kept = [effective & low, permitted & low, inheritable & low, *(each & high for each in more)]
    _check(_libc.capset(header, struct.pack("6I", *kept)))


def not_dumpable() -> None:
    """No core dump, and no ptrace or /proc/PID access by others of the same uid."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def die_with_parent(signal: int) -> None:
    """Ask for ``signal`` when the parent thread ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def leave_network() -> None:
    """unshare(CLONE_NEWNET): the calling thread goes into a network namespace of its own."""
    _check(_libc.unshare(_CLONE_NEWNET))


def raise_interface(socket_fd: int, name: bytes) -> None:
    """Set a network interface up, in the namespace that the socket was made in."""
    request = bytearray(struct.pack("16s24x", name))
    fcntl.ioctl(socket_fd, _SIOCGIFFLAGS, request)
    (flags,) = struct.unpack_from("h", request, 16)
    struct.pack_into("h", request, 16, flags | _IFF_UP)
    fcntl.ioctl(socket_fd, _SIOCSIFFLAGS, request)
