"""How a script is run: the shebang, else the suffix, else sh.

Pure: it sees a name and bytes.  It does not know whether the interpreter is there; a missing
one ends the step with status 127, as in a shell.
"""

from __future__ import annotations

import re

from goexfs.errors import NotExecutable
from goexfs.names import display

SUFFIXES: dict[str, tuple[str, ...]] = {
    ".sh": ("sh",),
    ".bash": ("bash",),
    ".zsh": ("zsh",),
    ".ksh": ("ksh",),
    ".fish": ("fish",),
    ".py": ("python3",),
    ".js": ("node",),
    ".mjs": ("node",),
    ".cjs": ("node",),
    ".ts": ("deno", "run", "--allow-all"),
    ".rb": ("ruby",),
    ".pl": ("perl",),
    ".php": ("php",),
    ".lua": ("lua",),
    ".tcl": ("tclsh",),
    ".r": ("Rscript",),
    ".awk": ("awk", "-f"),
    ".sed": ("sed", "-f"),
    ".mk": ("make", "-f"),
}
_ELF = b"\x7fELF"
_LOOKED_AT = 8000


def file_name(name: str) -> str:
    """The base name under which the script is shown: harmless characters only."""
    base = re.sub(r"[^A-Za-z0-9._+-]", "_", name.rsplit("/", 1)[-1])[:100].lstrip(".-")
    return base or "script"


def interpreter(name: str, text: bytes) -> tuple[str, ...]:
    """What to put before the script's path; empty when the kernel can run it as it is.

    Raises NotExecutable for what no interpreter would understand.
    """
    if text.startswith(_ELF) or re.match(rb"#![ \t]*/", text):
        return ()
    if b"\0" in text[:_LOOKED_AT]:
        raise NotExecutable(
            f"{display(name)} is binary data, neither a script nor a program for this machine",
            hint="a script is text, with #! and an interpreter in its first line if not for sh",
        )
    stem, dot, suffix = name.rpartition(".")
    if dot and stem:
        return SUFFIXES.get("." + suffix.lower(), ("sh",))
    return ("sh",)
