"""What a hostile script finds inside: each probe is run for an ordinary user and for root."""

from __future__ import annotations

import errno
import json
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from confined import LOWERED, USER, Box
from goexfsd import sandbox

pytestmark = pytest.mark.root

WHO = ["user", "root"]


def make_box(who: str, arena: Path) -> Box:
    if who == "user":
        return Box(arena)
    return Box(arena, uid=LOWERED, home="/root", dest="/root/project")


@pytest.fixture(params=WHO)
def box(request: pytest.FixtureRequest, arena: Path) -> Box:
    return make_box(request.param, arena)


@pytest.fixture
def user(arena: Path) -> Box:
    return Box(arena)


# -- system calls ---------------------------------------------------------------------------

CALLS: dict[str, tuple[list[int], str]] = {
    # name: (number on x86-64 and arguments, errno)
    "add_key": ([248, 0, 0, 0, 0, 0], "EPERM"),
    "request_key": ([249, 0, 0, 0, 0], "EPERM"),
    "keyctl": ([250, 0, -3, 0], "EPERM"),
    "bpf": ([321, 0, 0, 0], "EPERM"),
    "perf_event_open": ([298, 0, 0, -1, -1, 0], "EPERM"),
    "userfaultfd": ([323, 0], "EPERM"),
    "ptrace": ([101, 0, 0, 0, 0], "EPERM"),
    "process_vm_readv": ([310, 1, 0, 0, 0, 0, 0], "EPERM"),
    "process_vm_writev": ([311, 1, 0, 0, 0, 0, 0], "EPERM"),
    "pidfd_getfd": ([438, 0, 0, 0], "EPERM"),
    "name_to_handle_at": ([303, -100, 0, 0, 0, 0], "EPERM"),
    "open_by_handle_at": ([304, -100, 0, 0], "EPERM"),
    "fanotify_init": ([300, 0, 0], "EPERM"),
    "mount": ([165, 0, 0, 0, 0, 0], "EPERM"),
    "umount2": ([166, 0, 0], "EPERM"),
    "pivot_root": ([155, 0, 0], "EPERM"),
    "chroot": ([161, 0], "EPERM"),
    "setns": ([308, 0, 0], "EPERM"),
    "unshare user": ([272, 0x10000000], "EPERM"),
    "unshare mount": ([272, 0x00020000], "EPERM"),
    "unshare net": ([272, 0x40000000], "EPERM"),
    "unshare time": ([272, 0x80], "EPERM"),
    "clone user": ([56, 0x10000011, 0, 0, 0, 0], "EPERM"),
    "clone3": ([435, 0, 0], "ENOSYS"),
    "io_uring_setup": ([425, 1, 0], "ENOSYS"),
    "fsopen": ([430, 0, 0], "ENOSYS"),
    "open_tree": ([428, -100, 0, 0], "ENOSYS"),
    "move_mount": ([429, 0, 0, 0, 0, 0], "ENOSYS"),
    "mount_setattr": ([442, -100, 0, 0, 0, 0], "ENOSYS"),
    "open_tree_attr": ([467, -100, 0, 0, 0, 0], "ENOSYS"),
    "memfd_secret": ([447, 0], "ENOSYS"),
    "io_setup": ([206, 1, 0], "ENOSYS"),
    "quotactl_fd": ([443, 0, 0, 0, 0], "ENOSYS"),
    "listns": ([470, 0, 0, 0, 0], "ENOSYS"),
    "a call of tomorrow": ([480, 0], "ENOSYS"),
    "kexec_load": ([246, 0, 0, 0, 0], "EPERM"),
    "kexec_file_load": ([320, 0, 0, 0, 0, 0], "EPERM"),
    "init_module": ([175, 0, 0, 0], "EPERM"),
    "finit_module": ([313, 0, 0, 0], "EPERM"),
    "delete_module": ([176, 0, 0], "EPERM"),
    "swapon": ([167, 0, 0], "EPERM"),
    "reboot": ([169, 0, 0, 0, 0], "EPERM"),
    "settimeofday": ([164, 0, 0], "EPERM"),
    "clock_settime": ([227, 0, 0], "EPERM"),
    "acct": ([163, 0], "EPERM"),
    "syslog": ([103, 3, 0, 0], "EPERM"),
    "iopl": ([172, 3], "EPERM"),
    "ioperm": ([173, 0, 1, 1], "EPERM"),
    "quotactl": ([179, 0, 0, 0, 0], "EPERM"),
    "personality": ([135, 0x0400000], "EPERM"),
    "personality without randomness": ([135, 0x0040000], "EPERM"),
    "process_madvise": ([440, 0, 0, 0, 0, 0], "EPERM"),
    "kcmp": ([312, 1, 1, 0, 0, 0], "EPERM"),
    "move_pages": ([279, 0, 0, 0, 0, 0, 0], "EPERM"),
    "F_SETLEASE": ([72, 0, 1024, 0], "EPERM"),
    "F_SETLEASE disguised": ([72, 0, (1 << 32) + 1024, 0], "EPERM"),
    "TIOCSTI": ([16, 0, 0x5412, 0], "EPERM"),
    "TIOCLINUX": ([16, 0, 0x541C, 0], "EPERM"),
    "TIOCSETD": ([16, 0, 0x5423, 0], "EPERM"),
    "TIOCSETD disguised": ([16, 0, (1 << 32) + 0x5423, 0], "EPERM"),
    "mknod char": ([259, -100, 0, 0o020666, 0], "EPERM"),
    "mknod block": ([259, -100, 0, 0o060666, 0], "EPERM"),
    "socket netlink": ([41, 16, 3, 0], "EAFNOSUPPORT"),
    "socket packet": ([41, 17, 3, 0], "EAFNOSUPPORT"),
    "socket vsock": ([41, 40, 1, 0], "EAFNOSUPPORT"),
    "socket alg": ([41, 38, 5, 0], "EAFNOSUPPORT"),
    "socket bluetooth": ([41, 31, 3, 0], "EAFNOSUPPORT"),
    "socket beyond": ([41, 70, 1, 0], "EAFNOSUPPORT"),
    "socket disguised": ([41, (1 << 32) + 16, 3, 0], "EAFNOSUPPORT"),
    "socket raw": ([41, 2, 3, 1], "EPERM"),
    "socketpair vsock": ([53, 40, 1, 0, 0], "EAFNOSUPPORT"),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
def test_system_calls(box: Box) -> None:
    code = """
        import ctypes, json, sys
        libc = ctypes.CDLL(None, use_errno=True)
        said = {}
        for name, numbers in json.loads(sys.argv[1]).items():
            ctypes.set_errno(0)
            result = libc.syscall(*(ctypes.c_long(number) for number in numbers))
            said[name] = ctypes.get_errno() if result < 0 else 0
            if result == 0 and name.startswith("clone"):
                libc._exit(0)
        print(json.dumps(said))
    """
    asked = {name: numbers for name, (numbers, _) in CALLS.items()}
    said = box.python(code, json.dumps(asked)).json()
    names = {name: errno.errorcode.get(code, "allowed") for name, code in said.items()}
    assert names == {name: code for name, (_, code) in CALLS.items()}


def test_ordinary_calls_work(box: Box) -> None:
    """What the filter must not break: threads, processes, fifos, sockets, memory, timers."""
    code = """
        import os, socket, subprocess, threading, multiprocessing, tempfile, mmap, select, signal
        thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
        subprocess.run(["true"], check=True)
        os.mkfifo("fifo"); os.unlink("fifo")
        a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
        listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
        client = socket.create_connection(listener.getsockname(), timeout=5)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 4096); file.flush(); mmap.mmap(file.fileno(), 4096)
        with tempfile.NamedTemporaryFile(dir="/dev/shm"): pass
        os.open(".", os.O_TMPFILE | os.O_RDWR)
        os.memfd_create("x"); select.epoll(); os.pidfd_open(os.getpid()); os.eventfd(0)
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    """
    assert box.python(code).status == 0


# -- identity, processes, kernel ------------------------------------------------------------


def test_identity(box: Box) -> None:
    code = """
        import json, os, pwd, grp, resource
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(json.dumps({
            "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
            "name": [pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name],
            "home": pwd.getpwuid(os.getuid()).pw_dir,
            "caps": [status[k].strip() for k in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
            "nnp": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
            "map": open("/proc/self/uid_map").read().split(),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "host": os.uname().nodename,
            "umask": os.umask(0),
        }))
    """
    said = box.python(code).json()
    uid = box.uid
    assert said["ids"] == [[uid] * 3, [uid] * 3, [uid]] or said["ids"][2] == []
    name = "root" if uid == LOWERED else "somebody"
    assert said["name"] == [name, name]
    assert said["home"] == box.home
    assert said["caps"] == ["0000000000000000"] * 5
    assert (said["nnp"], said["seccomp"]) == ("1", "2")
    assert (said["map"][0], said["map"][2]) == (str(uid), "1")
    assert said["core"] == [1, 1]
    assert said["files"] == [4096, 4096]
    assert said["host"] == "goexfs"
    assert said["umask"] == 0o022


def test_groups_are_the_owner_s_without_root_s(user: Box) -> None:
    code = "print(open('/proc/self/status').read())"
    shown = user.python(code, groups=(0, USER, 65534)).out
    line = next(line for line in shown.splitlines() if line.startswith("Groups:"))
    assert sorted(line.split()[1:]) == [str(USER), "65534"]


def test_root_is_never_the_script_s_uid(user: Box) -> None:
    with pytest.raises(ValueError, match="never runs as root"):
        user.run("true", uid=0)


def test_processes_of_the_host_are_not_there(box: Box) -> None:
    code = """
        import json, os
        def kill(pid):
            try: os.kill(pid, 0)
            except OSError as error: return error.errno
        import sys
        pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        print(json.dumps({"pids": pids, "kill": kill(int(sys.argv[1])),
                          "one": open("/proc/1/environ").read()}))
    """
    said = box.python(code, str(os.getpid())).json()
    assert len(said["pids"]) == 2
    assert said["kill"] == errno.ESRCH
    assert set(line.split("=")[0] for line in said["one"].split("\0") if line) <= {
        "PATH",
        "LANG",
        "PWD",
        "OLDPWD",
    }


def test_no_descriptor_is_inherited(box: Box) -> None:
    with open("/etc/passwd") as file:
        os.set_inheritable(file.fileno(), True)
        result = box.run("ls", "/proc/self/fd")
    assert result.out.split() == ["0", "1", "2", "3"]  # 3: the directory itself


def test_the_first_process_holds_no_directory(box: Box) -> None:
    """It has the machine's /proc open for a moment after it forked; the script must not be there
    yet.  (What else it has is sealed, or none of the script's: the next test.)"""
    for _ in range(10):
        assert (
            box.run("sh", "-c", 'for f in /proc/1/fd/*; do [ -d "$f" ] && echo $f; done').out == ""
        )


def test_descriptors_of_the_first_process_are_closed_to_the_script(box: Box) -> None:
    """Its stderr is the report to the daemon; another tells bubblewrap the exit status."""
    code = """
        import os
        for fd in os.listdir("/proc/1/fd"):
            if fd in "01": continue
            try:
                os.open("/proc/1/fd/" + fd, os.O_WRONLY)
                print("open:", fd)
            except OSError:
                pass
    """
    assert box.python(code).out == ""


KERNEL_FILES = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/ping_group_range",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/proc/pressure/cpu",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
    "/sys/devices/system/cpu/cpu1/online",
    "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/release_agent",
    "/proc/1/oom_score_adj.x",
    "/proc/1/uid_map",
    "/proc/self/uid_map",
    "/proc/self/setgroups",
]


def test_the_kernel_s_files_cannot_be_written(box: Box) -> None:
    code = """
        import json, os, sys
        opened = []
        for path in json.loads(sys.argv[1]):
            try:
                fd = os.open(path, os.O_WRONLY)
                os.write(fd, b"0")
                opened.append(path)
            except OSError:
                pass
        print(json.dumps(opened))
    """
    assert box.python(code, json.dumps(KERNEL_FILES)).json() == []


# -- files ----------------------------------------------------------------------------------


def test_only_the_view_and_private_places_can_be_written(box: Box) -> None:
    code = """
        import json, os
        places = ["/", "/etc", "/usr", "/usr/local", "/opt", "/var", "/var/lib", "/run", "/dev",
                  "/dev/pts", "/home", "/sys", "/proc", "/srv", "/mnt", "/root", "/lib",
                  "/tmp", "/var/tmp", "/dev/shm", ".", os.environ["HOME"]]
        written = []
        for place in places:
            try:
                with open(place + "/probe", "w") as file: file.write("x")
                written.append(place)
            except OSError: pass
        print(json.dumps(written))
    """
    written = box.python(code).json()
    private = ["/root"] if box.uid == LOWERED else []
    home = ["/root"] if box.uid == LOWERED else []
    assert written == [*private, "/tmp", "/var/tmp", "/dev/shm", ".", *home]
    assert (box.source / "probe").read_text() == "x"
    for place in ("/tmp/probe", "/dev/shm/probe", "/root/probe"):
        assert not os.path.lexists(place)


def test_the_top_is_short(box: Box) -> None:
    names = set(box.run("ls", "-A", "/").out.split())
    assert names <= {
        "bin", "dev", "etc", "gnu", "home", "lib", "lib32", "lib64", "libx32", "nix", "opt",
        "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var",
    }  # fmt: skip


def test_every_mount_is_nosuid_and_system_ones_are_read_only(box: Box) -> None:
    lines = box.run("cat", "/proc/self/mounts").out.splitlines()
    assert len(lines) > 10
    writable = set()
    for line in lines:
        _, point, _, options, *_ = line.split()
        flags = set(options.split(","))
        assert "nosuid" in flags, line
        if "rw" in flags:
            writable.add(point)
    devices = {point for point in writable if point.startswith("/dev/")}
    allowed = {"/proc", "/tmp", box.dest, box.home}
    masks = {point for point in writable if point.startswith(("/etc/ssl", "/root/", box.home))}
    assert writable - devices - allowed - masks == set()


def test_a_set_user_id_program_gains_nothing(box: Box) -> None:
    result = box.run("sh", "-c", "cp /usr/bin/id ./mine; chmod u+s mine; ./mine -u; su -c id")
    assert result.out == f"{box.uid}\n"
    assert result.status != 0


def test_the_environment_is_clean(box: Box) -> None:
    os.environ["GOEXFS_TEST_OF_THE_DAEMON"] = "1"
    try:
        result = box.run("env", "-0", env={"WANTED": "1", "GIT_AUTHOR_NAME": "me", "LANG": "C"})
    finally:
        del os.environ["GOEXFS_TEST_OF_THE_DAEMON"]
    env = dict(line.split("=", 1) for line in result.out.split("\0") if line)
    assert (env.pop("WANTED"), env.pop("GIT_AUTHOR_NAME"), env.pop("LANG")) == ("1", "me", "C")
    assert set(env) == {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "XDG_CACHE_HOME",
        "npm_config_cache", "GOEXFS_SESSION", "GOEXFS_STEP", "PWD",
    }  # fmt: skip


SECRETS = {
    ".ssh/id_ed25519": "KEY",
    ".aws/credentials": "KEY",
    ".config/gcloud/access_tokens.db": "KEY",
    ".config/gh/hosts.yml": "KEY",
    ".netrc": "KEY",
    ".git-credentials": "KEY",
    ".npmrc": "KEY",
    ".bash_history": "KEY",
    ".mozilla/firefox/p/logins.json": "KEY",
    ".config/google-chrome-beta/Default/Cookies": "KEY",
    ".cargo/credentials.toml": "KEY",
    ".local/share/keyrings/login.keyring": "KEY",
    ".claude/credentials.json": "KEY",
    ".config/opencode/auth.json": "KEY",
    ".config/mozilla/firefox/p/logins.json": "KEY",
    ".config/configstore/firebase-tools.json": "KEY",
    ".config/rbw/config.json": "KEY",
    ".sbt/1.0/.credentials": "KEY",
    ".ollama/id_ed25519": "KEY",
    "passwords.kdbx": "KEY",
    ".docker/config.json": "KEY",
    ".kube/config": "KEY",
}


def plant(home: Path) -> None:
    for name, text in SECRETS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    (home / ".profile").write_text("plain")
    (home / ".config" / "plain.toml").write_text("plain")


READ_ALL = """
    import json, os
    found = {}
    for directory, _, names in os.walk(os.environ["HOME"]):
        for name in names:
            path = os.path.join(directory, name)
            try: found[os.path.relpath(path, os.environ["HOME"])] = open(path).read()
            except OSError as error: found[path] = error.strerror
    print(json.dumps(found))
"""


def test_secrets_of_the_home_are_hidden(user: Box) -> None:
    plant(user.arena / "home")
    user.own()
    found = user.python(READ_ALL).json()
    assert {name: text for name, text in found.items() if text} == {
        ".profile": "plain",
        ".config/plain.toml": "plain",
    }


def test_secrets_behind_links_are_hidden(user: Box) -> None:
    home = user.arena / "home"
    (home / "dots" / "ssh").mkdir(parents=True)
    (home / "dots" / "ssh" / "id").write_text("KEY")
    (home / "dots" / "netrc").write_text("KEY")
    (home / ".ssh").symlink_to("dots/ssh")
    (home / ".netrc").symlink_to(home / "dots" / "netrc")
    (home / ".aws").symlink_to("/nowhere")
    user.own()
    found = user.python(READ_ALL).json()
    assert "KEY" not in found.values()
    assert "dots/netrc" in found


def test_secrets_in_a_view_of_the_home_are_hidden(arena: Path) -> None:
    """The whole home is the root; what the session removed is not made again."""
    box = Box(arena, dest=str(arena / "home"))
    plant(arena / "home")
    plant(box.source)
    (box.source / ".netrc").unlink()
    (box.source / ".aws" / "credentials").unlink()
    (box.source / ".aws").rmdir()
    box.own()
    before = sorted(str(path) for path in box.source.rglob("*"))
    found = box.python(READ_ALL).json()
    assert {name: text for name, text in found.items() if text} == {
        ".profile": "plain",
        ".config/plain.toml": "plain",
    }
    assert sorted(str(path) for path in box.source.rglob("*")) == before


def test_secrets_in_a_view_cannot_be_renamed_into_sight(arena: Path) -> None:
    """One step moves the directory above them, the next would look there."""
    box = Box(arena, dest=str(arena / "home"))
    plant(arena / "home")
    plant(box.source)
    box.own()
    moved = box.run("sh", "-c", "mv .config a; mv .ssh b; mv .cargo c; mv .local/share d")
    assert moved.status != 0
    assert (box.source / ".config" / "gh" / "hosts.yml").read_text() == "KEY"
    assert box.run("sh", "-c", "echo x > .config/new && mv .config/new . && cat new").out == "x\n"
    found = box.python(READ_ALL).json()
    assert "KEY" not in found.values()


def test_a_root_that_lies_in_a_hidden_place_is_shown(arena: Path) -> None:
    box = Box(arena, dest=str(arena / "home" / ".config" / "goexfs" / "mine"))
    plant(arena / "home")
    (arena / "home" / ".config" / "goexfs" / "mine").mkdir(parents=True)
    (box.source / "file").write_text("handed over")
    box.own()
    assert box.run("cat", "file").out == "handed over"
    assert box.run("cat", "../../gh/hosts.yml").status != 0


def test_the_daemon_s_directories_are_hidden(user: Box) -> None:
    state = user.arena / "home" / "state"
    state.mkdir()
    (state / "catalog.sqlite").write_text("x")
    user.own()
    result = user.run("ls", "-A", str(state), hide=(str(state), str(user.arena / "views")))
    assert (result.status, result.out) == (0, "")
    assert user.run("ls", str(user.arena / "views")).status != 0


def test_root_s_home_is_an_empty_private_one(arena: Path) -> None:
    box = make_box("root", arena)
    result = box.run("ls", "-A", "/root")
    assert result.out.split() == ["project"]


def test_a_home_that_is_not_there(arena: Path) -> None:
    box = Box(arena, home="/nonexistent/of/nobody", dest="/srv/data/project")
    result = box.run("sh", "-c", "cd; pwd; touch x; ls; ls /srv/data; ls /srv")
    assert (result.status, result.out.split()) == (
        0, ["/nonexistent/of/nobody", "x", "project", "data"],
    )  # fmt: skip


@pytest.mark.parametrize("who", WHO)
def test_directories_above_a_root_that_may_not_be_entered(arena: Path, who: str) -> None:
    shown = arena / "shown"
    (shown / "private" / "deep" / "project").mkdir(parents=True)
    (shown / "private" / "other").write_text("x")
    (shown / "private").chmod(0o700)
    box = make_box(who, arena)
    box.dest = str(shown / "private" / "deep" / "project")
    result = box.run(
        "sh", "-c", f"touch new; ls {shown}/private; ls .", policy={"read": (str(shown),)}
    )
    assert (result.status, result.out.split()) == (0, ["deep", "new"])


def test_several_roots_also_one_inside_another_s_parent(user: Box) -> None:
    second = user.arena / "views" / "one" / "second"
    second.mkdir()
    (second / "b").write_text("b")
    (user.source / "a").write_text("a")
    user.own()
    views = (
        sandbox.View(str(second), f"{user.dest}-2/sub"),
        sandbox.View(str(user.source), user.dest),
    )
    result = user.run("cat", "a", f"{user.dest}-2/sub/b", views=views)
    # The parent of the second root is missing in the read-only home.
    assert result.status == 125
    (user.arena / "home" / "project-2" / "sub").mkdir(parents=True)
    assert user.run("cat", "a", f"{user.dest}-2/sub/b", views=views).out == "ab"


# -- network and sockets --------------------------------------------------------------------


@contextmanager
def listening(family: int, address: Any) -> Iterator[Any]:
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        yield listener.getsockname()


CONNECT = """
    import json, socket, sys
    family, address = json.loads(sys.argv[1])
    try:
        socket.socket(family).connect(tuple(address) if isinstance(address, list) else address)
        print("connected")
    except OSError as error:
        print(error.errno)
"""


def connect(box: Box, family: int, address: Any, **how: Any) -> str:
    out: str = box.python(CONNECT, json.dumps([family, address]), **how).out
    return out.strip()


def test_no_network(box: Box) -> None:
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as (host, port):
        assert connect(box, socket.AF_INET, [host, port]) == str(errno.ECONNREFUSED)
        shared = connect(box, socket.AF_INET, [host, port], policy={"network": "host"})
        assert shared == "connected"
    for address in ("192.0.2.1", "169.254.169.254"):
        assert connect(box, socket.AF_INET, [address, 80]) == str(errno.ENETUNREACH)
    devices = box.run("cat", "/proc/net/dev").out
    assert [line.split(":")[0].strip() for line in devices.splitlines()[2:]] == ["lo"]


def test_abstract_sockets_of_the_host(box: Box) -> None:
    name = f"\0goexfs-test-{os.getpid()}"
    with listening(socket.AF_UNIX, name):
        assert connect(box, socket.AF_UNIX, name) == str(errno.ECONNREFUSED)


def test_sockets_below_visible_directories(user: Box) -> None:
    path = str(user.arena / "home" / "agent.sock")
    with listening(socket.AF_UNIX, path):
        os.chmod(path, 0o777)
        assert connect(user, socket.AF_UNIX, path) in (
            str(errno.ECONNREFUSED), str(errno.EACCES),
        )  # fmt: skip


def test_datagram_sockets_below_visible_directories(user: Box) -> None:
    path = str(user.arena / "home" / "log.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        os.chmod(path, 0o777)
        receiver.setblocking(False)
        code = """
            import socket, sys
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", sys.argv[1])
        """
        assert user.python(code, path).status == 1
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


def test_the_control_socket_is_not_there(box: Box) -> None:
    run = box.arena / "run"
    run.mkdir()
    path = str(run / "goexfs.sock")
    with listening(socket.AF_UNIX, path):
        os.chmod(path, 0o666)
        assert connect(box, socket.AF_UNIX, path, hide=(str(run),)) == str(errno.ENOENT)


# -- bombs ----------------------------------------------------------------------------------


def test_fork_bomb(box: Box) -> None:
    job = box.job("bash", "-c", ":(){ :|:& };: 2>/dev/null; sleep 60")
    result = box.drive(job, {"max_processes": 64, "grace_seconds": 0.2}, timeout=1.5)
    assert result.status == 124
    assert "processes" in result.outcome.exceeded
    assert result.outcome.duration < 10


def test_memory_bomb(box: Box) -> None:
    result = box.python(
        "data = []\nwhile True: data.append(bytearray(1 << 20))", policy={"memory_bytes": 64 << 20}
    )
    assert result.status == 137
    assert result.outcome.exceeded == ("memory",)


def test_memory_bomb_in_the_private_tmp(box: Box) -> None:
    result = box.run(
        "sh", "-c", "head -c 100M /dev/zero > /tmp/x; s=$?; stat -c %s /tmp/x; exit $s",
        policy={"memory_bytes": 256 << 20, "tmp_bytes": 16 << 20},
    )  # fmt: skip
    assert (result.status, result.out) == (1, f"{16 << 20}\n")
    everywhere = box.run(
        "sh", "-c", "head -c 100M /dev/zero > /dev/shm/x", policy={"memory_bytes": 64 << 20}
    )
    assert everywhere.status in (1, 137)


def test_file_size(user: Box) -> None:
    result = user.run(
        "sh", "-c", "head -c 10M /dev/zero > big; stat -c %s big", policy={"file_bytes": 1 << 20}
    )
    assert result.out == f"{1 << 20}\n"


def test_open_files(user: Box) -> None:
    code = """
        import os
        opened = 0
        try:
            while True: os.open("/dev/null", os.O_RDONLY); opened += 1
        except OSError: print(opened)
    """
    assert user.python(code, policy={"open_files": 100}).out == "97\n"


def test_cpu_share(user: Box) -> None:
    """A tenth of a processor: half a second of work takes its time."""
    code = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.1: pass"
    result = user.python(code, policy={"cpu": 0.1})
    assert result.status == 0
    assert result.outcome.duration > 0.5


def test_threads_count_as_processes(user: Box) -> None:
    code = """
        import threading, time
        try:
            for n in range(500): threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        except RuntimeError: print(n)
    """
    assert int(user.python(code, policy={"max_processes": 40}).out) < 40


def test_others_are_not_disturbed_by_a_bomb(user: Box) -> None:
    """A second sandbox runs while the first one is full."""
    bomb = user.job("bash", "-c", "echo x; :(){ :|:& };: 2>/dev/null; sleep 60")
    policy = sandbox.Policy(max_processes=64, grace_seconds=0)
    outcomes: list[sandbox.Outcome] = []

    async def main() -> None:
        cgroups = sandbox.open_cgroups(user.machine)
        exploded = trio.Event()

        async def heard(stream: str, data: bytes) -> None:
            exploded.set()

        async def run(job: sandbox.Job, seconds: float) -> None:
            launch = sandbox.plan(job, policy, user.machine)
            outcomes.append(
                await sandbox.run(launch, cgroups=cgroups, output=heard, timeout=seconds)
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, bomb, 1.5)
            await exploded.wait()
            await trio.sleep(0.3)
            await run(user.job("true", step=2), 10)
        cgroups.close()

    trio.run(main)
    assert [outcome.status for outcome in outcomes] == [0, 124]
    assert outcomes[0].duration < 1.0
