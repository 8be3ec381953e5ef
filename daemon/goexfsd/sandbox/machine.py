"""What this machine offers to sandboxes, found once at the daemon's start.

Nothing here depends on a user or a run.  Programs are looked for in the system's own
directories, never along a PATH that somebody could have set.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from goexfs.errors import Unsupported
from goexfsd.sandbox.cgroup import Mounts, find_mounts

TRUSTED_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
BWRAP_MINIMUM = (0, 8, 0)
"""The first with --disable-userns."""

# Below /proc: what Docker masks and what bubblewrap leaves writable to the owner of a network
# namespace.  A procfs of a pid namespace shows these of the whole machine.
PROC_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs", "pressure")
PROC_MASKED_DIRS = ("acpi", "scsi", "asound")
PROC_MASKED_FILES = (
    *("kcore", "keys", "key-users", "latency_stats", "timer_list", "sched_debug"),
    *("cmdline", "interrupts"),  # what boot loaders were told; when somebody presses a key
)

AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep the certificates that TLS clients trust, in one file."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that a plan needs."""

    bwrap: str
    shell: str
    setpriv: str
    setsid: str
    links: dict[str, str]
    """Top-level symlinks such as /bin -> usr/bin: made again, not bound."""
    proc_read_only: tuple[str, ...]
    proc_masked_dirs: tuple[str, ...]
    proc_masked_files: tuple[str, ...]
    cgroups: Mounts
    nsenter: str
    resolv_conf: str | None
    """Where /etc/resolv.conf really lies, if outside /etc (needed with the host's network)."""
    authorities: str | None = None
    """The file of certificates that the system's programs trust, where it really lies."""


def find_machine() -> Machine:
    """Look; Unsupported names the first thing that is missing and how to get it."""
    bwrap = _program("bwrap", "bubblewrap")
    version = bwrap_version(bwrap)
    if version < BWRAP_MINIMUM:
        raise Unsupported(
            f"bubblewrap {dotted(version)} is too old: {dotted(BWRAP_MINIMUM)} is needed",
            hint="apt-get install bubblewrap (Debian 12 or later)",
        )
    return Machine(
        bwrap=bwrap,
        shell=_program("sh", "dash"),
        setpriv=_program("setpriv", "util-linux"),
        setsid=_program("setsid", "util-linux"),
        nsenter=_program("nsenter", "util-linux"),
        links=_links(),
        proc_read_only=_present(PROC_READ_ONLY),
        proc_masked_dirs=_present(PROC_MASKED_DIRS),
        proc_masked_files=_present(PROC_MASKED_FILES),
        cgroups=find_mounts(),
        resolv_conf=_resolv_conf(),
        authorities=_authorities(),
    )


def bwrap_version(program: str) -> tuple[int, ...]:
    """What ``bwrap --version`` says; (0,) if it does not."""
    done = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    match = re.search(r"(\d+(?:\.\d+)+)", done.stdout)
    return tuple(int(part) for part in match[1].split(".")) if match else (0,)


def dotted(version: tuple[int, ...]) -> str:
    """(0, 8, 0) as 0.8.0."""
    return ".".join(str(part) for part in version)


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=TRUSTED_PATH)
    if found is None:
        raise Unsupported(f"the program {name} is not installed", hint=f"apt-get install {package}")
    return found


def _links() -> dict[str, str]:
    with os.scandir("/") as entries:
        return {e.path: str(Path(e.path).readlink()) for e in entries if e.is_symlink()}


def _present(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"/proc/{name}" for name in names if os.path.lexists(f"/proc/{name}"))


def _authorities() -> str | None:
    known = [os.path.realpath(path) for path in AUTHORITIES]
    return next((path for path in known if Path(path).is_file()), None)


def _resolv_conf() -> str | None:
    real = os.path.realpath("/etc/resolv.conf")
    outside = not real.startswith("/etc/") and Path(real).exists()
    return real if outside else None
