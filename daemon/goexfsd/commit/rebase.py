"""Later."""

from __future__ import annotations

from collections.abc import Sequence

from goexfsd.commit.plan import Plan
from goexfsd.layer.changes import Root


def rebase(live: int, plan: Plan, roots: Sequence[Root], root_fds: Sequence[int]) -> None:
    raise NotImplementedError
