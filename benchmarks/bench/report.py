"""What came out: medians, ratios and bars as a table, all samples as JSON, a chart as SVG."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import chart

Samples = dict[str, dict[str, list[float]]]
"""Row -> system -> figures."""
Results = dict[str, Samples]
"""Ground -> samples."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What goexfs is held to in a row: ``factor`` times a rival's median, or ``limit`` itself."""

    rival: str = ""
    factor: float = 1.0
    limit: float = 0.0

    def __str__(self) -> str:
        return f"≤ {self.factor:g} × {self.rival}" if self.rival else f"≤ {self.limit:g}"

    def met(self, medians: dict[str, float]) -> bool | None:
        ours, theirs = medians.get("goexfs"), medians.get(self.rival)
        if ours is None or (self.rival and theirs is None):
            return None
        return ours <= (self.factor * theirs if theirs is not None else self.limit)


_FUSE = Bar("fuse-overlayfs", 1.0)
_HALF = Bar("fuse-overlayfs", 0.5)
_NATIVE = Bar("native", 1.3)
BARS: dict[str, Bar] = {
    "walk cold": _HALF,
    "append": _HALF,
    "rm -rf": _HALF,
    **dict.fromkeys(
        (
            "walk warm",
            "tar",
            "create",
            "rename directory",
            "4 KiB into big file",
            "read first",
            "git status cold",
            "git status warm",
            "git clone",
            "sqlite inserts, fsync",
            "C build",
            "Python test suite",
            "pip install, local wheels",
            "npm install, local packages",
        ),
        _FUSE,
    ),
    **dict.fromkeys(("read warm", "read random warm", "write", "write random warm"), _NATIVE),
    **dict.fromkeys(
        (f"open, {n}" for n in ("1 file", "5,000 files", "100,000 files", "1,000,000 files")),
        Bar(limit=30),
    ),
    "run true, CLI": Bar(limit=80),
    "the CLI's own start, run": Bar(limit=40),
    **dict.fromkeys(
        (
            "commit of 10 new files",
            "commit of 3,000 new files",
            "commit of 100,000 new files",
            "commit of 4 KiB in big file",
            "commit of 4 KiB in 4 GiB",
        ),
        Bar("overlayfs", 1.0),
    ),
    **{f"{n} sessions: memory of each, MB": Bar(limit=10) for n in (1, 10, 50)},
    **{f"{n} sessions idle: CPU, %": Bar(limit=1) for n in (1, 10, 50)},
}
"""Row -> the bar that it is held to; rsync is what brings overlayfs's changes home."""


def medians(samples: Samples) -> dict[str, dict[str, float]]:
    return {
        row: {system: statistics.median(figures) for system, figures in by.items()}
        for row, by in samples.items()
    }


def table(samples: Samples) -> str:
    """Markdown: a row each, medians by system, goexfs against native and against its bar, the
    kernel's view against plain overlayfs (held to 1.1 times that)."""
    found = medians(samples)
    systems = list(dict.fromkeys(system for by in samples.values() for system in by))
    lines = [
        f"| | {' | '.join(systems)} | / native | / fuse-overlayfs | bar | | kernel / overlayfs |",
        f"|---|{'---:|' * (len(systems) + 2)}---|---|---:|",
    ]
    for row, by in found.items():
        cells = [_figure(by[one]) if one in by else "" for one in systems]
        cells += [_ratio(by, "native"), _ratio(by, "fuse-overlayfs")]
        bar = BARS.get(row)
        met = None if bar is None else bar.met(by)
        cells += [
            "" if bar is None else str(bar),
            {None: "", True: "met", False: "**missed**"}[met],
            _ratio(by, "overlayfs", "goexfs kernel"),
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _ratio(by: dict[str, float], rival: str, ours: str = "goexfs") -> str:
    if not by.get(rival) or ours not in by:
        return ""
    return f"{by[ours] / by[rival]:.2f}"


def machine() -> dict[str, object]:
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = Path("/proc/meminfo").read_text().split(maxsplit=2)[1]
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "cpu": models[0].partition(": ")[2] if models else platform.machine(),
        "memory_gib": round(int(memory) / (1 << 20)),
        "load_average": os.getloadavg(),
    }


def write(results: Results, chosen: argparse.Namespace, begin: float, seconds: float) -> None:
    """Print the tables; leave ``results.json``, ``table.md`` and a chart per ground."""
    chosen.output.mkdir(parents=True, exist_ok=True)
    command = " ".join(["benchmarks/run", *sys.argv[1:]])
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begin))
    told = {
        "command": command,
        "date": date,
        "seconds": round(seconds),
        "machine": machine(),
        "scale": chosen.scale,
        "repeat": chosen.repeat,
        "samples": results,
    }
    (chosen.output / "results.json").write_text(json.dumps(told, indent=1) + "\n")
    text = ""
    for ground, samples in results.items():
        text += f"\n## {ground}\n\n{table(samples)}\n"
        (chosen.output / f"{ground}.svg").write_text(chart.draw(ground, medians(samples)))
    head = f"`{command}`, {date}, {seconds:.0f} s, medians of {chosen.repeat}, ms unless said.\n"
    (chosen.output / "table.md").write_text(head + text)
    print(head + text)
