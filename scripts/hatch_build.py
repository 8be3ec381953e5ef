"""Hatchling's hook: compiles ``daemon/goexfsd/view/hotpath`` into a module beside it.

Where there is no compiler, or it fails, goexfs is built without: all that it does is done in
Python then, more slowly (``goexfs doctor`` says so).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("daemon/goexfsd/view/hotpath")
FLAGS = (
    "-O2",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fstack-protector-strong",
    "-D_FORTIFY_SOURCE=2",
    "-Wl,-z,relro,-z,now",
    "-fno-strict-aliasing",
)
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wno-unused-parameter")


class Hook(BuildHookInterface[Any]):
    """Called for an editable installation too."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        made = compile_beside(Path(self.root) / SOURCES)
        if made is not None:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"].append(str(made.relative_to(self.root)))


def compile_beside(sources: Path) -> Path | None:
    """The module that was made; None if that could not be done."""
    made = sources.with_name("_hot" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    compiler = shlex.split(str(sysconfig.get_config_var("CC") or "cc"))
    include = f"-I{sysconfig.get_path('include')}"
    files = sorted(map(str, sources.glob("*.c")))
    command = [*compiler, *FLAGS, *WARNINGS, include, *files, "-o", str(made)]
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        made.unlink(missing_ok=True)
        print(f"goexfs: built without its compiled part: {error}", file=sys.stderr)
        return None
    return made
