"""The lane's compiled part (``hotpath/``), where goexfs was built with it."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Protocol

from goexfsd.view.attributes import OURS
from goexfsd.view.direct import Direct
from goexfsd.view.node import CREATED, ROOT_SHIFT, Node
from goexfsd.view.places import FRESH_NS, STAGING
from goexfsd.view.through import WORTH
from goexfsd.view.tree import Tree

log = logging.getLogger("goexfsd.view")


KNOWN = (STAGING, FRESH_NS, OURS, WORTH, CREATED, ROOT_SHIFT)
"""What both parts have to agree on."""


class Take(Protocol):
    """Wait so many milliseconds for a request that is not answered yet.

    Returns its length in the buffer; 0 if none came; None if so many requests were answered
    meanwhile that others should have their turn.  Raises OSError (ENODEV: the mount is no more).
    """

    def __call__(self, moment: int, most: int, /) -> int | None: ...


def load() -> ModuleType:
    """The compiled module.  Raises ImportError where there is none, or one of another version."""
    module = importlib.import_module("goexfsd.view._hot")
    if module.KNOWN != KNOWN:
        raise ImportError("it was compiled of another version of goexfs")
    return module


def take(view: Direct, fuse_fd: int, buffer: memoryview) -> Take | None:
    """What answers the plain requests that come from ``fuse_fd``, and puts the others into
    ``buffer``; None where that cannot be done, or the view has rules."""
    if type(view.tree) is not Tree:
        return None
    try:
        made: Take = load().Hot(view, fuse_fd, buffer, Node(0, 0, 0, None, b"")).run
    except (ImportError, TypeError) as error:
        log.info("requests are answered in Python alone: %s", error)
        return None
    return made
