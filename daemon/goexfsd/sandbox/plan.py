"""From a job and a policy to the sandbox that they mean: pure, no look at any file.

What must be looked at for each run (which secrets a home holds, say) is described here as a
``Search`` and carried out by ``look``; ``arguments`` puts both together.

Later mounts cover earlier ones, so the order is: system, private places, home, what is to be
read besides, masks, the views, what is read-only in them, masks inside them, goexfs's own
directories.
"""

from __future__ import annotations

import fnmatch
import re
import signal
from dataclasses import dataclass
from pathlib import PurePosixPath

from goexfs.errors import Denied, Usage
from goexfs.names import display
from goexfsd.sandbox import interpreter, reach, seccomp
from goexfsd.sandbox.cgroup import Limits
from goexfsd.sandbox.look import Found, Search, beneath
from goexfsd.sandbox.machine import Machine
from goexfsd.sandbox.policy import Policy

SCRIPT_DIR = "/run/goexfs-script"
AUTHORITY = "/run/goexfs-ca.pem"
SANDBOX_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SECRET_NAMES = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|AUTH(?!OR)|_KEY$"
    r"|(^|_)(PASS|PAT|CREDS|JWT|BEARER)$|(?<=.)(?<!OLD)PWD$|WEBHOOK|CONNECTION_?STRING|MNEMONIC"
    r"|^(AWS|AZURE|GOOGLE|GCP|VAULT|DBUS|SSH|GPG)_|^(KUBECONFIG|DOCKER_HOST|XAUTHORITY)$"
    r"|COOKIE",
    re.IGNORECASE,
)
"""Names of variables that are never passed on, whoever asks for it."""

# Outside: fd 2 of everything up to the script is the report (bubblewrap's status lines and
# whatever setpriv or bubblewrap complain of); the script's own stderr waits at 9.
# When memory is short on the whole machine, a script dies first.
_OUTER = (
    'r=$1; ulimit -n "$2" && ulimit -f "$3" || exit; shift 3; '
    "echo 500 >/proc/self/oom_score_adj; "
    'exec "$@" 9>&2 8<&- 2>"/proc/self/fd/$r"'
)
NAMESPACE = 8
"""The number of the descriptor of a network that the chain is to enter first, where there is one;
then it is closed."""
_BLOCK = 512  # ulimit's unit for file sizes in a POSIX shell
# Inside: a command that is missing (127) is said in a sentence, one that is not executable (126)
# is the shell's to say.
# And nothing of the command runs while bubblewrap, the first process, still has the machine's
# /proc open: it closes that after it has forked, and /proc/1/fd would lead there.
_INNER = (
    'for f in /proc/1/fd/*; do while [ -d "$f" ]; do :; done; done; '
    'command -v "$1" >/dev/null || '
    '{ printf "goexfs: %s: there is no such command in the sandbox\\n" "$1" >&9; exit 127; }; '
    'exec "$@" 2>&9 9>&-'
)


@dataclass(frozen=True, slots=True)
class View:
    """A root: ``source`` is bound over ``dest``, the root's real path."""

    source: str
    dest: str


@dataclass(frozen=True, slots=True)
class Way:
    """What a script is given of its way to the hosts of a list."""

    environment: dict[str, str]
    """Placeholders."""
    authority: bytes = b""
    """Certificates to trust instead of the system's; empty: the system's."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: who, where, what."""

    uid: int
    """The host uid that the script runs as: the owner's, or one of its own for root's; not 0."""
    gid: int
    groups: tuple[int, ...]
    user: str
    home: str
    views: tuple[View, ...]
    cwd: str
    argv: tuple[str, ...]
    """The command; with a script, its arguments."""
    env: dict[str, str]
    script: tuple[str, bytes] | None
    """Name and text."""
    pty: tuple[int, int, str] | None
    """Rows, columns, TERM."""
    hide: tuple[str, ...]
    """The daemon's own directories."""
    session_id: str
    step: int
    way: Way | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """An argument that is the number of a descriptor from which ``content`` can be read."""

    content: bytes


Argument = str | Data


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that ``run`` needs; nothing of it is a secret of the daemon's."""

    program: tuple[str, ...]
    """What root executes, up to bubblewrap.  ``{report}``, ``{args}``, ``{seccomp}`` stand for
    descriptors, ``{open_files}`` for a limit."""
    options: tuple[Argument, ...]
    """Bubblewrap's arguments, first part; ``arguments`` puts them together."""
    home: tuple[tuple[Argument, ...], tuple[Argument, ...]]
    """For a home that is the uid's own, and for one that is not."""
    views: tuple[Argument, ...]
    rest: tuple[Argument, ...]
    command: tuple[str, ...]
    seccomp: bytes
    search: Search
    limits: Limits
    open_files: int
    uid: int
    gid: int
    label: str
    pty: tuple[int, int] | None
    wall_seconds: float | None
    grace_seconds: float
    joins: bool = False
    """It enters a network that was made for it; ``run`` must be given one."""
    walled: bool = False
    """It shares the machine's network, and is kept from its abstract sockets, where that can be."""
    reaches: tuple[str, ...] = ()
    """What of the network there is, in words."""


def plan(job: Job, policy: Policy, machine: Machine) -> Launch:
    """The sandbox for ``job`` under ``policy`` on ``machine``.

    Raises NotExecutable for a script that nothing could run; Usage and Denied for variables;
    ValueError for a uid of 0.
    """
    if job.uid <= 0:
        raise ValueError("a script never runs as root")
    if any("\0" in part for part in (*job.argv, job.cwd)):
        raise Usage("an argument with a NUL byte cannot be passed to a program")
    return Launch(
        program=_program(job, policy, machine),
        options=(*_namespaces(job, policy), *_system(job, policy, machine)),
        home=_home(job, policy),
        views=_views(job),
        rest=(
            *_script(job),
            *_authority(job, machine),
            "--remount-ro",
            "/",
            *_variables(job, policy),
            "--chdir",
            job.cwd,
        ),
        command=_command(job, machine),
        seccomp=seccomp.program(policy.network),
        search=_search(job, policy),
        limits=Limits(
            policy.memory_bytes,
            policy.max_processes,
            policy.cpu,
            required=policy.unenforced == "refuse",
        ),
        open_files=policy.open_files,
        uid=job.uid,
        gid=job.gid,
        label=f"{job.session_id}.{job.step}",
        pty=job.pty[:2] if job.pty else None,
        wall_seconds=policy.wall_seconds,
        grace_seconds=policy.grace_seconds,
        joins=policy.network == "allow",
        walled=policy.network == "host",
        reaches=reach.words(policy),
    )


def arguments(launch: Launch, found: Found) -> list[Argument]:
    """Bubblewrap's arguments for a launch, given what was found; see the module's docstring."""
    mine, private = launch.home
    result = [*launch.options, *(mine if found.own_home else private)]
    for wall in found.walls:
        result += ["--tmpfs", wall]
    result += _masks(found, in_view=False)
    for path in found.sockets:
        result += ["--ro-bind", "/dev/null", path]
    result += launch.views
    for source, dest in found.pins:
        result += ["--bind", source, dest]
    for source, dest in found.read_only:
        result += ["--ro-bind", source, dest]
    result += _masks(found, in_view=True)
    result += launch.rest
    return result


def _masks(found: Found, *, in_view: bool) -> list[Argument]:
    result: list[Argument] = []
    for mask in found.masks:
        if mask.in_view == in_view:
            result += _mask(mask.path, mask.directory)
    return result


def _mask(path: str, directory: bool) -> list[Argument]:
    if directory:
        return ["--perms", "0700", "--tmpfs", path]
    return ["--perms", "0400", "--ro-bind-data", Data(b""), path]


def signal_number(name: str) -> int:
    """SIGINT's number for ``INT``; ValueError if there is no such signal."""
    try:
        return signal.Signals[f"SIG{name}"].value
    except KeyError as error:
        raise ValueError(f"no signal {name}") from error


def _program(job: Job, policy: Policy, machine: Machine) -> tuple[str, ...]:
    kept = ",".join(str(group) for group in job.groups if group != 0)
    groups = ("--groups", kept) if kept else ("--clear-groups",)
    blocks = "unlimited" if policy.file_bytes is None else str(policy.file_bytes // _BLOCK)
    # Root enters the step's network, which the sandbox then keeps.
    enter = (machine.nsenter, f"--net=/proc/self/fd/{NAMESPACE}", "--")
    return (
        *(enter if policy.network == "allow" else ()),
        *(machine.shell, "-c", _OUTER, "goexfs", "{report}", "{open_files}", blocks),
        *(machine.setpriv, "--reuid", str(job.uid), "--regid", str(job.gid), *groups),
        *("--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"),
        *("--", machine.bwrap, "--args", "{args}"),
        *("--json-status-fd", "{report}", "--seccomp", "{seccomp}", "--"),
    )


def _command(job: Job, machine: Machine) -> tuple[str, ...]:
    argv = job.argv
    if job.script is not None:
        name, text = job.script
        path = f"{SCRIPT_DIR}/{interpreter.file_name(name)}"
        argv = (*interpreter.interpreter(name, text), path, *job.argv)
    # setsid --ctty makes the script's terminal its controlling one, inside the sandbox.
    terminal = (machine.setsid, "--ctty", "--wait") if job.pty else ()
    return (machine.shell, "-c", _INNER, "goexfs", *terminal, *argv)


def _namespaces(job: Job, policy: Policy) -> list[Argument]:
    arguments: list[Argument] = ["--unshare-all"]
    if policy.network != "none":
        arguments.append("--share-net")
    return [
        *arguments,
        *("--unshare-user", "--disable-userns", "--uid", str(job.uid), "--gid", str(job.gid)),
        *("--hostname", "goexfs", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        "--clearenv",
    ]


def _system(job: Job, policy: Policy, machine: Machine) -> list[Argument]:
    arguments: list[Argument] = []
    for path in ("/var", "/run", "/sys", *reversed(_parents(job.home))):
        arguments += ["--perms", "0755", "--dir", path]
    for path in policy.system:
        if path in machine.links:
            arguments += ["--symlink", machine.links[path], path]
        else:
            arguments += ["--ro-bind-try", path, path]
    arguments += ["--proc", "/proc"]
    for path in machine.proc_read_only:
        arguments += ["--ro-bind", path, path]
    for path in machine.proc_masked_files:
        arguments += ["--ro-bind", "/dev/null", path]
    for path in machine.proc_masked_dirs:
        arguments += ["--tmpfs", path, "--remount-ro", path]
    arguments += ["--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm"]
    arguments += ["--remount-ro", "/dev", "--size", str(policy.tmp_bytes), "--perms", "1777"]
    arguments += [
        "--tmpfs",
        "/tmp",
        "--symlink",
        "../tmp",
        "/var/tmp",
        "--symlink",
        "../run",
        "/var/run",
    ]
    if policy.network == "host" and machine.resolv_conf:
        arguments += ["--ro-bind-try", machine.resolv_conf, machine.resolv_conf]
    passwd, group = _accounts(job)
    arguments += ["--perms", "0444", "--ro-bind-data", Data(passwd), "/etc/passwd"]
    arguments += ["--perms", "0444", "--ro-bind-data", Data(group), "/etc/group"]
    return arguments


def _accounts(job: Job) -> tuple[bytes, bytes]:
    """passwd and group: only the owner is mapped in the sandbox, all others are nobody."""
    user = re.sub(r"[:\n\0]", "_", job.user) or "user"
    home = re.sub(r"[:\n\0]", "_", job.home)
    passwd = [f"{user}:x:{job.uid}:{job.gid}::{home}:/bin/sh"]
    if user != "root":
        passwd.append("root:x:0:0:root:/root:/usr/sbin/nologin")
    passwd.append("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin")
    group = [f"{user}:x:{job.gid}:"]
    if user != "root":
        group.append("root:x:0:")
    group.append("nogroup:x:65534:")
    return _lines(passwd), _lines(group)


def _lines(lines: list[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")


def _home(job: Job, policy: Policy) -> tuple[tuple[Argument, ...], tuple[Argument, ...]]:
    """And what is to be read besides, which may lie in the home, or in /tmp."""
    more: list[Argument] = []
    for path in policy.read:
        more += ["--ro-bind-try", _expand(path, job.home), _expand(path, job.home)]
    if not job.home.startswith("/") or job.home == "/":
        return tuple(more), tuple(more)
    inside = any(beneath(job.home, path) for path in policy.system)
    private = () if inside else ("--perms", "0700", "--tmpfs", job.home)
    mine = ("--ro-bind", job.home, job.home) if policy.home else private
    return (*mine, *more), (*private, *more)


def _parents(path: str) -> list[str]:
    """The directories above an absolute path, the nearest first, without ``/``."""
    return [str(parent) for parent in PurePosixPath(path).parents][:-1]


def _views(job: Job) -> tuple[Argument, ...]:
    arguments: list[Argument] = []
    for view in sorted(job.views, key=lambda view: len(PurePosixPath(view.dest).parts)):
        arguments += ["--bind", view.source, view.dest]
    return tuple(arguments)


def _script(job: Job) -> list[Argument]:
    if job.script is None:
        return []
    name, text = job.script
    path = f"{SCRIPT_DIR}/{interpreter.file_name(name)}"
    return ["--perms", "0555", "--ro-bind-data", Data(text), path]


def _authority(job: Job, machine: Machine) -> list[Argument]:
    """For programs that read a variable, and in place of the system's file for the others."""
    if job.way is None or not job.way.authority:
        return []
    places = [AUTHORITY]
    system = machine.authorities
    if system is not None and not any(beneath(system, view.dest) for view in job.views):
        places.append(system)
    arguments: list[Argument] = []
    for place in places:
        arguments += ["--perms", "0444", "--ro-bind-data", Data(job.way.authority), place]
    return arguments


def _variables(job: Job, policy: Policy) -> list[Argument]:
    arguments: list[Argument] = []
    for name, value in _environment(job, policy).items():
        arguments += ["--setenv", name, value]
    return arguments


def _environment(job: Job, policy: Policy) -> dict[str, str]:
    env = {
        "PATH": SANDBOX_PATH,
        "HOME": job.home,
        "USER": job.user,
        "LOGNAME": job.user,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
        # The home is read-only: caches go where they can be written.
        "XDG_CACHE_HOME": "/tmp/.cache",
        "npm_config_cache": "/tmp/.npm",
        "GOEXFS_SESSION": job.session_id,
        "GOEXFS_STEP": str(job.step),
    }
    if job.pty is not None:
        env["TERM"] = job.pty[2]
    if policy.network == "allow":
        authority = reach.intercepts(policy) if job.way is None else job.way.authority != b""
        env |= reach.variables(policy, authority, AUTHORITY)
    for name, value in job.env.items():
        _check_variable(name, value, policy)
    return env | job.env | (job.way.environment if job.way is not None else {})


def _check_variable(name: str, value: str, policy: Policy) -> None:
    if not name or "=" in name or "\0" in name + value:
        raise Usage(f"{display(name)!r} cannot be the name of a variable")
    if SECRET_NAMES.search(name) is not None:
        raise Denied(
            f"the variable {display(name)} is not passed on: its name looks like a secret's",
            hint="a script can read, and leave in files, all that it is given",
        )
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in policy.environment):
        raise Denied(f"the policy does not let a run set the variable {display(name)}")


def _search(job: Job, policy: Policy) -> Search:
    visible = [
        *policy.system,
        *(_expand(path, job.home) for path in policy.read),
        *((job.home,) if policy.home and job.home != "/" else ()),
    ]
    return Search(
        uid=job.uid,
        gid=job.gid,
        groups=job.groups,
        home=job.home,
        hidden=policy.hidden,
        hide=job.hide,
        visible=tuple(visible),
        views=tuple((view.source, view.dest) for view in job.views),
        read_only=policy.read_only,
    )


def _expand(path: str, home: str) -> str:
    return home + path[1:] if path.startswith("~/") or path == "~" else path
