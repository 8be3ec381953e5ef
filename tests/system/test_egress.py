"""A list of hosts, end to end: real scripts, real programs, servers on this machine."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import User

Json = Callable[..., Any]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Says what it was asked, headers and all."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        said = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": self.rfile.read(length).decode("latin-1"),
        }
        self.server.seen.append(said)
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict[str, Any]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(params=["root", "ordinary"])
def owner(request: pytest.FixtureRequest, ordinary_user: User) -> User:
    return User(0, 0) if request.param == "root" else ordinary_user


@pytest.fixture
def project(tree: Path, owner: User, goexfs: Goexfs) -> Path:
    owner.own(tree)
    goexfs("mount", tree, user=owner)
    return tree


def test_an_allowed_host_is_reached_by_the_usual_programs(
    project: Path, owner: User, goexfs: Goexfs, goexfs_json: Json, server: _Server
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
