"""``benchmarks/soak``: mixed load on one view for a long time; is the worker as large as before?

Samples the worker (resident memory, descriptors, nodes, requests) and the layer's log while all
loads of ``load.py`` run at once, then stops them, makes the kernel forget, and looks once more.
Exits with 1 if a load failed, if memory or descriptors grew after the first third, or if nodes
were left.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.grounds import btrfs, tmpfs
from bench.load import LOADS, fill, forever, outside
from manifests import differences, manifest
from views import View, mounted

_GROWTH_KB = 8 << 10
"""What resident memory may differ by, from the middle to the end."""
_FDS = 300
_NODES = 200


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, metavar="N")
    parser.add_argument("--samples", type=int, default=60, metavar="N", help="in all that time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ground", choices=["tmpfs", "btrfs"], default="tmpfs", help="of the base")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, metavar="FILE", help="the samples, as JSON")
    return parser.parse_args()


def start(view: View, base: Path, seed: int) -> list[multiprocessing.Process]:
    """All loads, each in a process of its own."""
    work = [(load, view.top / name) for name, load in LOADS.items()]
    work.append((outside, base / "outside"))
    running = [
        multiprocessing.get_context("fork").Process(target=forever, args=(load, top, seed + number))
        for number, (load, top) in enumerate(work)
    ]
    for process in running:
        process.start()
    return running  # type: ignore[return-value]


def sample(view: View, began: float) -> dict[str, Any]:
    stats = view.command("stats")
    kept = ("rss_kb", "fds", "nodes", "open_files", "requests", "mutations")
    log = (view.layer / "origins").stat().st_size
    return {"seconds": round(time.monotonic() - began), **{k: stats[k] for k in kept}, "log": log}


def show(one: dict[str, Any]) -> None:
    print("  ".join(f"{name} {value:>9,}" for name, value in one.items()), flush=True)


def forget() -> None:
    """Have the kernel forget every name and inode that nobody uses."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")


def soak(view: View, base: Path, chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """The samples, and how many loads failed."""
    began = time.monotonic()
    samples = [sample(view, began)]
    running = start(view, base, chosen.seed)
    pause = chosen.minutes * 60 / chosen.samples
    try:
        for number in range(1, chosen.samples + 1):
            time.sleep(max(0.0, began + number * pause - time.monotonic()))
            samples.append(sample(view, began))
            show(samples[-1])
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join(120)
    failed = sum(process.exitcode != 0 for process in running)
    forget()
    samples.append(sample(view, began))
    show(samples[-1])
    return samples, failed


def verdict(samples: list[dict[str, Any]]) -> list[str]:
    """What is not flat."""
    loaded, last = samples[1:-1], samples[-1]
    third = len(loaded) // 3
    middle, end = loaded[third : 2 * third], loaded[2 * third :]
    bad = []
    for what, allowed in (("rss_kb", _GROWTH_KB), ("fds", _FDS)):
        before, after = (statistics.median(one[what] for one in part) for part in (middle, end))
        print(f"{what}: median {before:,.0f} in the second third, {after:,.0f} in the last")
        if after > before + allowed:
            bad.append(f"{what} grew")
    if last["nodes"] > _NODES or last["open_files"]:
        bad.append(f"{last['nodes']} nodes and {last['open_files']} open files were left")
    return bad


def same_after_remount(view: View) -> list[str]:
    """Whether a new worker shows the same, as far as nobody edits the base."""
    before = manifest(view.top)
    view.remount()
    return differences(before, manifest(view.top))[:20]


def main() -> int:
    chosen = options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    home = Path(tempfile.mkdtemp(prefix="soak-", dir=chosen.directory))
    try:
        (home / "base").mkdir()
        grounds = {"tmpfs": tmpfs, "btrfs": btrfs}
        with grounds[chosen.ground](home / "base", 2 << 30) as ground, btrfs(home, 8 << 30) as at:
            base = ground.top / "base"
            base.mkdir()
            fill(base)
            with mounted(home, [base], at.top) as view:
                samples, failed = soak(view, base, chosen)
                bad = verdict(samples) + same_after_remount(view)
    finally:
        shutil.rmtree(home)
    if chosen.output:
        chosen.output.write_text(json.dumps(samples))
    bad += [f"{failed} loads failed"] if failed else []
    print("\n".join(bad) or "flat")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
