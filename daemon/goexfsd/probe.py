"""The owner's look at the paths of a ``mount`` request, in a worker with the owner's rights.

Resolves symlinks once and for all: from here on a root is its canonical path and inode.  The
daemon (root) never resolves a user's path itself; see ``docs/threat-model.md``.
"""

from __future__ import annotations

import os
import stat

from goexfs.errors import Denied, NotFound, Usage
from goexfs.names import display
from goexfsd.worker import Worker


def probe(worker: Worker) -> None:
    """Worker entry.  options: ``roots`` (absolute paths), ``at`` (path or None).

    Sends ``{"event": "probed", "roots": [[path, ino], ...], "at": [path, ino] | None}``.
    Raises NotFound, Usage or Denied with a sentence on the first path that will not do.
    """
    options = worker.spec.options
    roots = [_root(path) for path in options["roots"]]
    at = None if options["at"] is None else _mountpoint(options["at"])
    worker.send({"event": "probed", "roots": roots, "at": at})


def _canonical(path: str, what: str) -> tuple[str, os.stat_result]:
    if not os.path.isabs(path) or "\0" in path:
        raise Usage(f"{what} {display(path)} is not an absolute path")
    try:
        real = os.path.realpath(path, strict=True)
        return real, os.stat(real)
    except FileNotFoundError as error:
        raise NotFound(f"{what} {display(path)} does not exist") from error
    except NotADirectoryError as error:
        raise Usage(f"{what} {display(path)} is not a directory") from error
    except PermissionError as error:
        raise Denied(f"{what} {display(path)} cannot be reached: permission denied") from error
    except OSError as error:
        raise Usage(f"{what} {display(path)} cannot be used: {error.strerror}") from error


def _root(path: str) -> tuple[str, int]:
    real, st = _canonical(path, "the root")
    if not stat.S_ISDIR(st.st_mode):
        raise Usage(
            f"the root {display(path)} is not a directory", hint="name the directory that holds it"
        )
    if not os.access(real, os.R_OK | os.X_OK):
        raise Denied(
            f"the root {display(path)} is not readable for you",
            hint="check its permissions: listing and entering it must be allowed",
        )
    if real == "/":
        raise Usage(
            "the root cannot be / itself", hint="name the directories that scripts shall change"
        )
    return real, st.st_ino


def _mountpoint(path: str) -> tuple[str, int]:
    real, st = _canonical(path, "the mountpoint")
    if not stat.S_ISDIR(st.st_mode):
        raise Usage(f"the mountpoint {display(path)} is not a directory")
    if os.path.ismount(real):
        raise Usage(
            f"the mountpoint {display(path)} is in use: something is mounted there",
            hint="choose another empty directory",
        )
    if st.st_uid != os.geteuid():
        raise Denied(f"the mountpoint {display(path)} is not yours")
    try:
        entries = os.listdir(real)
    except PermissionError as error:
        raise Denied(f"the mountpoint {display(path)} is not readable for you") from error
    if entries:
        raise Usage(
            f"the mountpoint {display(path)} is not empty", hint="choose an empty directory"
        )
    return real, st.st_ino
