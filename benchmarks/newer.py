"""What a step changed in a large layer: told by generations, and by a walk of both checkpoints.

    sudo PYTHONPATH=tests .venv/bin/python benchmarks/newer.py [FILES...]

Layers made by hand on a loop btrfs in a temporary directory, every file of which is a copy of one
of the base; milliseconds of processor time (and of the clock), the search by the daemon included.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import views
from goexfsd.layer.origins import Identity, Kind, Record, encode
from layering import Root
from sincecheck import Kept, between

Times = tuple[float, float]
"""Processor, clock."""


def fill(kept: Kept, files: int) -> None:
    """A base of so many files, each copied up."""
    upper = kept.layer / "upper" / "r"
    device = kept.base.stat().st_dev
    with open(kept.layer / "origins", "ab") as log:

        def copied(name: str) -> None:
            identity = Identity.of(os.stat(kept.base / name), device)
            ino = os.stat(upper / name).st_ino
            log.write(encode(Record(Kind.COPY, 0, 1, ino, name.encode(), identity)))

        for number in range(files):
            directory = f"{number // 100}"
            if number % 100 == 0:
                for side in (kept.base, upper):
                    (side / directory).mkdir()
                copied(directory)
            for side, text in ((kept.base, "x"), (upper, "xy")):
                (side / directory / f"{number}").write_text(text)
            copied(f"{directory}/{number}")


def change(kept: Kept, files: int, count: int) -> None:
    """As a step: so many files, in as many directories as may be."""
    for each in range(count):
        number = each * 7 % files
        path = kept.layer / "upper" / "r" / f"{number // 100}" / f"{number}"
        path.write_text(f"{time.time_ns()}")
    kept.keep()


def timed(action: Callable[[], object], times: int) -> Times:
    found = []
    for _ in range(times):
        gc.collect()
        gc.disable()
        clock, processor = time.perf_counter(), time.process_time()
        action()
        found.append((time.process_time() - processor, time.perf_counter() - clock))
        gc.enable()
    processor, clock = (1000 * statistics.median(each) for each in zip(*found, strict=True))
    return processor, clock


def compare(kept: Kept, asked: list[bool] | None, wanted: int) -> Callable[[], None]:
    old, new = kept.snapshots[-2:]

    def run() -> None:
        assert len(between(old, new, kept.roots, kept.base, asked=asked)) == wanted

    return run


def measure(home: Path, files: int) -> None:
    (home / "base").mkdir(parents=True)
    layer = views.create_layer(home / "layer", views.ROOT, ["r"])
    kept = Kept(layer, [Root()], home / "base")
    fill(kept, files)
    kept.keep()
    for count in (0, 1, 100):
        change(kept, files, count)
        told, walked = timed(compare(kept, [], count), 5), timed(compare(kept, None, count), 1)
        row = "{:10.1f} {:10.1f}     {:9.1f} {:10.1f}".format(*told, *walked)
        print(f"{files:>9,} {count:>9}   {row}", flush=True)
    kept.drop()


def main() -> None:
    sizes = list(map(int, sys.argv[1:])) or [1_000, 20_000, 100_000]
    top = Path(tempfile.mkdtemp(prefix="goexfs-newer-"))
    try:
        with views.store(top, 8 << 30) as at:
            print("    layer   changed   generations: cpu, clock       walk: cpu, clock")
            for files in sizes:
                measure(at / f"{files}", files)
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
