"""Mounting: /dev/fuse opened and mounted by ourselves, so that we choose every flag.

libfuse would not pass MS_POSIXACL, which is what makes the kernel leave the umask to us: only
so can a directory's default ACL stand in for it, as on a local disk.
"""

from __future__ import annotations

import os

from goexfs.errors import Unsupported, ViewFailed
from goexfsd import kernel
from goexfsd.worker import WorkerSpec

MS_POSIXACL = 1 << 16


def mount(spec: WorkerSpec) -> int:
    """Mount the view of a session; returns the descriptor that its requests come from."""
    options = spec.options
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unsupported(
            f"/dev/fuse cannot be opened: {error.strerror}",
            hint="load the fuse module: modprobe fuse",
        ) from error
    flags = MS_POSIXACL
    flags |= 0 if options.get("suid") else kernel.MS_NOSUID
    flags |= 0 if options.get("dev") else kernel.MS_NODEV
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    target = str(options["mountpoint"])
    try:
        kernel.mount("goexfs", target, "fuse.goexfs", flags, data)
    except OSError as error:
        os.close(fd)
        raise ViewFailed(f"the view could not be mounted at {target}: {error.strerror}") from error
    return fd
