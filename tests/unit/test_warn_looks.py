"""Warnings by a closer look: names, modes, links, contents; on layers built by hand."""

from __future__ import annotations

import os
import stat
import struct
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goexfsd.warn import binaries, links, looks, secrets
from goexfsd.warn import settings as configured
from goexfsd.warn.rules import CHECKS, CODES, DELETED_MANY
from layering import Session
from warned import Found, review

PLACE = "/srv/project"


def fill(base: bytes) -> None:
    top = Path(base.decode())
    (top / "dir" / "sub").mkdir(parents=True)
    (top / "many").mkdir()
    (top / ".git").mkdir()
    for number in range(30):
        (top / "many" / f"f{number:02}").write_text("full\n")
    for name in ("plain", "suid", "open", "other", "dir/file"):
        (top / name).write_text(f"{name}\n")
    (top / "suid").chmod(0o4755)
    (top / "open").chmod(0o666)
    (top / "with-token").write_text(TOKEN + "\n")
    (top / "package.json").write_text('{"version": "1", "scripts": {"test": "x"}}')
    (top / ".git/config").write_text("[core]\n\tpager = less\n[alias]\n\tst = status\n")
    (top / "source.py").write_text("x = 1\n")
    (top / "one").write_text("linked\n")
    os.link(top / "one", top / "two")
    (top / "out").symlink_to("/etc")
    (top / "inner").symlink_to("dir/sub")


TOKEN = "ghp_" + "a1B2" * 9
OTHER_TOKEN = "ghp_" + "c3D4" * 9


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session.over(tmp_path, fill)
    yield made
    made.close()


def of(session: Session) -> Found:
    return review(session, PLACE)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("plain.txt", set()),
        ("with space (1).txt", set()),
        ("Überraschung.md", set()),
        ("рост.txt", set()),
        ("日本語 ABC.txt", set()),
        ("Δt.csv", set()),
        ("naïve café.txt", set()),
        ("a–b.txt", set()),
        (".hidden", set()),
        ("a\nb", {"name-control"}),
        ("\x1b[31mred", {"name-control"}),
        ("a\x85b", {"name-control"}),
        ("a\u2028b", {"name-control"}),
        ("txt.\u202egpj.exe", {"name-bidi"}),
        ("a\u200bb", {"name-invisible"}),
        ("a\u00a0b", {"name-invisible", "name-lookalike"}),
        ("trailing ", {"name-invisible"}),
        ("-rf", {"name-option"}),
        ("pаypal.py", {"name-lookalike"}),
        ("сору", {"name-lookalike"}),
        ("ｍain.py", {"name-lookalike"}),
        ("main．py", {"name-lookalike"}),
        ("pаypal-ж.py", {"name-lookalike"}),
        (".GIT", {"name-poses"}),
        (".g\u200cit", {"name-invisible", "name-poses"}),
        (".git ", {"name-invisible", "name-poses"}),
        (".git.", {"name-poses"}),
        (".git::$INDEX_ALLOCATION", {"name-poses"}),
        ("GIT~1", {"name-poses"}),
        (".gіt", {"name-poses"}),
        (".Bashrc", {"name-poses"}),
        (".gitignore", set()),
        (".git", set()),
    ],
)
def test_names(name: str, codes: set[str]) -> None:
    data = name.encode()
    assert {code for code, _ in looks.strange(data)} == codes
    assert not codes or looks.is_odd(data)


def test_a_name_that_is_not_utf_8() -> None:
    assert list(looks.strange(b"caf\xe9")) == []


def test_names_of_what_came_only(session: Session) -> None:
    session.write(b"b\nad", b"x")
    session.mkdir("pаypal".encode())
    session.rename(b"plain", b"-x")
    found = of(session)
    assert found.codes(b"b\nad") == {"name-control"}
    assert found.of["pаypal".encode()] == [
        "name-lookalike: its name reads like another one: paypal"
    ]
    assert found.codes(b"-x") == {"name-option"}


# -- modes, types, links -----------------------------------------------------------------------


def test_rights(session: Session) -> None:
    session.write(b"new", b"x")
    session.chmod(b"new", 0o6755)
    session.chmod(b"plain", 0o646)
    session.chmod(b"dir", 0o2755)
    session.mkdir(b"shared")
    session.chmod(b"shared", 0o777)
    session.mkdir(b"sticky")
    session.chmod(b"sticky", 0o1777)
    session.write(b"suid", b"changed")
    session.write(b"open", b"changed")
    found = of(session)
    assert found.of[b"new"] == [f"setuid: {CHECKS['setuid']}: setuid and setgid"]
    assert found.codes(b"plain") == {"world-writable"}
    assert found.codes(b"shared") == {"world-writable"}
    assert found.codes(b"suid") == {"setuid"}
    for path in (b"dir", b"sticky", b"open"):
        assert found.codes(path) == set(), path


def test_rights_that_were_there(session: Session) -> None:
    session.rename(b"suid", b"suid2")
    session.chmod(b"open", 0o466)
    found = of(session)
    assert found.codes(b"suid2") == set()
    assert found.codes(b"open") == {"world-writable"}  # its mode is another


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives capabilities")
def test_capabilities(session: Session) -> None:
    value = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    session.write(b"new", b"x")
    session.setxattr(b"new", b"security.capability", value)
    session.setxattr(b"plain", b"security.capability", value)
    session.setxattr(b"other", b"user.note", b"x")
    found = of(session)
    assert found.codes(b"new") == {"capability"}
    assert found.codes(b"plain") == {"capability"}
    assert found.codes(b"other") == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_devices(session: Session) -> None:
    os.mknod(session.upper(b"null"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    session.mkfifo(b"pipe")
    found = of(session)
    assert found.codes(b"null") == {"device"}
    assert found.codes(b"pipe") == set()


@pytest.mark.parametrize(
    ("path", "target", "leads"),
    [
        ("l", "a/b", False),
        ("l", "../x", True),
        ("d/l", "../x", False),
        ("d/l", "../../x", True),
        ("d/l", "..", False),
        ("l", "/etc/passwd", True),
        ("l", "/srv/project/x", False),
        ("l", "/srv/project", False),
        ("l", "/srv/projects/x", True),
        ("l", "/srv/project/../x", True),
        ("l", "a/../../x", True),
        ("l", "to-deep/../../../../x", True),
        ("l", "to-deep/../../../x", False),
        ("l", "to-out/x", True),
        ("l", "loop/x", False),
        ("l", "", False),
        ("l", "./././x", False),
        ("d/l", "../to-up", True),
    ],
)
def test_where_symlinks_lead(path: str, target: str, leads: bool) -> None:
    known = {b"to-deep": b"d/e/f", b"to-out": b"/tmp", b"loop": b"loop", b"to-up": b"d/../.."}
    found = links.leads_out(path.encode(), target.encode(), b"/srv/project", known.get)
    assert found is leads


def test_symlinks_through_the_view(session: Session) -> None:
    session.symlink(b"a", b"inner/../../plain")
    session.symlink(b"b", b"inner/../../../plain")
    session.symlink(b"c", b"out/passwd")
    session.symlink(b"d", b"\x1b]0;x\x07/../../x")
    found = of(session)
    assert found.codes(b"a") == set()
    assert found.of[b"b"] == [f"link-out: {CHECKS['link-out']}: inner/../../../plain"]
    assert found.codes(b"c") == {"link-out"}
    assert found.of[b"d"] == [f"link-out: {CHECKS['link-out']}: \\x1b]0;x\\x07/../../x"]


def test_hard_links_that_are_not_listed(session: Session) -> None:
    session.write(b"one", b"changed\n")
    session.write(b"new1", b"x")
    session.link(b"new1", b"new2")
    found = of(session)
    listed = {path for path in (b"one", b"two") if "shared-file" in found.codes(path)}
    assert len(listed) == 1
    assert found.codes(b"new1") == found.codes(b"new2") == set()


# -- contents ----------------------------------------------------------------------------------

_PE = b"MZ" + b"\x90\0" * 29 + struct.pack("<I", 64) + b"PE\0\0"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x7fELF\x02\x01\x01", "an ELF program, library or object"),
        (_PE, "a DOS or Windows program or library"),
        (b"MZ is how this text begins" + b" and goes on" * 9, None),
        (b"\xcf\xfa\xed\xfe\x07\0\0\x01", "a Mach-O program or library"),
        (b"\xca\xfe\xba\xbe\0\0\0\x02", "a Mach-O program or library"),
        (b"\xca\xfe\xba\xbe\0\0\0\x37", "a Java class"),
        (b"\0asm\x01\0\0\0", "a WebAssembly module"),
        (b"#!/bin/sh\n", None),
        (b"\x89PNG\r\n", None),
        (b"", None),
        (b"MZ", None),
    ],
)
def test_machine_code(head: bytes, kind: str | None) -> None:
    assert binaries.recognise(head) == kind


_HEX = "0123456789abcdef" * 4
SECRETS = {
    "a private key": ["-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"],
    "a PuTTY private key": ["PuTTY-User-Key-File-3: ssh-ed25519"],
    "an age secret key": ["AGE-SECRET-KEY-1" + "Q" * 58],
    "an AWS access key": ["key = AKIA" + "QRST" * 4, '"ASIA' + "QRST" * 4 + '"'],
    "an Azure storage key": ["AccountKey=" + "a" * 86 + "=="],
    "a Google API key": ["AIza" + "a-_B" * 8 + "abc"],
    "a GitHub token": [TOKEN, "github_pat_" + "a" * 30],
    "a GitLab token": ["glpat-" + "a" * 20],
    "a Slack token": ["xoxb-123456789012-abc"],
    "a Slack webhook": ["https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXX"],
    "a Stripe key": ["sk_live_" + "a" * 24],
    "an API key": ["sk-" + "aB1" * 12, "sk-ant-api03-" + "aB1" * 12],
    "an npm token": ["npm_" + "a" * 36],
    "an npm login": ["//registry/:_authToken=0123456789abcdef0"],
    "a PyPI token": ["pypi-AgE" + "a" * 60],
    "a Hugging Face token": ["hf_" + "a" * 34],
    "a SendGrid key": ["SG." + "a" * 22 + "." + "b" * 43],
    "a DigitalOcean token": ["dop_v1_" + _HEX],
    "a Vault token": ["hvs." + "a" * 24],
    "a JSON web token": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk"],
    "a password in an address": ["postgres://app:hunter22@db.internal/x"],
}


def test_every_secret_format_is_tried() -> None:
    assert set(SECRETS) == {each.name for each in secrets.FORMATS}


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, ts in SECRETS.items() for t in ts])
def test_secrets(session: Session, name: str, text: str) -> None:
    session.write(b"new", f"some text\n{text}\nmore\n".encode())
    found = of(session)
    assert f"secret: {CHECKS['secret']}: {name}" in found.of[b"new"]
    assert text not in repr(found.of) + repr(found.counts)
    head = found.patch.partition(b"diff --git")[0]
    assert text.encode() not in head


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----",
        "ghp_short",
        "the task-" + "a" * 40,
        "https://example.com/a@b",
        "https://user:$PASSWORD@host/",
        "https://user:<password>@host/",
        "BAKIA" + "QRST" * 4,
        "sha512-" + "a" * 80,
        "import sk-learn",
    ],
)
def test_text_that_is_no_secret(text: str) -> None:
    assert secrets.find(text.encode()) == {}


def test_a_secret_that_was_there_is_no_news(session: Session) -> None:
    session.write(b"with-token", f"{TOKEN}\nmore\n".encode())
    assert of(session).codes(b"with-token") == set()
    session.write(b"with-token", f"{TOKEN}\n{OTHER_TOKEN}\n".encode())
    assert of(session).codes(b"with-token") == {"secret"}


def test_contents_are_read_as_far_as_is_said(session: Session) -> None:
    padding = b"x" * (secrets.HEAD - 10)
    session.write(b"late", padding + b"\n" * 20 + TOKEN.encode())
    session.write(b"binary", b"\0\0" + TOKEN.encode())
    session.write(b"program", b"\x7fELF" + TOKEN.encode())
    found = of(session)
    assert found.codes(b"late") == set()
    assert found.codes(b"binary") == set()
    assert found.codes(b"program") == {"binary"}


def test_bytecode(session: Session) -> None:
    session.mkdir(b"__pycache__")
    session.write(b"__pycache__/source.cpython-311.pyc", b"\xa7\r\r\n")
    session.write(b"__pycache__/gone.cpython-311.pyc", b"\xa7\r\r\n")
    session.write(b"other.pyc", b"\xa7\r\r\n")
    found = of(session)
    assert found.codes(b"__pycache__/source.cpython-311.pyc") == {"bytecode"}
    assert found.codes(b"__pycache__/gone.cpython-311.pyc") == {"bytecode-alone"}
    assert found.codes(b"other.pyc") == {"bytecode-alone"}


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[core]\n\tfsmonitor = /tmp/x\n", ["core.fsmonitor"]),
        ("[core]\n\tfsmonitor = true\n", []),
        ("[CORE] sshCommand=x\n", ["core.sshcommand"]),
        ("[core]\n\thooksPath = \\\n x\n", ["core.hookspath"]),
        ('[filter "a b"]\n\tclean = x\n\trequired = true\n', ["filter.*.clean"]),
        ("[filter.x]\n\tsmudge = x\n", ["filter.*.smudge"]),
        ("[alias]\n\ta = !x\n", ["alias.*"]),
        ("[alias]\n\ta = log\n", []),
        ('[alias]\n\ta = "!x"\n', ["alias.*"]),
        ("# [core]\n[user]\n\tname = x\n;\tpager = x\n", []),
        ('[remote "o"]\n\turl = https://x\n', []),
        ('[remote "o"]\n\turl = ext::sh -c x\n', ["remote.*.url"]),
        ('[includeIf "gitdir:x"]\n\tpath = x\n', ["includeif.*.path"]),
        ('[submodule "x"]\n\tupdate = !x\n', ["submodule.*.update"]),
        ('[url "x"]\n\tinsteadOf = y\n', ["url.*.insteadof"]),
        ("[core]\r\n\tpager = x\r\n", ["core.pager"]),
    ],
)
def test_git_settings(text: str, names: list[str]) -> None:
    assert configured.git(b"", text.encode()) == names
    assert configured.git(text.encode(), text.encode()) == []


def test_what_is_set_anew(session: Session) -> None:
    text = b"[core]\n\tpager = less\n\tsshCommand = x\n[alias]\n\tst = status\n"
    session.write(b".git/config", text)
    session.write(b"package.json", b'{"version": "2", "scripts": {"test": "x"}}')
    found = of(session)
    assert found.of[b".git/config"] == [f"git-config: {CHECKS['git-config']}: core.sshcommand"]
    assert found.codes(b"package.json") == set()
    session.write(b"package.json", b'{"scripts": {"test": "x", "postinstall": "y"}}')
    assert of(session).of[b"package.json"] == [
        f"package-scripts: {CHECKS['package-scripts']}: scripts"
    ]


def test_a_file_moved_to_where_it_means_something(session: Session) -> None:
    session.write(b"dir/file", b"x")
    session.rename(b".git/config", b"dir/was")
    session.rename(b"dir/was", b".git/config")
    assert of(session).codes(b".git/config") == set()
    session.unlink(b"package.json")
    session.rename(b"with-token", b"package.json")
    assert of(session).codes(b"package.json") == {"package-scripts", "secret"}


def test_attributes() -> None:
    old, new = b"*.c diff=cpp\n", b"*.c diff=cpp\n*.x filter=y merge=union diff=z\n"
    assert configured.attributes(old, new) == ["diff", "filter"]
    assert configured.attributes(new, new) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "parts"),
    [
        ("package.json", "{}", '{"scripts": {"a": "b"}}', ["scripts"]),
        ("package.json", '{"scripts": {}}', "{}", []),
        ("package.json", "{}", '{"version": "2"}', []),
        ("package.json", "{}", "[" * 100_000, list(configured.RUN_BY["package.json"])),
        ("pyproject.toml", "", "[project]\nname = 'x'\n", []),
        ("pyproject.toml", "", "[build-system]\nrequires = []\n", ["build-system"]),
        ("pyproject.toml", "[tool.a]\nb=1", "[tool.a]\nb=2", ["tool"]),
        ("deno.json", "{}", '{"tasks": {"a": "b"}}', ["tasks"]),
    ],
)
def test_packages(name: str, old: str, new: str, parts: list[str]) -> None:
    assert configured.package(name, old.encode(), new.encode()) == parts


def test_a_git_file_is_a_link(session: Session) -> None:
    session.write(b"dir/.git", b"gitdir: /elsewhere\n")
    assert of(session).codes(b"dir/.git") == {"git-link"}


# -- all changes together ----------------------------------------------------------------------


def test_many_deletions(session: Session) -> None:
    for name in range(DELETED_MANY):
        session.unlink(b"many/f%02d" % name)
    assert of(session).whole == []
    session.write(b"plain", b"")
    assert of(session).whole == [
        f"mass-deletion: {CHECKS['mass-deletion']}: 21 files, 20 of them in many/"
    ]
    session.remove(b"many")
    found = of(session)
    assert found.whole == [
        f"mass-deletion: {CHECKS['mass-deletion']}: 31 files, 30 of them in many/"
    ]
    assert found.patch == b""


def test_a_patch_begins_with_them(session: Session) -> None:
    session.write(b"b\nad", b"x\n")
    session.remove(b"many")
    found = review(session, PLACE, patch=True)
    lines = found.patch.split(b"\n")
    assert lines[0].startswith(b"# goexfs: warning: mass-deletion: ")
    assert (
        lines[1] == b"# goexfs: warning: b\\nad: name-control: " + CHECKS["name-control"].encode()
    )
    assert lines[2].startswith(b"diff --git ")


def test_what_may_be_left_out(session: Session) -> None:
    session.write(b"-x", b"x\n")
    session.write(b"plain", b"y\n")
    assert review(session, PLACE, review=False).of == {}
    assert set(review(session, PLACE, list="flagged").of) == {b"-x"}
    only = review(session, PLACE, list="none")
    assert (only.of, len(only.counts)) == ({}, 1)


# -- whatever a script does --------------------------------------------------------------------

NAMES = (
    st.binary(min_size=1, max_size=24)
    .map(lambda data: data.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b".."))
)
SPECIAL = st.sampled_from(
    [b".git", b"config", b".gitattributes", b"package.json", b"x.pyc", b"Makefile", b".envrc"]
)
ODD = st.text("\u202e\u200b\x1b\n\x9bаgit.-~ \\:", min_size=1, max_size=8).map(str.encode)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.dictionaries(NAMES | SPECIAL | ODD, st.binary(max_size=60) | ODD, max_size=6),
    target=ODD | NAMES,
)
def test_no_warning_can_steer_a_terminal(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[bytes, bytes], target: bytes
) -> None:
    session = Session.over(tmp_path_factory.mktemp("s"), lambda base: None)
    try:
        for name, data in entries.items():
            if name not in (b".", b".."):
                session.write(name, data)
        if not {b"link", b"dir"} & set(entries):
            session.symlink(b"link", target)
        found = review(session, PLACE, patch=True)
    finally:
        session.close()
    head = found.patch.partition(b"diff --git")[0].decode()
    said = [text for each in found.of.values() for text in each] + found.whole + found.counts
    assert {text.partition(": ")[0] for text in said} <= CODES
    for text in [*said, *head.split("\n")]:
        unsafe = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
        assert not unsafe, text
