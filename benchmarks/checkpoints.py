"""Do a thousand checkpoints slow anything down?  Also: a step with one change in a big layer.

    sudo PYTHONPATH=tests .venv/bin/python benchmarks/checkpoints.py [CHECKPOINTS] [FILES]

A private daemon on a store image in a temporary directory; every figure is the best of a few.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goexfs
from daemons import Daemon


def timed(action: Callable[[], Any], times: int = 9) -> float:
    """Milliseconds, the best."""
    samples = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        samples.append(1000 * (time.perf_counter() - started))
    return min(samples)


def row(what: str, few: float, many: float) -> None:
    print(f"{what:<34} {few:9.1f} {many:9.1f}")


class Work:
    def __init__(self, client: goexfs.Client, base: Path) -> None:
        base.mkdir()
        self.client, self.session = client, client.mount(base)
        self.view = Path(self.session.mountpoint)
        self.count = 0

    def touch(self) -> None:
        self.count += 1
        (self.view / "file").write_text(f"{self.count}")

    def checkpoint(self) -> None:
        self.touch()
        self.client.checkpoint(session=self.session)

    def figures(self) -> dict[str, float]:
        client, session = self.client, self.session
        last = self.client.log(session).session.checkpoint
        found = {
            "checkpoint": timed(self.checkpoint),
            "status": timed(lambda: client.status(session)),
            "diff": timed(lambda: client.diff(session=session)),
            "diff of two checkpoints": timed(lambda: client.diff(session=session, from_=0, to=1)),
            "run true": timed(lambda: client.run(["true"], session=session)),
            "log": timed(lambda: client.log(session)),
            "rewind": timed(lambda: client.rewind(last, session=session)),
            "fork": 0.0,
            "discard of a fork": 0.0,
        }
        forks: list[goexfs.SessionInfo] = []
        found["fork"] = timed(lambda: forks.append(client.fork(session, checkpoint=1)))
        found["discard of a fork"] = timed(lambda: client.discard(forks.pop()))
        return found


def checkpoints(daemon: Daemon, client: goexfs.Client, top: Path, number: int) -> None:
    work = Work(client, top / "many")
    work.checkpoint()
    few = work.figures()
    started = time.perf_counter()
    while client.status(work.session).checkpoints < number:
        for _ in range(20):
            work.checkpoint()
    each = 1000 * (time.perf_counter() - started) / number
    many = work.figures()
    print(f"milliseconds with a few, and with {number} checkpoints ({each:.1f} for each)")
    for what, value in few.items():
        row(what, value, many[what])
    started = time.perf_counter()
    daemon.restart()
    restart = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    client.discard(work.session)
    discard = 1000 * (time.perf_counter() - started)
    print(f"restart of the daemon with them {restart:.0f}, discard of all {discard:.0f}")


def big_layer(client: goexfs.Client, top: Path, files: int) -> None:
    work = Work(client, top / "big")
    for number in range(files):
        if number % 100 == 0:
            (work.view / f"{number // 100}").mkdir()
        (work.view / f"{number // 100}" / f"{number}").write_text("x")
    client.checkpoint(session=work.session)
    step = client.run(["sh", "-c", "echo 1 > 0/0"], session=work.session)
    steps = timed(lambda: client.run(["sh", "-c", "echo 1 >> 0/0"], session=work.session), 5)
    alone = timed(lambda: client.diff(session=work.session, step=step.step), 3)
    whole = timed(lambda: client.diff(session=work.session), 3)
    print(f"in a layer of {files} files: a step that changes one {steps:.0f},", end=" ")
    print(f"diff of that step {alone:.0f}, diff of all {whole:.0f}")
    client.discard(work.session)


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    files = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    top = Path(tempfile.mkdtemp(prefix="goexfs-checkpoints-"))
    top.chmod(0o755)
    daemon = Daemon(top, "[store]\nsize = 4294967296\n")
    daemon.start()
    try:
        client = goexfs.connect(daemon.socket)
        checkpoints(daemon, client, top, number)
        big_layer(client, top, files)
    finally:
        daemon.stop()
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
