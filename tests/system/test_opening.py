"""Sessions that are opened at the same time: each has a name and a sandbox uid of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import goexfs
from daemons import Daemon

COUNT = 6


def test_sessions_of_root_opened_at_once_share_nothing(arena: Path, daemon: Daemon) -> None:
    bases = [arena / f"{number}" / "project" for number in range(COUNT)]
    for base in bases:
        base.mkdir(parents=True)

    def mount(base: Path) -> goexfs.SessionInfo:
        with goexfs.connect(str(daemon.socket)) as fs:
            return fs.mount(base)

    with ThreadPoolExecutor(COUNT) as pool:
        infos = list(pool.map(mount, bases))
    assert len({info.name for info in infos}) == COUNT
    views = [daemon.runtime / "views" / info.session for info in infos]
    assert len({view.stat().st_uid for view in views}) == COUNT
