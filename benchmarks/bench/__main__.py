"""``benchmarks/run``: takes the options, interleaves the systems, reports."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from bench import report
from bench.grounds import GROUNDS, Ground
from bench.rows import IN_VIEW, Item
from bench.sessions import PLAIN_BUBBLEWRAP, SESSIONS
from bench.systems import SYSTEMS, Stage, System
from bench.trees import Trees
from daemons import Daemon, User

ITEMS = (*IN_VIEW, *SESSIONS)
_QUICK = 0.05
_SELDOM = 3


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Side by side, in one run.")
    parser.add_argument("--only", metavar="WORD,...", help="items whose name has one of the words")
    parser.add_argument("--systems", metavar="NAME,...", help="these only (default: all found)")
    parser.add_argument("--ground", choices=[*GROUNDS, "both"], default="both")
    parser.add_argument("--repeat", type=int, metavar="N", help="measurements of each (default 5)")
    parser.add_argument("--scale", type=float, help="factor for all counts and sizes (default 1)")
    parser.add_argument("--quick", action="store_true", help="--scale 0.05 --repeat 3, no big ones")
    parser.add_argument("--huge", action="store_true", help="also 1,000,000 files, and 4 GiB")
    parser.add_argument("--uid", type=int, default=int(os.environ.get("SUDO_UID") or 1000))
    parser.add_argument("--size", type=int, default=12, metavar="GiB", help="of each ground")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--rivals", type=Path, default=Path("benchmarks/.venv"), metavar="VENV")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    parser.add_argument("--list", action="store_true", help="name the items and systems, and end")
    chosen = parser.parse_args()
    chosen.scale = chosen.scale or (_QUICK if chosen.quick else 1.0)
    chosen.repeat = chosen.repeat or (3 if chosen.quick else 5)
    chosen.rivals = chosen.rivals.absolute()
    return chosen


def wanted(items: tuple[Item, ...], chosen: argparse.Namespace) -> list[Item]:
    words = chosen.only.split(",") if chosen.only else [""]
    found = [item for item in items if any(word in item.name for word in words)]
    if not chosen.huge:
        found = [item for item in found if not {"huge", "vast"} & set(item.trees)]
    if chosen.quick and not chosen.only:
        found = [item for item in found if not item.seldom]
    return found


@contextlib.contextmanager
def staged(ground: Ground, chosen: argparse.Namespace) -> Iterator[Stage]:
    """A daemon and the trees on a ground."""
    user = User(chosen.uid, chosen.uid)
    home = ground.top / "goexfs"
    home.mkdir()
    config = ""
    if ground.reflinks:
        (ground.top / "store").mkdir()
        config = f'store = "{ground.top}/store"\n'
    daemon = Daemon(home, config)
    daemon.start()
    trees = Trees(ground.top / "trees", user, chosen.scale)
    try:
        yield Stage(ground, trees, user, chosen.scale, daemon, chosen.rivals)
    finally:
        if daemon.process is not None:
            daemon.stop()
        subprocess.run(["rm", "-rf", str(home), str(trees.directory)], check=True)


def measure(stage: Stage, items: list[Item], chosen: argparse.Namespace) -> report.Samples:
    samples: report.Samples = {}
    systems = _present(stage, chosen)
    for at, item in enumerate(items):
        able = [one for one in systems if one.name in item.systems]
        repeat = min(chosen.repeat, _SELDOM) if item.seldom else chosen.repeat
        begin = time.monotonic()
        for round_ in range(repeat):
            for one in _rotated(able, round_):
                _take(stage, item, one, samples)
        later = {tree for other in items[at + 1 :] for tree in other.trees}
        for tree in set(item.trees) - later:
            stage.trees.drop(tree)
        say(f"  {item.name:<16} {time.monotonic() - begin:6.1f} s")
    return samples


def _rotated(systems: list[System], by: int) -> list[System]:
    """Another one first each time, so that nobody always runs in another's wake."""
    by %= max(1, len(systems))
    return systems[by:] + systems[:by]


def _take(stage: Stage, item: Item, system: System, samples: report.Samples) -> None:
    try:
        figures = item.measure(stage, system)
    except Exception as error:
        say(f"  {item.name}: {system.name} failed: {error}")
        if os.environ.get("BENCH_TRACE"):
            traceback.print_exc()
        return
    for row, figure in figures.items():
        samples.setdefault(row, {}).setdefault(system.name, []).append(figure)


def _present(stage: Stage, chosen: argparse.Namespace) -> list[System]:
    names = chosen.systems.split(",") if chosen.systems else None
    found: list[System] = []
    for system in (*SYSTEMS, PLAIN_BUBBLEWRAP):
        if names is not None and system.name not in names:
            continue
        why = system.missing(stage)
        if why is None:
            found.append(system)
        else:
            say(f"  without {system.name}: {why}")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    chosen = options()
    if chosen.list:
        print("items:  ", *(item.name for item in ITEMS))
        print("systems:", ", ".join(system.name for system in (*SYSTEMS, PLAIN_BUBBLEWRAP)))
        return 0
    items = wanted(ITEMS, chosen)
    directory = Path(tempfile.mkdtemp(prefix="goexfs-bench-", dir=chosen.directory))
    directory.chmod(0o755)
    results: report.Results = {}
    begin = time.time()
    names = list(GROUNDS) if chosen.ground == "both" else [chosen.ground]
    try:
        for name in names:
            say(f"on {name}:")
            with GROUNDS[name](directory, chosen.size << 30) as ground:
                with staged(ground, chosen) as stage:
                    results[name] = measure(stage, items, chosen)
                shutil.rmtree(ground.top / "store", ignore_errors=True)
    finally:
        directory.rmdir() if not any(directory.iterdir()) else say(f"left: {directory}")
    report.write(results, chosen, begin, time.time() - begin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
