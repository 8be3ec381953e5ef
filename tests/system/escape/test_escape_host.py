"""Out of the sandbox to the rest of the machine: goexfs itself, processes, IPC, the network."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from attacks import Field
from attacks import open_field as open_field
from daemons import User

SECRET = "GOEXFS_ESCAPE_TEST=of-another-process"

# -- goexfs's own -------------------------------------------------------------------------------

GOEXFS = {
    "control socket": "socket.socket(socket.AF_UNIX).connect(at.socket); won = True",
    "control socket through /proc": """
        for pid in pids():
            try:
                socket.socket(socket.AF_UNIX).connect(f'/proc/{pid}/root' + at.socket)
                won = True
            except OSError: pass
    """,
    "the socket of the fork server": """
        for name in os.listdir(at.runtime + '/workers'): won = True
    """,
    "state directory": "won = bool(os.listdir(at.state))",
    "catalog": "won = bool(open(at.state + '/catalog.sqlite', 'rb').read(16))",
    "store": "won = bool(os.listdir(at.state + '/store'))",
    "store image": "won = bool(open(at.state + '/store.img', 'rb').read(1))",
    "layer of the session itself": """
        won = bool(os.listdir(f'{at.state}/store/sessions/{at.session}/layer'))
    """,
    "runtime directory": "won = bool(os.listdir(at.runtime))",
    "view of another session": "won = 'README.md' in os.listdir(at.other_view)",
    "mountpoint of another session": "won = 'README.md' in os.listdir(at.other_at)",
    "the session's own mountpoint, past the masks": """
        won = bool(os.listdir(f'{at.runtime}/views/{at.session}/mnt'))
    """,
    "device of the store": """
        import glob
        for name in glob.glob('/dev/loop*') + glob.glob('/dev/block/*'):
            won = True
    """,
    "control group of the step": """
        for place in ('/sys/fs/cgroup', '/sys/fs', '/proc/1/cgroup'):
            if os.path.isdir(place) and os.listdir(place): won = True
    """,
}


@pytest.fixture
def other_session(field: Field) -> Iterator[None]:
    """One more session of the same owner's, shown at a mountpoint beside the root."""
    place, at = field.arena / "other", field.arena / "at"
    for directory in (place, at):
        directory.mkdir()
    (place / "README.md").write_text("theirs")
    field.owner.own(place)
    field.owner.own(at)
    session = field.json("mount", place, "--at", at)
    field.at["other_at"] = str(at)
    field.at["other_view"] = f"{field.daemon.runtime}/views/{session['session']}/mnt"
    yield
    field.goexfs("discard", "-s", session["session"])


@pytest.mark.usefixtures("other_session")
def test_goexfs_s_own_things_are_not_there(field: Field) -> None:
    assert field.inside(GOEXFS, "-s", field.at["session"]) == {}


@pytest.mark.usefixtures("other_session")
def test_nor_where_the_script_may_read_all_around_them(field: Field) -> None:
    """Everything that the daemon and the tests have is in sight then, but for what is masked."""
    everything = field.daemon.directory.parent
    shown = {"in sight": f"won = bool(os.listdir({str(field.outside)!r}))"}
    found = field.inside({**GOEXFS, **shown}, "-s", field.at["session"], "--read", everything)
    assert set(found) == {"in sight"}


@pytest.mark.usefixtures("other_session")
def test_its_owner_outside_reaches_their_own_sessions(field: Field) -> None:
    own = ("control socket", "view of another session", "mountpoint of another session")
    assert field.control({name: GOEXFS[name] for name in own}) == set(own)


# -- processes ----------------------------------------------------------------------------------

PROCESSES = {
    "signal": "os.kill(at.pid, 0); won = True",
    "signal to all": """
        signal.signal(signal.SIGCONT, signal.SIG_IGN)
        os.kill(-1, signal.SIGCONT)
        won = at.pid in pids()
    """,
    "pidfd": "os.pidfd_open(at.pid); won = True",
    "environment": """
        for pid in pids():
            try: won = won or at.secret.encode() in open(f'/proc/{pid}/environ', 'rb').read()
            except OSError: pass
    """,
    "command line": """
        for pid in pids():
            try: won = won or b'infinity' in open(f'/proc/{pid}/cmdline', 'rb').read()
            except OSError: pass
    """,
    "descriptors": "won = bool(os.listdir(f'/proc/{at.pid}/fd'))",
    "memory": "open(f'/proc/{at.pid}/mem', 'rb'); won = True",
    "priority": "os.setpriority(os.PRIO_PROCESS, at.pid, 19); won = True",
    "affinity": "os.sched_getaffinity(at.pid); won = True",
    "limits": "import resource; resource.prlimit(at.pid, resource.RLIMIT_CORE); won = True",
    "System V shared memory": """
        won = libc.shmget(at.ipc_key, 0, 0) >= 0
    """,
    "oom score of the first process": """
        os.write(os.open('/proc/1/oom_score_adj', os.O_WRONLY), b'-500')
        won = True
    """,
    "being spared when memory is short": """
        os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-900')
        won = True
    """,
}
# Refused to ordinary users outside, too, or not safe to try there.
UNSAFE_PROCESSES = {
    "ptrace": "won = libc.ptrace(16, at.pid, 0, 0) == 0",
    "process_vm_readv": """
        place = ctypes.create_string_buffer(8)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(place), 8)
        won = libc.process_vm_readv(at.pid, vector, 1, vector, 1, 0) >= 0
    """,
    "core dump through core_pattern": """
        os.write(os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY), b'|/bin/true')
        won = True
    """,
    "core dump": """
        import resource
        for wanted in ((0, 0), (0, 1), (4096, 4096)):
            try: resource.setrlimit(resource.RLIMIT_CORE, wanted)
            except (OSError, ValueError): pass
            won = won or resource.getrlimit(resource.RLIMIT_CORE) != (1, 1)
        limit = (ctypes.c_uint64 * 2)(0, 0)
        libc.syscall(160, 4, limit)
        libc.syscall(302, 0, ctypes.c_long(4 + (1 << 32)), limit, None)
        won = won or resource.getrlimit(resource.RLIMIT_CORE) != (1, 1)
    """,
    "real-time priority": """
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        won = True
    """,
    "more open files": """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
        won = True
    """,
}


_ROOT_S = ("oom score of the first process", "being spared when memory is short", "signal to all")
"""Not tried outside: they work there for root alone, or would reach too far."""


@contextmanager
def victim(field: Field) -> Iterator[None]:
    """A process of the owner's with a secret in its environment, and shared memory of theirs."""
    libc = ctypes.CDLL(None)
    key = 0x60E0 + os.getpid()
    segment = libc.shmget(key, 4096, 0o1666)
    assert segment >= 0
    name, _, value = SECRET.partition("=")
    with subprocess.Popen(
        ["sleep", "infinity"], env={name: value, "PATH": "/usr/bin"},
        user=field.owner.uid, group=field.owner.gid, extra_groups=[],
    ) as process:  # fmt: skip
        field.at |= {"pid": process.pid, "secret": SECRET, "ipc_key": key}
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()
            libc.shmctl(segment, 0, None)


def test_processes_outside_cannot_be_touched_or_read(field: Field) -> None:
    with victim(field):
        assert field.inside({**PROCESSES, **UNSAFE_PROCESSES}) == {}
        safe = {n: code for n, code in PROCESSES.items() if n not in _ROOT_S}
        assert field.control(safe) == set(safe)


# -- sockets and the network --------------------------------------------------------------------

NETWORK = {
    "abstract socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + at.abstract); won = True",
    "loopback, TCP": "socket.create_connection(('127.0.0.1', at.tcp), 3); won = True",
    "loopback, IPv6": "socket.create_connection(('::1', at.tcp6), 3); won = True",
    "0.0.0.0": "socket.create_connection(('0.0.0.0', at.tcp), 3); won = True",
    "an address of this machine": """
        socket.create_connection((at.address, at.tcp_all), 3)
        won = True
    """,
    "a socket file outside": "socket.socket(socket.AF_UNIX).connect(at.outside + '/s'); won = True",
    "interfaces": "won = len(socket.if_nameindex()) > 1",
    "routes": "won = len(open('/proc/net/route').readlines()) > 1",
    "sockets of others": "won = at.abstract in open('/proc/net/unix').read()",
}
UNSAFE_NETWORK = {
    "metadata service": "socket.create_connection(('169.254.169.254', 80), 3); won = True",
    "a name server": """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(('192.0.2.53', 53))
        sock.send(b'x'); won = True
    """,
    "names": "socket.getaddrinfo('example.com', 80); won = True",
    "broadcast": """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(b'x', ('255.255.255.255', 9)); won = True
    """,
    "raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); won = True",
    "packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3); won = True",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); won = True",
    "virtual machine sockets": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); won = True",
    "kernel crypto": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); won = True",
    "new network namespace": "won = libc.unshare(0x40000000) == 0",
    "well-known sockets": """
        for path in ('/run/docker.sock', '/var/run/docker.sock', '/run/podman/podman.sock',
                     '/run/dbus/system_bus_socket', '/run/systemd/private', '/run/containerd',
                     '/run/user', '/tmp/.X11-unix', '/run/snapd.socket', '/run/udev/control'):
            won = won or os.path.lexists(path)
    """,
}


@contextmanager
def listeners(field: Field) -> Iterator[None]:
    with ExitStack() as stack:

        def listen(family: int, address: Any) -> Any:
            sock = stack.enter_context(socket.socket(family))
            sock.bind(address)
            sock.listen()
            return sock.getsockname()

        field.at["abstract"] = f"goexfs-escape-{os.getpid()}"
        listen(socket.AF_UNIX, "\0" + field.at["abstract"])
        path = field.outside / "s"
        listen(socket.AF_UNIX, str(path))
        path.chmod(0o777)
        field.at["tcp"] = listen(socket.AF_INET, ("127.0.0.1", 0))[1]
        field.at["tcp6"] = listen(socket.AF_INET6, ("::1", 0))[1] if _has_ipv6() else 9
        field.at["address"] = _own_address()
        field.at["tcp_all"] = listen(socket.AF_INET, ("0.0.0.0", 0))[1]
        yield
        path.unlink()


def landlock() -> int:
    """The version of Landlock that this kernel has; -1: none."""
    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)  # type: ignore[no-any-return]


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


def _own_address() -> str:
    """An address of this machine's that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])


def test_nothing_of_the_network_is_reached(field: Field) -> None:
    with listeners(field):
        assert field.inside({**NETWORK, **UNSAFE_NETWORK}) == {}
        assert field.inside(NETWORK, "--read", field.arena) == {}
        assert field.inside({**NETWORK, **UNSAFE_NETWORK}, "--allow-host", "*") == {}
        always = {"interfaces", "routes"} | (set() if _has_ipv6() else {"loopback, IPv6"})
        assert field.control(NETWORK) | always == set(NETWORK)


def test_the_host_s_network_is_only_there_by_choice(field: Field) -> None:
    """And then that of the machine, with its loopback services: the page says so."""
    with listeners(field):
        found = field.inside(NETWORK, "--network", "host")
    assert "loopback, TCP" in found
    assert "a socket file outside" not in found
    assert ("abstract socket" in found) == (landlock() < 6)


# -- secrets ------------------------------------------------------------------------------------


def test_variables_that_look_like_secrets_are_not_passed_on(field: Field) -> None:
    env = {"MY_API_KEY": "x", "PLAIN": "y", "AWS_PROFILE": "z"}
    field.goexfs("run", "-e", "MY_API_KEY", "--", "true", env=env, status=5)
    out = field.goexfs("run", "-e", "PLAIN", "--", "env", env=env)
    assert "PLAIN=y" in out
    assert "AWS_PROFILE" not in out
    assert "MY_API_KEY" not in out


def test_another_user_s_files_are_as_closed_as_ever(field: Field, other_user: User) -> None:
    private = Path(field.arena / "private")
    private.mkdir(mode=0o700)
    (private / "key").write_text("KEY")
    other_user.own(private)
    attack = {"read": f"won = bool(open({str(private)!r} + '/key').read())"}
    assert field.inside(attack, "--read", field.arena) == {}
