"""A list of hosts, end to end: real scripts, real programs, servers on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import Daemon, User
from servers import Server, serving

Json = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def owner(request: pytest.FixtureRequest, ordinary_user: User) -> User:
    return User(0, 0) if getattr(request, "param", "") == "root" else ordinary_user


both_owners = pytest.mark.parametrize("owner", ["root", "ordinary"], indirect=True)


@pytest.fixture
def project(tree: Path, owner: User, goexfs: Goexfs) -> Path:
    owner.own(tree)
    goexfs("mount", tree, user=owner)
    return tree


def test_an_allowed_host_is_reached_by_the_usual_programs(
    project: Path, owner: User, goexfs: Goexfs, goexfs_json: Json, server: Server
) -> None:
    url = f"http://127.0.0.1:{server.port}/x"
    script = f"""
        curl -sS {url}
        curl -sS -d body --proxytunnel {url}
        python3 -c 'import urllib.request as r; print(r.urlopen("{url}").status)'
    """
    allow = ["--allow-host", f"127.0.0.1:{server.port}"]
    found = goexfs_json("run", *allow, "--", "sh", "-c", script, user=owner, cwd=project)
    assert found["stderr"] == ""
    assert found["stdout"].endswith("200\n")
    assert [each["path"] for each in server.seen] == ["/x"] * 3
    network = found["network"]
    assert (network["total"], network["refused"]) == (3, 0)
    assert sorted(each["method"] for each in network["requests"]) == ["CONNECT", "GET", "GET"]
    for each in network["requests"]:
        assert (each["host"], each["port"], each["allowed"]) == ("127.0.0.1", server.port, True)
        assert each["sent"] > 0
        assert each["received"] > 0
    listed = goexfs("log", "--network", user=owner, cwd=project).out
    assert listed.count(f"127.0.0.1:{server.port}") == 3
    assert goexfs_json("log", "--network", user=owner, cwd=project)["network"][0]["step"] == 1


def test_what_is_not_listed_is_refused_with_the_rule_that_would_allow_it(
    project: Path, owner: User, goexfs: Goexfs, server: Server
) -> None:
    script = f"""
        curl -s -o /dev/null -w '%{{http_code}}\\n' http://10.9.8.7:{server.port}/
        curl -sS https://example.org/ 2>&1 | grep -o 'response 403'
        curl -s https://example.net:{server.port}/ || echo no
    """
    done = goexfs(
        "run", "--allow-host", "example.net", "--", "sh", "-c", script, user=owner, cwd=project
    )
    assert done.out == "403\nresponse 403\nno\n"
    rules = (f"10.9.8.7:{server.port}", "example.org:443", f"example.net:{server.port}")
    for rule in rules:
        assert f"goexfs: refused the network: --allow-host {rule} would allow it" in done.err
    assert server.seen == []


def test_by_default_there_is_no_way_out(
    project: Path, owner: User, goexfs_json: Json, server: Server
) -> None:
    for more in ([], ["--network", "none"]):
        script = f"env | grep -i proxy; curl -sS http://127.0.0.1:{server.port}/"
        found = goexfs_json(
            "run", *more, "--", "sh", "-c", script, user=owner, cwd=project, status=7
        )
        assert found["stdout"] == ""
        assert found["network"] is None
    assert server.seen == []


_ROUND_THE_PROXY = """
import json, socket, sys
port = int(sys.argv[1])
found = {}
def attempt(name, function):
    try:
        found[name] = repr(function())
    except OSError as error:
        found[name] = type(error).__name__
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(5)
        s.connect(address)
        return "connected"
def datagram(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", address)
        return "sent"
def rebind():
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", 3128))
        s.listen()
        return "bound"
attempt("host's loopback", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
attempt("host's address", lambda: connect(socket.AF_INET, (sys.argv[2], port)))
attempt("public", lambda: connect(socket.AF_INET, ("192.0.2.1", 443)))
attempt("six", lambda: connect(socket.AF_INET6, ("2001:db8::1", 443)))
attempt("dns", lambda: socket.getaddrinfo("example.org", 443))
attempt("query", lambda: datagram(("192.0.2.53", 53)))
attempt("abstract", lambda: connect(socket.AF_UNIX, "\\0" + sys.argv[3]))
attempt("in its place", rebind)
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
print(json.dumps(found))
"""


@both_owners
def test_there_is_no_way_round_the_proxy(
    project: Path, owner: User, goexfs_json: Json, server: Server
) -> None:
    name = f"goexfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        arguments = [str(server.port), _own_address(), name]
        found = goexfs_json(
            "run", "--allow-host", "*", "--", "python3", "-c", _ROUND_THE_PROXY, *arguments,
            user=owner, cwd=project,
        )  # fmt: skip
    outcomes = json.loads(found["stdout"])
    assert len(outcomes) == 10
    assert not [name for name, said in outcomes.items() if not said.endswith(("Error", "gaierror"))]


def _own_address() -> str:
    """An address of this machine that is not a loopback one, if it has any."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def test_a_listed_name_leads_to_no_address_of_this_machine(
    project: Path, owner: User, goexfs_json: Json, server: Server
) -> None:
    """``localhost`` is the name whose address everybody knows; a network's is as good as any."""
    port = server.port
    script = f"curl -s -o /dev/null -w '%{{http_code}}' http://localhost:{port}/"
    allow = ["--allow-host", f"localhost:{port}", "--allow-host", f"*:{port}"]
    found = goexfs_json("run", *allow, "--", "sh", "-c", script, user=owner, cwd=project)
    assert found["stdout"] == "403"
    asked = found["network"]["requests"][0]
    assert "a loopback address" in asked["why"]
    assert asked["rule"] in (f"127.0.0.1:{port}", f"[::1]:{port}")
    assert server.seen == []
    allow += ["--allow-host", f"127.0.0.0/8:{port}"]
    found = goexfs_json("run", *allow, "--", "sh", "-c", script, user=owner, cwd=project)
    assert found["stdout"] == "200"


def test_addresses_of_this_machine_are_nobody_s_business(
    project: Path, owner: User, goexfs: Goexfs, server: Server
) -> None:
    own, port = _own_address(), server.port
    spellings = [own, f"[::ffff:{own}]", "127.1", "0x7f.1", "2130706433", "0", "[::]", "127.0.0.1."]
    urls = " ".join(f"http://{host}:{port}/" for host in spellings)
    script = (
        f"for url in {urls}; do curl -s --path-as-is -o /dev/null -w '%{{http_code}} ' $url; done"
    )
    done = goexfs("run", "--allow-host", f"*:{port}", "--", "sh", "-c", script, user=owner,
                  cwd=project, status=None)  # fmt: skip
    assert set(done.out.split()) <= {"403", "400", "000"}
    assert server.seen == []


@both_owners
def test_the_proxy_is_nobody_and_ends_with_the_step(
    project: Path, owner: User, daemon: Daemon, server: Server
) -> None:
    """While a connection is open; and when the script is killed with it."""

    def look() -> list[int]:
        assert daemon.process is not None
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if _proxy(pid, daemon.process.pid)]

    host = f"127.0.0.1:{server.port}"
    server.answer.clear()
    with subprocess.Popen(
        [Path(sys.executable).parent / "goexfs", "run", "--allow-host", host, "--",
         "curl", "-s", f"http://{host}/"],
        env=daemon.environment(), cwd=project, stdin=subprocess.DEVNULL,
        user=owner.uid, group=owner.gid, extra_groups=[],
    ) as client:  # fmt: skip
        try:
            assert server.asked.wait(30)
            (proxy,) = look()
            assert int(_status(proxy, "CapEff"), 16) == 0
            assert int(_status(proxy, "CapBnd"), 16) == 0
            assert _status(proxy, "NoNewPrivs").strip() == "1"
            assert _status(proxy, "Groups").split() == []
            client.send_signal(signal.SIGINT)
            client.wait(30)
            assert look() == []
        finally:
            server.answer.set()


def _proxy(pid: int, daemon: int) -> bool:
    """Whether a process is a proxy of this daemon's: by its uid."""
    try:
        uid = int(_status(pid, "Uid").split()[0])
        while uid >= 1_879_048_192 + 32768 and pid > 1:
            pid = int(_status(pid, "PPid"))
            if pid == daemon:
                return True
    except (FileNotFoundError, ProcessLookupError):
        pass
    return False


def _status(pid: int, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(key + ":")).split(":", 1)[1]
