"""Hosts and credentials in a policy: who may grant them, and what the sandbox gets of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.errors import Denied, Usage
from goexfs.protocol import Credential, Rules
from goexfsd.hosts import Hosts, parse_host
from goexfsd.sandbox.look import Found
from goexfsd.sandbox.machine import Machine
from goexfsd.sandbox.plan import AUTHORITY, Job, Way, arguments, plan
from goexfsd.sandbox.policy import Policy
from goexfsd.sandbox.resolve import Kind, Resolved, Said, resolve, understand

CEILING = Rules(network="host")
TOKEN = Credential(secret="github", host="api.test", format="Bearer {}", env="GITHUB_TOKEN")


def said(kind: Kind, **rules: Any) -> Said:
    return Said(kind, kind, Rules(**rules))


def made(*parts: Said, ceiling: Rules = CEILING) -> Resolved:
    return resolve("default", parts, ceiling)


def test_lists_add_up() -> None:
    found = made(
        said("user", network="allow", allow=["A.test", "*.b.test:443"]),
        said("run", allow=["c.test:80", "a.test"]),
    )
    assert found.policy.network == "allow"
    assert found.policy.allow == ("a.test", "*.b.test:443", "c.test:80")
    assert found.sources["allow"] == "user + run"


def test_a_project_takes_away_what_it_does_not_list() -> None:
    found = made(
        said("user", network="allow", allow=["a.test", "*.b.test", "10.0.0.0/8:80"]),
        said("project", network="allow", allow=["x.b.test:443", "evil.test", "10.1.0.0/16:80"]),
        said("run", allow=["c.test"]),
    )
    assert found.policy.allow == ("x.b.test:443", "10.1.0.0/16:80", "c.test")
    assert [note for note in found.notes if "evil.test is more than you grant" in note]


def test_a_project_makes_a_list_of_the_whole_network_and_none_of_none() -> None:
    mine = {"network": "allow", "allow": ["a.test"]}
    whole = made(said("user", network="host"), said("project", **mine))
    assert (whole.policy.network, whole.policy.allow) == ("allow", ("a.test",))
    none = made(said("project", **mine))
    assert (none.policy.network, none.policy.allow) == ("none", ())
    empty = made(said("user", network="allow"), said("project", **mine))
    assert (empty.policy.network, empty.policy.allow) == ("allow", ())


NAMES = ["a.test", "x.a.test", "b.test", "127.0.0.1", "10.1.2.3"]
RULES = [*NAMES, "*", "*.a.test", "*:443", "10.0.0.0/8", "10.1.0.0/16:443", "a.test:443"]
LISTS = st.lists(st.sampled_from(RULES), max_size=4)
NETWORKS = st.sampled_from([None, "none", "allow", "host"])


def reached(policy: Policy) -> set[tuple[str, int]]:
    hosts = Hosts(policy.allow)
    return {
        (name, port)
        for name in NAMES
        for port in (80, 443)
        if policy.network == "host"
        or (policy.network == "allow" and hosts.lists(parse_host(name), port))
    }


@given(NETWORKS, LISTS, st.lists(st.tuples(NETWORKS, LISTS), max_size=3))
def test_no_project_reaches_more(
    network: str | None, allow: list[str], projects: list[tuple[str | None, list[str]]]
) -> None:
    mine = said("user", network=network, allow=allow, credentials=[TOKEN])
    theirs = [said("project", network=n, allow=a, credentials=[TOKEN]) for n, a in projects]
    alone, found = made(mine), made(mine, *theirs)
    assert reached(found.policy) <= reached(alone.policy)
    assert found.policy.credentials == (TOKEN,)


def test_the_ceiling() -> None:
    ceiling = Rules(network="allow")
    assert made(said("user", network="host"), ceiling=ceiling).policy.network == "allow"
    with pytest.raises(Denied):
        made(said("run", network="host"), ceiling=ceiling)
    with pytest.raises(Denied):
        made(said("run", network="allow", allow=["a.test"]), ceiling=Rules(network="none"))


def test_a_credential_without_use_is_noted() -> None:
    found = made(said("user", network="allow", allow=["a.test"], credentials=[TOKEN]))
    assert found.notes == ("credentials: github has no use: api.test:443 is not allowed",)
    assert found.values["credentials"] == [
        "github: Authorization of https://api.test:443, $GITHUB_TOKEN"
    ]


@pytest.mark.parametrize(
    "table",
    [
        {"allow": ["a b"]}, {"allow": ["http://a.test"]}, {"allow": "a.test"},
        {"credentials": [{"secret": "x"}]},
        {"credentials": [{"secret": "x", "host": "*.test"}]},
        {"credentials": [{"secret": "x", "host": "ftp://a.test"}]},
        {"credentials": [{"secret": "x", "host": "a.test", "header": "A: b\r\nC"}]},
        {"credentials": [{"secret": "x", "host": "a.test", "format": "no place"}]},
        {"credentials": [{"secret": "x", "host": "a.test", "format": "{}{}"}]},
        {"credentials": [{"secret": "x", "host": "a.test", "format": "a\r\n{}"}]},
        {"credentials": [{"secret": "../x", "host": "a.test"}]},
        {"credentials": [{"secret": "x", "host": "a.test", "env": "A=B"}]},
        {"credentials": [{"secret": "x", "host": "a.test", "more": "x"}]},
    ],
)  # fmt: skip
def test_what_makes_no_sense(table: dict[str, Any]) -> None:
    with pytest.raises(Usage):
        made(Said("user", "user", understand(table, "user")))


def test_a_table_of_a_file_is_understood() -> None:
    table = {"credentials": [{"secret": "x", "host": "a.test"}], "allow": ["a.test"]}
    assert understand(table, "user").credentials[0].header == "Authorization"


MACHINE = Machine(
    bwrap="/usr/bin/bwrap",
    shell="/bin/sh",
    setpriv="/usr/bin/setpriv",
    setsid="/usr/bin/setsid",
    nsenter="/usr/bin/nsenter",
    links={},
    proc_read_only=(),
    proc_masked_dirs=(),
    proc_masked_files=(),
    cgroups={},
    resolv_conf="/run/resolv.conf",
    authorities="/etc/ssl/all.pem",
)


def launch(way: Way | None = None, **policy: Any) -> tuple[tuple[str, ...], list[Any]]:
    job = Job(
        1000, 1000, (), "ada", "/home/ada", (), "/", ("true",), {}, None, None, (), "s", 1, way
    )
    made = plan(job, Policy(**policy), MACHINE)
    return made.program, arguments(made, Found())


def variables(options: list[Any]) -> dict[str, str]:
    return {
        options[at + 1]: options[at + 2] for at, word in enumerate(options) if word == "--setenv"
    }


def test_a_list_enters_the_network_that_was_made_and_no_resolver() -> None:
    program, options = launch(network="allow", allow=["a.test"])
    assert program[:3] == ("/usr/bin/nsenter", "--net=/proc/self/fd/8", "--")
    assert "8<&-" in " ".join(program)
    assert "/run/resolv.conf" not in options
    found = variables(options)
    assert found["https_proxy"] == found["HTTP_PROXY"] == "http://127.0.0.1:3128"
    assert found["no_proxy"] == "localhost,127.0.0.1,::1"
    for network in ("none", "host"):
        program, options = launch(network=network)
        assert "nsenter" not in program[0]
        assert not [name for name in variables(options) if "proxy" in name.lower()]


@pytest.mark.parametrize(
    ("rule", "direct"),
    [("127.0.0.1:80", "localhost,::1"), ("localhost:80", "127.0.0.1,::1"),
     ("[::1]:80", "localhost,127.0.0.1"), ("127.0.0.0/8:80", "localhost,::1")],
)  # fmt: skip
def test_a_listed_loopback_is_the_machine_s(rule: str, direct: str) -> None:
    assert variables(launch(network="allow", allow=[rule])[1])["no_proxy"] == direct


def test_certificates_and_placeholders() -> None:
    policy = {"network": "allow", "allow": ["api.test"], "credentials": (TOKEN,)}
    _, options = launch(Way({"GITHUB_TOKEN": "goexfs_x"}, b"PEM"), **policy)
    found = variables(options)
    assert found["GITHUB_TOKEN"] == "goexfs_x"
    assert found["SSL_CERT_FILE"] == AUTHORITY
    assert AUTHORITY in options
    assert "/etc/ssl/all.pem" in options
    _, options = launch(Way({"GITHUB_TOKEN": "goexfs_x"}), **policy)
    assert "SSL_CERT_FILE" not in variables(options)
    explained = variables(launch(None, **policy)[1])
    assert explained["GITHUB_TOKEN"] == "{placeholder}"
    assert explained["SSL_CERT_FILE"] == AUTHORITY
