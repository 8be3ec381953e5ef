"""What the daemon needs of this machine: look, try, and say which command mends what is missing.

Nothing is changed: the sandbox that is tried ends at once, and no control group is made.  Each
check stands alone; one that fails unexpectedly is reported as failed, never as passed.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from goexfs.errors import GoexfsError
from goexfs.names import display
from goexfs.protocol import Check
from goexfsd.sandbox import cgroup, machine, seccomp

_GIB = 1024**3
_KERNEL = (5, 14)
"""cgroup.kill; openat2, pidfds and unprivileged whiteouts are older."""
_PYTHON = (3, 11)
_NOBODY = "65534"
_MODULES = ("trio", "pydantic", "structlog", "btrfs", "btrfsutil", "pyseccomp", "click")
_SECONDS = 20


def examine(state_dir: Path, runtime_dir: Path) -> list[Check]:
    """Every check, in the order in which one would mend them.  Blocks for about 0.3 s."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("root", _root),
        ("kernel", _kernel),
        ("python", _python),
        ("fuse", _fuse),
        ("libfuse", _libfuse),
        ("compiled", _compiled),
        ("btrfs", _btrfs),
        ("btrfs-progs", lambda: _program("btrfs-progs", "mkfs.btrfs", "btrfs-progs")),
        ("loop", _loop),
        ("bubblewrap", _bubblewrap),
        ("util-linux", _util_linux),
        ("seccomp", _seccomp),
        ("user-namespaces", _user_namespaces),
        ("sandbox", _sandbox),
        ("cgroup-memory", lambda: _controller("memory", required=True)),
        ("cgroup-pids", lambda: _controller("pids", required=True)),
        ("cgroup-cpu", lambda: _controller("cpu", required=False)),
        ("cgroup-kill", _cgroup_kill),
        ("space", lambda: _space(state_dir)),
        ("runtime-dir", lambda: _runtime_dir(runtime_dir)),
    ]
    return [_guarded(name, check) for name, check in checks]


def commits(pending: Sequence[tuple[str, tuple[str, ...]]]) -> Check:
    """Whether commits that were cut off are still to be finished; given as (id, roots)."""
    if not pending:
        return Check(name="commits", ok=True, detail="none is pending")
    named = "; ".join(f"{cid} to {', '.join(map(display, roots))}" for cid, roots in pending)
    return Check(
        name="commits",
        ok=False,
        detail=f"pending, the directories are in between: {named}",
        fix="sudo systemctl restart goexfsd (or, where that fails, sudo goexfs recover)",
    )


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except GoexfsError as error:
        return _bad(name, error.message, error.hint)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return _bad(name, f"could not be checked: {error}")


def _good(name: str, detail: str, *, required: bool = True) -> Check:
    return Check(name=name, ok=True, detail=detail, required=required)


def _bad(name: str, detail: str, fix: str | None = None, *, required: bool = True) -> Check:
    return Check(name=name, ok=False, detail=detail, fix=fix, required=required)


def _root() -> Check:
    if os.geteuid() == 0:
        return _good("root", "runs as root")
    return _bad("root", f"runs as uid {os.geteuid()}, not as root", "sudo goexfsd --doctor")


def _kernel() -> Check:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) >= _KERNEL:
        return _good("kernel", f"Linux {release}")
    wanted = ".".join(map(str, _KERNEL))
    return _bad("kernel", f"Linux {release}; {wanted} or later is needed", "apt-get dist-upgrade")


def _python() -> Check:
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        return _bad("python", f"missing: {', '.join(missing)}", "pip install goexfs")
    if sys.version_info[:2] < _PYTHON:
        return _bad("python", f"Python {platform.python_version()} is too old", None)
    return _good("python", f"Python {platform.python_version()}, all libraries there")


def _fuse() -> Check:
    fix = "modprobe fuse"
    try:
        mode = Path("/dev/fuse").stat().st_mode
    except FileNotFoundError:
        return _bad("fuse", "/dev/fuse is missing", fix)
    if not stat.S_ISCHR(mode):
        return _bad("fuse", "/dev/fuse is no device", fix)
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return _bad("fuse", f"/dev/fuse cannot be opened: {error.strerror}", fix)
    return _good("fuse", "/dev/fuse can be opened")


def _libfuse() -> Check:
    """In a process of its own: only the view may import pyfuse3."""
    done = _run([sys.executable, "-c", "import pyfuse3; print(pyfuse3.__version__)"])
    if done.returncode == 0:
        return _good("libfuse", f"pyfuse3 {done.stdout.strip()} loads")
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return _bad("libfuse", f"pyfuse3 cannot be loaded: {last}", "apt-get install libfuse3-3 fuse3")


def _compiled() -> Check:
    """Likewise: it loads what the view is made of."""
    code = "from goexfsd.view import hot; hot.load()"
    done = _run([sys.executable, "-c", code])
    if done.returncode == 0:
        return _good("compiled", "the view's compiled part loads", required=False)
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    fix = "apt-get install gcc python3-dev, then install goexfs again"
    return _bad("compiled", f"the view is slower than it could be: {last}", fix, required=False)


def _btrfs() -> Check:
    if re.search(r"\bbtrfs$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        return _good("btrfs", "the kernel has btrfs")
    modprobe = shutil.which("modprobe", path=machine.TRUSTED_PATH)
    if modprobe and _run([modprobe, "--dry-run", "--quiet", "btrfs"]).returncode == 0:
        return _good("btrfs", "btrfs is a module that loads when it is needed")
    return _bad("btrfs", "the kernel has no btrfs", "modprobe btrfs")


def _program(name: str, program: str, package: str) -> Check:
    found = shutil.which(program, path=machine.TRUSTED_PATH)
    if found:
        return _good(name, found)
    return _bad(name, f"{program} is not installed", f"apt-get install {package}")


def _loop() -> Check:
    """Needed for the embedded store only."""
    if not Path("/dev/loop-control").exists():
        return _bad("loop", "/dev/loop-control is missing", "modprobe loop")
    done = _run(["losetup", "--find"])
    if done.returncode != 0:
        return _bad("loop", f"no loop device is free: {done.stderr.strip()}", "modprobe loop")
    return _good("loop", f"{done.stdout.strip()} is free")


def _bubblewrap() -> Check:
    path = shutil.which("bwrap", path=machine.TRUSTED_PATH)
    if path is None:
        return _bad("bubblewrap", "bwrap is not installed", "apt-get install bubblewrap")
    version = machine.bwrap_version(path)
    if version < machine.BWRAP_MINIMUM:
        wanted = machine.dotted(machine.BWRAP_MINIMUM)
        detail = f"bubblewrap {machine.dotted(version)}; {wanted} or later is needed"
        return _bad("bubblewrap", detail, "apt-get install bubblewrap")
    return _good("bubblewrap", f"bubblewrap {machine.dotted(version)}")


def _util_linux() -> Check:
    missing = [
        name
        for name in ("setpriv", "setsid", "nsenter")
        if shutil.which(name, path=machine.TRUSTED_PATH) is None
    ]
    if missing:
        detail = f"{' and '.join(missing)} not installed"
        return _bad("util-linux", detail, "apt-get install util-linux")
    return _good("util-linux", "setpriv, setsid and nsenter are there")


def _seccomp() -> Check:
    size = len(seccomp.program("none"))
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    if actions.exists() and "errno" not in actions.read_text():
        return _bad("seccomp", "the kernel has no seccomp filters")
    return _good("seccomp", f"libseccomp makes a filter of {size // 8} instructions")


def _sysctl(name: str) -> int | None:
    path = Path("/proc/sys") / name.replace(".", "/")
    return int(path.read_text()) if path.exists() else None


def _user_namespaces() -> Check:
    name = "user-namespaces"
    if not Path("/proc/self/ns/user").exists():
        return _bad(name, "the kernel has no user namespaces")
    if _sysctl("user.max_user_namespaces") == 0:
        fix = "sysctl -w user.max_user_namespaces=10000"
        return _bad(name, "user.max_user_namespaces is 0", fix)
    if _sysctl("kernel.unprivileged_userns_clone") == 0:
        fix = "sysctl -w kernel.unprivileged_userns_clone=1"
        return _bad(name, "closed to ordinary users (kernel.unprivileged_userns_clone)", fix)
    restricted = _sysctl("kernel.apparmor_restrict_unprivileged_userns") == 1
    if restricted and not Path("/etc/apparmor.d/bwrap-userns-restrict").exists():
        detail = "AppArmor keeps programs without a profile from them"
        fix = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        return _bad(name, detail, fix, required=False)
    return _good(name, "open to ordinary users")


def _sandbox() -> Check:
    """A real sandbox, as the least of uids: namespaces, mounts, a new procfs."""
    found = machine.find_machine()
    as_nobody = ["--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups", "--no-new-privs"]
    inside = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    mounts = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in ("/bin", "/lib", "/lib64"):
        link = found.links.get(path)
        mounts += ["--symlink", link, path] if link else ["--ro-bind-try", path, path]
    done = _run([found.setpriv, *as_nobody, "--", found.bwrap, *inside, *mounts, "--", "true"])
    if done.returncode == 0:
        return _good("sandbox", "bubblewrap works for an unprivileged user")
    said = done.stderr.strip() or f"exit status {done.returncode}"
    return _bad("sandbox", f"bubblewrap fails for an unprivileged user: {said}", _remedy(said))


def _remedy(said: str) -> str | None:
    if "No permissions to creat" in said or "uid map" in said:
        if _sysctl("kernel.apparmor_restrict_unprivileged_userns") == 1:
            return "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        return "sysctl -w kernel.unprivileged_userns_clone=1"
    if "proc" in said:
        return "run the daemon outside containers that mask /proc"
    return None


def _controller(controller: str, *, required: bool) -> Check:
    name = f"cgroup-{controller}"
    mounts = cgroup.find_mounts()
    if "" in mounts:
        point = mounts[""][0]
        if controller in (point / "cgroup.controllers").read_text().split():
            return _good(name, f"v2, at {point}", required=required)
    if controller in mounts:
        return _good(name, f"v1, at {mounts[controller][0]}", required=required)
    fix = f"add cgroup_enable={controller} to the kernel's command line and reboot"
    return _bad(name, f"the {controller} controller is not there", fix, required=required)


def _cgroup_kill() -> Check:
    mounts = cgroup.find_mounts()
    if "" in mounts:
        return _good("cgroup-kill", f"v2, at {mounts[''][0]}")
    if "freezer" in mounts:
        return _good("cgroup-kill", f"v1 freezer, at {mounts['freezer'][0]}")
    fix = "mount -t cgroup2 none /sys/fs/cgroup/unified"
    return _bad("cgroup-kill", "neither cgroup v2 nor the v1 freezer is mounted", fix)


def _space(state_dir: Path) -> Check:
    place = _existing(state_dir)
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    detail = f"{free / _GIB:.1f} GiB free at {place}"
    if free < _GIB:
        fix = "make room there, or choose another --state-dir"
        return _bad("space", detail + "; 1 GiB is little for a store", fix, required=False)
    return _good("space", detail)


def _runtime_dir(runtime_dir: Path) -> Check:
    place = _existing(runtime_dir)
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return _bad("runtime-dir", f"{place} is read-only", "choose another --runtime-dir")
    return _good("runtime-dir", f"{runtime_dir} can be used")


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd="/"
    )
