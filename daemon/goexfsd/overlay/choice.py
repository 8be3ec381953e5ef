"""Which view a session gets: the rule behind ``--view``, and what the kernel's cannot do."""

from __future__ import annotations

from typing import Literal

from goexfs.errors import Unsupported

Wanted = Literal["fuse", "kernel", "auto"]

LACKS = (
    "renaming a directory that was there before copies it, file by file (EXDEV)",
    "a file of several names is copied up under one of them, and no longer linked to the others",
    "what the base's own owner changes meanwhile may show late, or not at all; it is a conflict",
    "a script that passes its limit of layer bytes is ended, not told EDQUOT",
    "reads are not known, so no stale read is warned of",
    "no first version of a file is kept: edits on both sides are merged over a snapshot only",
    "a rewind or a partial commit mounts it anew: who stands inside keeps the old one",
)
"""What the FUSE view does and the kernel's does not, one sentence each."""


def use_kernel(wanted: Wanted, *, of_root: bool, ruled: bool) -> bool:
    """Whether the session's view is to be the kernel's.

    ``auto`` takes it where all that was asked for holds in it: no session of root, whose scripts
    run as somebody else than the view's owner, and no path that is hidden, masked or read-only.
    Raises Unsupported where it was asked for and is not possible.
    """
    if wanted == "kernel" and of_root:
        raise Unsupported(
            "the kernel view is not possible for a session of root, whose scripts run as another"
            " user",
            hint="mount as an ordinary user, or with --view fuse",
        )
    if wanted == "kernel" and ruled:
        raise Unsupported(
            "the kernel view can hide, mask or protect no path inside it",
            hint="mount with --view fuse, or without those paths",
        )
    return wanted != "fuse" and not of_root and not ruled
