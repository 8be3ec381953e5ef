"""Credentials: what a script can do with a secret, and every place where it must not be."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon, Done, User
from goexfsd.egress.authority import Authority
from servers import Server, serving

SECRET = "ghp-the-real-value-0123456789"
HOSTS = "127.0.0.1 localhost\n127.0.0.1 api.test other.test\n"


@dataclass
class Place:
    """A daemon for whom some names are this machine, servers of those names, a user."""

    daemon: Daemon
    user: User
    project: Path
    home: Path
    api: Server
    plain: Server

    def __call__(self, *arguments: str, status: int = 0, **how: Any) -> Done:
        done = self.daemon.run(*arguments, user=self.user, cwd=self.project, **how)
        assert done.status == status, (done, self.daemon.said()[-3000:])
        return done

    def script(self, text: str, *more: str) -> Any:
        return json.loads(self("run", "--json", *more, "--", "sh", "-c", text).out)

    def allow(self, *credentials: str) -> None:
        """The owner's policy: both servers, and these credentials."""
        hosts = [f"{name}:{port}" for name in ("api.test", "other.test", "127.0.0.1")
                 for port in (self.api.port, self.plain.port)]  # fmt: skip
        tables = "".join(f"\n[[credentials]]\n{each}\n" for each in credentials)
        policies = self.home / ".config" / "goexfs"
        policies.mkdir(parents=True, exist_ok=True)
        text = f'network = "allow"\nallow = {json.dumps(hosts)}\n{tables}'
        (policies / "default.toml").write_text(text)
        self.user.own(self.home)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(["api.test", "other.test"])


@pytest.fixture(scope="module")
def one_place(temporary: Path, authority: Authority) -> Iterator[Place]:
    """The names are in the daemon's own /etc/hosts, the authority among those that it trusts."""
    arena = Path(tempfile.mkdtemp(prefix="credentials-", dir=temporary))
    arena.chmod(0o755)
    user = User(21001, 21001)
    for name in ("home", "project", "daemon"):
        (arena / name).mkdir()
    known = Path("/etc/passwd").read_text()
    (arena / "passwd").write_text(f"{known}tester:x:21001:21001::{arena}/home:/bin/sh\n")
    (arena / "hosts").write_text(HOSTS)
    (arena / "ca.pem").write_bytes(authority.pem())
    bound = [f"mount --bind {arena}/{name} /etc/{name}" for name in ("hosts", "passwd")]
    begin = " && ".join([*bound, f'SSL_CERT_FILE={arena}/ca.pem exec "$@"'])
    wrapper = ("unshare", "--mount", "--propagation", "private", "sh", "-c", begin, "sh")
    config = "[store]\nsize = 536870912\n"
    daemon = Daemon(arena / "daemon", config, wrapper=wrapper)
    with ExitStack() as stack:
        api = stack.enter_context(serving(_both(authority)))
        plain = stack.enter_context(serving())
        daemon.start()
        stack.callback(shutil.rmtree, arena, ignore_errors=True)
        stack.callback(daemon.stop)
        found = Place(daemon, user, user.own(arena / "project"), arena / "home", api, plain)
        yield found


@pytest.fixture
def place(one_place: Place) -> Iterator[Place]:
    """It, with a session of its own, no secrets and no policy."""
    one_place("mount", str(one_place.project))
    yield one_place
    one_place("discard")
    for each in json.loads(one_place("secret", "list", "--json").out)["secrets"]:
        one_place("secret", "rm", each["name"])
    for server in (one_place.api, one_place.plain):
        server.seen.clear()
    for left in one_place.project.iterdir():
        left.unlink()


def _both(authority: Authority) -> ssl.SSLContext:
    """Answers as either name."""
    context = authority.context("api.test")
    other = authority.context("other.test")

    def choose(sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name == "other.test":
            sock.context = other

    context.sni_callback = choose
    return context


BEARER = """
secret = "github"
host = "api.test:{port}"
format = "Bearer {{}}"
env = "GITHUB_TOKEN"
"""


def keep(place: Place, *more: str) -> None:
    place("secret", "set", "github", *more, input=SECRET + "\n")


def test_https_to_its_host_carries_it_and_the_script_never_has_it(place: Place) -> None:
    keep(place)
    place.allow(BEARER.format(port=place.api.port))
    url = f"https://api.test:{place.api.port}/user"
    other = url.replace("api.test", "other.test")
    plain = f"http://api.test:{place.plain.port}/user"
    python = (
        "import os, urllib.request as r; print(r.urlopen(r.Request('URL', headers={'Authorization':"
        " 'token ' + os.environ['GITHUB_TOKEN']})).status)"
    )
    script = f"""
        echo "$GITHUB_TOKEN"
        for url in {url} {other} {plain}; do
            curl -sS -H "Authorization: Bearer $GITHUB_TOKEN" -H "X-Copy: $GITHUB_TOKEN" $url; echo
        done
        python3 -c "{python.replace("URL", url)}"
        curl -sS {url}; echo
        env; cat /proc/self/environ /proc/1/environ /proc/*/cmdline /run/goexfs-ca.pem
    """
    found = place.script(script)
    assert found["status"] == 0, found["stderr"]
    placeholder, first, second, third, status, fourth, *rest = found["stdout"].splitlines()
    assert placeholder.startswith("goexfs_")
    sent = [each["headers"].get("authorization") for each in (*place.api.seen, *place.plain.seen)]
    assert sent == [
        f"Bearer {SECRET}", f"Bearer {placeholder}", f"Bearer {SECRET}", None,
        f"Bearer {placeholder}",
    ]  # fmt: skip
    copies = [each["headers"].get("x-copy") for each in (*place.api.seen, *place.plain.seen)]
    assert set(copies) == {placeholder, None}
    assert status == "200"
    assert json.loads(first)["headers"]["authorization"] == "Bearer " + "*" * len(SECRET)
    assert json.loads(second)["headers"]["authorization"] == f"Bearer {placeholder}"
    assert json.loads(third)["headers"]["authorization"] == f"Bearer {placeholder}"
    assert "authorization" not in json.loads(fourth)["headers"]
    assert len(rest) > 10
    methods = [(each["method"], each["host"]) for each in found["network"]["requests"]]
    assert methods == [("GET", "api.test"), ("CONNECT", "other.test"), ("GET", "api.test"),
                       ("GET", "api.test"), ("GET", "api.test")]  # fmt: skip
    assert SECRET not in json.dumps(found)
    again = place.script('echo "$GITHUB_TOKEN"')["stdout"].strip()
    assert again.startswith("goexfs_")
    assert again != placeholder
    _nowhere(place)


def _nowhere(place: Place) -> None:
    """The value is in root's file, and in nothing else that the daemon or a command leaves."""
    for command in (["log", "--json", "--network"], ["log"], ["status", "--json"], ["output", "1"],
                    ["secret", "list", "--json"], ["secret", "list"], ["policy", "show", "--json"],
                    ["run", "--explain", "--json", "--", "true"], ["diff"]):  # fmt: skip
        done = place(*command)
        assert SECRET not in done.out + done.err, command
    state = place.daemon.state
    holding = subprocess.run(
        ["grep", "-rlaF", SECRET, str(place.daemon.directory)],
        stdout=subprocess.PIPE, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert holding == [str(state / "secrets" / "21001.json")]
    assert os.stat(holding[0]).st_mode & 0o777 == 0o600
    assert os.stat(holding[0]).st_uid == 0


def test_the_step_s_authority_counts_for_the_credential_s_host_alone(place: Place) -> None:
    keep(place)
    place.allow(BEARER.format(port=place.api.port))
    show = "openssl storeutl -noout -text -certs /run/goexfs-ca.pem; ls -l /run/goexfs-ca.pem"
    text = place.script(show)["stdout"]
    last = text.split("Name Constraints: critical")[-1].split("X509v3")[0].split()
    assert last == ["Permitted:", "DNS:api.test"]
    assert "PRIVATE" not in place.script("cat /run/goexfs-ca.pem")["stdout"]


@pytest.mark.parametrize("how", ["format", "basic", "always", "plain"])
def test_ways_to_carry_it(place: Place, how: str) -> None:
    keep(place)
    tls, bare = f"api.test:{place.api.port}", f"http://api.test:{place.plain.port}"
    lines = {
        "format": f'host = "{tls}"\nheader = "X-Api-Key"\nformat = "key={{}};"\nenv = "KEY"',
        "basic": f'host = "{tls}"\nenv = "KEY"',
        "always": f'host = "{tls}"\nformat = "token {{}}"',
        "plain": f'host = "{bare}"\nenv = "KEY"',
    }
    place.allow(f'secret = "github"\n{lines[how]}')
    url = f"https://{tls}/" if how != "plain" else f"{bare}/"
    options = {
        "format": '-H "X-Api-Key: $KEY"',
        "basic": '-u "me:$KEY"',
        "always": "",
        "plain": '-H "Authorization: Bearer $KEY"',
    }
    place.script(f"curl -sS -o /dev/null {options[how]} {url}")
    headers = (place.plain if how == "plain" else place.api).seen[0]["headers"]
    import base64

    assert (
        headers["x-api-key" if how == "format" else "authorization"]
        == {
            "format": f"key={SECRET};",
            "basic": "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode(),
            "always": f"token {SECRET}",
            "plain": f"Bearer {SECRET}",
        }[how]
    )


def test_smuggling_inside_the_tunnel(place: Place) -> None:
    """What is refused outside is refused where TLS ends in the proxy, too."""
    keep(place)
    place.allow(BEARER.format(port=place.api.port))
    code = r"""
import os, socket, ssl
host, port, token = "api.test", PORT, os.environ["GITHUB_TOKEN"]
for head in ("GET / HTTP/1.1\r\nHost: other.test:PORT", "GET / HTTP/1.1",
             "GET https://other.test:PORT/ HTTP/1.1\r\nHost: api.test:PORT",
             "POST / HTTP/1.1\r\nHost: api.test:PORT\r\nContent-Length: 3\r\n"
             "Transfer-Encoding: chunked",
             "TRACE / HTTP/1.1\r\nHost: api.test:PORT",
             "CONNECT other.test:PORT HTTP/1.1\r\nHost: x"):
    sock = socket.create_connection(("127.0.0.1", 3128))
    sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert sock.recv(4096).startswith(b"HTTP/1.1 200"), head
    with ssl.create_default_context().wrap_socket(sock, server_hostname=host) as secure:
        secure.sendall(f"{head}\r\nAuthorization: {token}\r\n\r\n".encode())
        print(secure.recv(4096)[9:12].decode())
""".replace("PORT", str(place.api.port))
    (place.project / "smuggle.py").write_text(code)
    found = place.script("python3 smuggle.py")
    assert found["stderr"] == ""
    assert found["stdout"].split() == ["421", "400", "400", "400", "405", "400"]
    assert place.api.seen == []


def test_a_secret_that_is_missing_or_not_for_that_host_refuses_the_run(place: Place) -> None:
    place.allow(BEARER.format(port=place.api.port))
    done = place("run", "--", "true", status=4)
    assert "goexfs secret set github" in done.err
    keep(place, "--host", "other.test:443")
    done = place("run", "--", "true", status=5)
    assert "other.test:443" in done.err
    assert SECRET not in done.err


def test_a_project_binds_no_secrets(place: Place) -> None:
    keep(place)
    place.allow()
    text = f"""
network = "allow"
allow = ["api.test:{place.api.port}", "127.0.0.1:{place.api.port}", "evil.test:443"]
[[credentials]]
secret = "github"
host = "api.test:{place.api.port}"
"""
    (place.project / ".goexfs.toml").write_text(text)
    found = json.loads(place("policy", "show", "--json").out)
    values = {each["key"]: each["value"] for each in found["settings"]}
    assert values["credentials"] == []
    assert values["allow"] == [f"{name}:{place.api.port}" for name in ("api.test", "127.0.0.1")]
    assert any("cannot use your secrets" in note for note in found["notes"])
    assert any("evil.test:443 is more than you grant" in note for note in found["notes"])
    place.script(f"curl -skS -o /dev/null https://api.test:{place.api.port}/")
    assert "authorization" not in place.api.seen[0]["headers"]


def test_secrets_are_their_owner_s(place: Place) -> None:
    keep(place)
    stranger = place.daemon.run("secret", "list", "--json", user=User(21002, 21002))
    assert json.loads(stranger.out) == {"secrets": []}
    assert place.daemon.run("secret", "rm", "github", user=User(21002, 21002)).status == 4
    done = place("secret", "set", "github", SECRET, status=2, input="")
    assert SECRET not in done.out + done.err
    done = place("secret", "set", "github", status=2, input=f"{SECRET}\nsecond line")
    assert SECRET not in done.out + done.err
    listed = json.loads(place("secret", "list", "--json").out)["secrets"]
    assert [each["name"] for each in listed] == ["github"]
    place("secret", "rm", "github")
    assert json.loads(place("secret", "list", "--json").out) == {"secrets": []}
