"""What a failing call on the store means to a user: OSError becomes one of our errors.

A full store is a Limit, a read-only or unreadable one (btrfs goes read-only when it finds itself
damaged) a StoreFailed that names the way out; anything else is a StoreFailed with the call's
own words.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from goexfs.errors import GoexfsError, InvalidState, Limit, NotFound, StoreFailed

FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_BROKEN = frozenset((errno.EROFS, errno.EIO, errno.EUCLEAN, errno.ENXIO, errno.ESTALE))

FULL_HINT = "discard sessions you no longer need, or enlarge the store (store.size in goexfsd.toml)"
BROKEN_HINT = "look at the kernel log (dmesg), then stop goexfsd and check the store: "


@contextmanager
def told_as(what: str, where: str) -> Iterator[None]:
    """Errors of the body, told as "``what`` failed" of the store at ``where``."""
    try:
        yield
    except GoexfsError:
        raise
    except OSError as error:
        raise translate(error, what, where) from error


def translate(error: OSError, what: str, where: str) -> GoexfsError:
    """The error a user sees for ``error``."""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return Limit(f"the store is full: {what} failed", hint=FULL_HINT)
    if error.errno in _BROKEN:
        return StoreFailed(
            f"the store at {where} is damaged or its disk fails: {what}: {reason}",
            hint=BROKEN_HINT + "btrfs check --readonly IMAGE",
        )
    if error.errno == errno.ENOENT:
        return NotFound(f"{what} failed: it is not in the store")
    if error.errno == errno.EEXIST:
        return InvalidState(f"{what} failed: it is in the store already")
    return StoreFailed(f"{what} failed in the store at {where}: {reason}")
