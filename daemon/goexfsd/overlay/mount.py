"""Mounting the kernel's overlayfs over a session's roots, and the top directory it needs.

The lower directories are opened with the owner's rights, along the paths the owner named, so that
no symlink race can bring in what the owner could not reach; root then mounts exactly what was
opened.  overlayfs itself checks each access with the caller's rights, as any file system does.

``userxattr`` makes the kernel use the layer's own ``user.overlay.`` dialect; it turns off
redirects, metadata-only copy-up and the hard-link index.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from goexfs.errors import Unsupported, ViewFailed
from goexfsd import kernel
from goexfsd.layer.format import UPPER
from goexfsd.worker import WorkerSpec, open_lower, open_root, open_top

SCRATCH = b"kernel"
"""The layer's directory that overlayfs works in, one below it for each root."""

MS_POSIXACL = 1 << 16
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")


def mount(spec: WorkerSpec) -> None:
    """As root: mount every root's overlay at or below ``spec.options["mountpoint"]``.

    Raises NotFound or Denied for a root, Unsupported where the kernel has no overlayfs.
    """
    owner = spec.owner
    top = str(spec.options["mountpoint"])
    layer = os.open(spec.layers["live"], _DIR)
    try:
        if len(spec.roots) > 1:
            kernel.mount("goexfs", top, "tmpfs", _flags(spec), "mode=0755,size=64k")
        for root in spec.roots:
            top_fd = open_top(root)
            with kernel.eyes_of(owner.uid, owner.gid, owner.groups):
                lower = open_root(root) if top_fd is None else open_lower(root, top_fd)
            try:
                target = top if len(spec.roots) == 1 else f"{top}/{root.name}"
                Path(target).mkdir(exist_ok=True)
                name = os.fsencode(root.name)
                upper = kernel.open_beneath(layer, UPPER + b"/" + name, _DIR)
                try:
                    _mount_one(spec, root.index, layer, lower, upper, target)
                finally:
                    os.close(upper)
            finally:
                os.close(lower)
    finally:
        os.close(layer)


def _mount_one(
    spec: WorkerSpec, index: int, layer: int, lower: int, upper: int, target: str
) -> None:
    work, fresh = _scratch(layer, index)
    try:
        if fresh:
            _dress_top(lower, upper)
        paths = (f"/proc/self/fd/{fd}" for fd in (lower, upper, work))
        data = "lowerdir={},upperdir={},workdir={},userxattr".format(*paths)
        kernel.mount("goexfs", target, "overlay", _flags(spec), data)
    except OSError as error:
        if error.errno == 19:  # ENODEV
            raise Unsupported(
                "this kernel has no overlayfs", hint="modprobe overlay, or mount with --view fuse"
            ) from error
        raise ViewFailed(
            f"the kernel could not mount the view at {target}: {error.strerror}",
            hint="mount with --view fuse; the kernel's log says what it missed",
        ) from error
    finally:
        os.close(work)


def _flags(spec: WorkerSpec) -> int:
    flags = 0 if spec.options.get("suid") else kernel.MS_NOSUID
    return flags | (0 if spec.options.get("dev") else kernel.MS_NODEV)


def _scratch(layer: int, index: int) -> tuple[int, bool]:
    """A root's scratch directory, and whether it was made just now."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(SCRATCH, 0o700, dir_fd=layer)
    above = kernel.open_beneath(layer, SCRATCH, _DIR)
    try:
        name = b"%d" % index
        fresh = False
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
            fresh = True
        return kernel.open_beneath(above, name, _DIR), fresh
    finally:
        os.close(above)


def _dress_top(lower: int, upper: int) -> None:
    """Give the upper top directory the mode, owner, times and ACLs of the root.

    overlayfs shows the upper's attributes for a merged directory, so for the top from the start.
    """
    st = os.fstat(lower)
    os.chown(upper, st.st_uid, st.st_gid)
    os.chmod(upper, stat.S_IMODE(st.st_mode))
    for name in _ACLS:
        with contextlib.suppress(OSError):
            os.setxattr(upper, name, os.getxattr(f"/proc/self/fd/{lower}", name))
    os.utime(upper, ns=(st.st_atime_ns, st.st_mtime_ns))
