"""``benchmarks/crash-uml``: machines that crash in a commit, an undo, a session; counted."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from uml.crash import SETTINGS, Ended, Setting, Stand
from uml.machine import KERNEL

KINDS = ("commit", "undo", "commit", "undo", "write")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/crash-uml", description=__doc__)
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--rounds", type=int, default=10, help="crashes in each setting")
    parser.add_argument("--settings", nargs="+", choices=names, default=names, metavar="BASE+STATE")
    parser.add_argument("--kinds", nargs="+", choices=set(KINDS), default=KINDS, metavar="KIND")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--synced", action="store_true", help="disk images opened with O_SYNC")
    parser.add_argument(
        "--unsynced",
        action="store_true",
        help="the negative control: no sync of the daemon's or the workers' does anything",
    )
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    return parser.parse_args()


def crashes(setting: Setting, chosen: argparse.Namespace, chance: random.Random) -> list[Ended]:
    home = Path(tempfile.mkdtemp(prefix="uml-", dir=chosen.directory))
    home.chmod(0o755)
    try:
        stand = Stand(home, setting, chosen.synced, chosen.unsynced)
        stand.prepare()
        took = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in stand.took.items())
        print(f"{setting.name}: without a crash {took}", flush=True)
        found = []
        for number in range(chosen.rounds):
            began = time.monotonic()
            what = chosen.kinds[number % len(chosen.kinds)]
            found.append(stand.crash(what, chance.random() * 1.15))
            show(found[-1], time.monotonic() - began)
        return found
    finally:
        shutil.rmtree(home)


def show(one: Ended, seconds: float) -> None:
    told = ", acknowledged" if one.told else ""
    kept = f", {one.kept} files synced" if one.kept else ""
    print(f"  {one.what} +{one.delay:.2f} s: {one.outcome}{told}{kept} ({seconds:.0f} s)")
    for line in one.wrong[:12]:
        print(f"    WRONG {line}")
    sys.stdout.flush()


def main() -> int:
    chosen = options()
    if shutil.which(KERNEL) is None:
        print("no user-mode Linux here: apt-get install user-mode-linux", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    chance = random.Random(chosen.seed)
    settings = [setting for setting in SETTINGS if setting.name in chosen.settings]
    found = [one for setting in settings for one in crashes(setting, chosen, chance)]
    counts = Counter((one.what, one.outcome, "told" if one.told else "") for one in found)
    for (what, outcome, told), count in sorted(counts.items()):
        print(f"{count:4} × {what}: {outcome} {told}")
    wrong = sum(bool(one.wrong) for one in found)
    print(f"{len(found)} crashes, {wrong} with something wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
