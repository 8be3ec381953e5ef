"""The command line, command by command: what it asks, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from goexfs import errors
from goexfs.cli.group import VERBS, goexfs
from goexfs.cli.options import Command
from goexfs.protocol import METHODS
from scripted import NOTHING, RAN, SESSION, Exchange, Scripted, change, serving

BIN = Path(sys.executable).parent
CONFLICT = {"root": "project", "path": "a\x1b[2J", "reason": "changed", "detail": "it was edited"}
COMMITTED = {
    "commit": "c-1",
    "session": "s-1",
    "applied": {**NOTHING, "created": 2},
    "remaining": NOTHING,
    "conflicts": [],
    "closed": True,
}
LOG = {
    "session": {**SESSION, "checkpoint": 3},
    "checkpoints": [
        {"number": 0, "parent": None, "step": None, "label": None, "created": 1.0},
        {"number": 1, "parent": 0, "step": 1, "label": None, "created": 2.0},
        {"number": 2, "parent": 1, "step": None, "label": "by hand", "created": 3.0},
        {"number": 3, "parent": 1, "step": 2, "label": None, "created": 5.0},
    ],
    "steps": [
        {
            "number": number,
            "command": ["echo", "a b", "\x1b[2J\n"],
            "state": "done",
            "status": number - 1,
            "timed_out": False,
            "started": 2.0,
            "ended": 2.5,
            "checkpoint": checkpoint,
            "summary": {**NOTHING, "deleted": 1},
            "stdout_bytes": 0,
            "stderr_bytes": 0,
            "truncated": False,
        }
        for number, checkpoint in ((1, 1), (2, 3))
    ],
    "commits": [
        {
            "commit": "c-1",
            "session": "s-1",
            "message": "first\nsecond",
            "created": 6.0,
            "applied": NOTHING,
            "partial": True,
        }
    ],
}


def diff(exchange: Exchange) -> None:
    changes = [
        change("deleted", "old", links=2),
        change("created", "new\n\x1b[2J"),
        change("created", "dir", type="dir"),
        change("modified", "m", aspects=["content", "mode"], mode=0o755, old_mode=0o644),
        change("renamed", "b", old_path="a", warnings=["runs later"]),
        change("retyped", "link", type="symlink", old_type="file"),
    ]
    if exchange.params.get("patch"):
        exchange.emit(
            "chunk", data="diff --git a/m b/m\n--- a/m\n+++ b/m\n@@ -1 +1,2 @@\n-", encoding="utf-8"
        )
        exchange.emit("chunk", data="LXgKK3kKKxsvCg==", encoding="base64")
    exchange.reply({"session": "s-1", "from": None, "to": None, "changes": changes, "summary": {}})


ANSWERS: dict[str, Any] = {
    "mount": SESSION,
    "ls": {"sessions": [SESSION]},
    "status": {
        "session": {**SESSION, "running": [4]},
        "summary": {**NOTHING, "deleted": 1, "created": 2},
        "checkpoints": 2,
        "steps": 3,
        "layer_bytes": 123456,
    },
    "run": {**RAN, "stdout": "out"},
    "start": {"name": "job-1", "command": ["x\n"], "started": 1.0},
    "jobs": {
        "jobs": [
            {"name": "a", "command": ["x\n"], "started": 1.0, "ended": None, "why": None},
            {"name": "b", "command": ["y"], "started": 1.0, "ended": 2.0, "status": 3, "why": None},
        ]
    },
    "kill": {"name": "a", "command": ["x"], "started": 1.0, "ended": 2.0, "status": 143},
    "diff": diff,
    "log": LOG,
    "output": {"stdout": "o\x1b\n", "stderr": "e\n", "truncated": True},
    "checkpoint": {"number": 2, "parent": 1, "step": None, "label": "x", "created": 1.0},
    "rewind": {"session": "s-1", "checkpoint": 1, "saved": 5},
    "fork": SESSION,
    "commit": COMMITTED,
    "discard": {"session": "s-1", "discarded": True},
    "verify": {"commit": "c-1", "session": "s-1", "checked": 3, "differences": []},
    "audit": {
        "entries": [
            {
                "number": 7,
                "at": 1.0,
                "what": "run",
                "uid": 1000,
                "owner": 1000,
                "session": "s-1",
                "result": "ok",
                "said": {"command": "rm \x1b[2J", "status": "0"},
                "sha256": "ab",
            }
        ],
        "checked": 7,
        "problems": [],
    },
    "doctor": {
        "ok": True,
        "checks": [
            {"name": "fuse", "ok": True, "detail": "there", "fix": None, "required": True},
            {"name": "v2", "ok": False, "detail": "no", "fix": "apt", "required": False},
        ],
    },
}

Done = subprocess.CompletedProcess[bytes]


def invoke(daemon: Scripted | None, *argv: str, **how: Any) -> Done:
    """Run ``goexfs`` as a user would, against the daemon."""
    env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    env |= {"GOEXFS_SOCKET": daemon.path if daemon else "/nonexistent/s", **how.pop("env", {})}
    if "input" not in how:
        how.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [BIN / "goexfs", *argv], capture_output=True, env=env, timeout=30, check=False, **how
    )


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Scripted]:
    with serving(tmp_path, ANSWERS) as scripted:
        yield scripted


@pytest.mark.parametrize(
    ("argv", "method", "shown"),
    [
        (["mount", "."], "mount", "session otter (s-1)\n  /home/me/project is seen at /run/"),
        (["ls"], "ls", "otter  s-1      open   1970-01-01"),
        (["status"], "status", "changes  1 deleted, 2 created"),
        (["output", "1"], "output", "o\x1b\n"),
        (["jobs"], "jobs", "x\\n\nb    ended: 3"),
        (["kill", "a"], "kill", "job a has ended"),
        (["checkpoint"], "checkpoint", "checkpoint 2"),
        (["rewind", "1"], "rewind", "what it held before is checkpoint 5"),
        (["fork", "--at", "1"], "fork", "session otter (s-1)\n  /home/me/project is seen at /run/"),
        (["commit"], "commit", "committed 2 created as c-1\nthe session is closed"),
        (["discard"], "discard", "discarded session s-1"),
        (["doctor"], "doctor", "ok       fuse: there\nwithout  v2: no\n         fix: apt"),
        (["verify"], "verify", "all 3 entries are as commit c-1 left them"),
        (["audit"], "audit", "run   ok      command=rm \\x1b[2J, status=0"),
        (["log"], "log", "│ o  2 "),
        (["diff"], "diff", "diff --git a/m b/m"),
    ],
)
def test_a_command_shows_text_and_json(
    daemon: Scripted, argv: list[str], method: str, shown: str
) -> None:
    done = (
        invoke(daemon, *argv, "-s", "otter") if "-s" in _options(argv[0]) else invoke(daemon, *argv)
    )
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout.decode()
    as_json = invoke(daemon, *argv, "--json")
    assert as_json.returncode == 0, as_json.stderr
    found = json.loads(as_json.stdout)
    METHODS[method][1].model_validate(found)


def _options(verb: str) -> set[str]:
    command = goexfs.get_command(click.Context(goexfs), verb)
    assert command is not None
    return {option for param in command.params for option in param.opts}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_an_example_and_json(verb: str) -> None:
    command = goexfs.get_command(click.Context(goexfs), verb)
    assert isinstance(command, Command)
    assert command.name == verb
    assert "--json" in _options(verb)
    assert command.examples
    text = command.get_help(click.Context(command, info_name=verb))
    assert all(example in text for example in command.examples)
    assert any(f"goexfs {verb}" in example for example in command.examples)
    assert VERBS[verb].short.endswith(".")
    told = {option for param in command.params for option in param.opts if option in text}
    assert told >= {o for o in _options(verb) if o.startswith("-")}


def test_the_group_lists_every_verb() -> None:
    done = invoke(None, "--help")
    assert all(re.search(rf"^  {verb} ", done.stdout.decode(), re.M) for verb in VERBS)
    assert invoke(None, "--version").stdout.startswith(b"goexfs ")


_HEAVIER = {"click", "typing", "contextlib", "json", "re", "enum", "socket", "goexfs.names"}
_HEAVY = {"pydantic", "trio", "rich", "asyncio", "subprocess", "dataclasses"}


@pytest.mark.parametrize(
    ("argv", "heavy"),
    [
        (
            ["run", "--", "true"],
            _HEAVY
            | {"click", "typing", "contextlib", "goexfs.names"}
            | {"json", "re", "enum", "socket"},
        ),
        (["run", "--timeout", "9", "--", "true"], _HEAVY),
        (["checkpoint"], _HEAVY),
        (["discard"], _HEAVY),
        (["mount", ".", "--json"], _HEAVY),
    ],
)
def test_hot_commands_import_nothing_heavy(
    daemon: Scripted, argv: list[str], heavy: set[str]
) -> None:
    code = f"""
import os, sys
import goexfs.cli
from goexfs.cli import main
def end(status):
    print(*{heavy!r} & set(sys.modules), file=sys.stderr)
    sys.stdout.flush()
    os._exit(status)
goexfs.cli.end = end
sys.argv = ["goexfs", *{argv!r}]
main()
"""
    env = {**os.environ, "GOEXFS_SOCKET": daemon.path}
    done = subprocess.run(
        # Without the .pth files of the environment, which may import what they like.
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
        capture_output=True,
        env=env,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (done.returncode, done.stderr.split()) == (0, [])


def test_the_session_is_picked_by_option_environment_or_directory(
    daemon: Scripted, tmp_path: Path
) -> None:
    invoke(daemon, "status", cwd=tmp_path)
    assert daemon.params("status") == {"cwd": str(tmp_path)}
    invoke(daemon, "status", env={"GOEXFS_SESSION": "e"}, cwd=tmp_path)
    assert daemon.params("status")["session"] == "e"
    invoke(daemon, "status", "-s", "o", env={"GOEXFS_SESSION": "e"})
    assert daemon.params("status")["session"] == "o"


def test_paths_of_any_bytes(daemon: Scripted, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(odd)
    subprocess.run(
        [BIN / "goexfs", b"commit", b"\xff/x", "base64:plain"],
        env={**os.environ, "GOEXFS_SOCKET": daemon.path},
        cwd=odd,
        capture_output=True,
        check=True,
    )
    sent = daemon.params("commit")
    assert sent["paths"] == ["base64:/y94", "base64:YmFzZTY0OnBsYWlu"]
    assert sent["cwd"].startswith("base64:")


def test_words_that_are_only_shown_may_be_anything(daemon: Scripted) -> None:
    def say(*argv: bytes, **env: str) -> None:
        subprocess.run(
            [BIN / "goexfs", *argv],
            env={**os.environ, "GOEXFS_SOCKET": daemon.path, **env},
            capture_output=True,
            check=True,
        )

    say(b"commit", b"-m", b"gr\xfc\xdfe")
    assert daemon.params("commit")["message"] == "gr\ufffd\ufffde"
    say(b"checkpoint", b"\xff")
    assert daemon.params("checkpoint")["label"] == "\ufffd"
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    say(b"commit", b"-m", "Grüße".encode(), "ö".encode(), **bare)
    assert daemon.params("commit")["message"] == "Grüße"
    assert daemon.params("commit")["paths"] == ["ö"]


def test_mount_names_real_directories(daemon: Scripted, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    invoke(daemon, "mount", "link", "--root", "real", "--at", "at", "--name", "n", cwd=tmp_path)
    real = str(tmp_path / "real")
    expected = {"roots": [real, real], "at": str(tmp_path / "at"), "name": "n"}
    assert daemon.params("mount") == expected


@pytest.mark.parametrize("leaf", [errors.BY_CODE[code] for code in sorted(errors.BY_CODE)])
def test_errors_are_one_sentence_a_hint_and_a_status(
    tmp_path: Path, leaf: type[errors.GoexfsError]
) -> None:
    error = leaf("it is \x1b[2J so", hint="do \u202ethis", data={"more": 1})
    with serving(tmp_path, {"status": error}) as daemon:
        done = invoke(daemon, "status")
        assert done.returncode == leaf.exit_status
        assert done.stdout == b""
        assert done.stderr == b"goexfs: it is \\x1b[2J so\n  hint: do \\u202ethis\n"
        done = invoke(daemon, "status", "--json")
        assert (done.returncode, done.stderr) == (leaf.exit_status, b"")
        expected = {"code": leaf.code, "message": error.message, "hint": error.hint, "more": 1}
        assert json.loads(done.stdout) == {"error": expected}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nonsense"], "no such command"),
        (["status", "--nonsense"], "no such option"),
        (["rewind", "x"], "not a valid integer"),
        (["mount"], "missing argument"),
        (["run"], "nothing to run"),
        (["run", "--timeout", "soon", "--", "true"], "'soon' is no time"),
        (["run", "--timeout", "-1", "--", "true"], "is no time"),
        (["run", "-e", "=x", "--", "true"], "no VAR"),
        (["run", "--script", "/nonexistent"], "no such file"),
        (["run", "--script", "/"], "is a directory"),
        (["shell"], "needs a terminal"),
        (["try"], "nothing to run"),
        (["diff", "--step", "1", "--to", "2"], "--step cannot"),
        (["completion", "cmd"], "is not one of"),
    ],
)
def test_a_wrong_command_line(argv: list[str], says: str) -> None:
    done = invoke(None, *argv)
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert says in lines[0].lower() or says in lines[0]
    assert lines[1].startswith("  hint: see `goexfs")
    assert len(lines) == 2
    done = invoke(None, argv[0], "--json", *argv[1:])
    if argv[0] != "nonsense":
        assert json.loads(done.stdout)["error"]["code"] == "usage"


def test_no_daemon() -> None:
    done = invoke(None, "ls")
    assert done.returncode == 7
    assert b"no goexfs daemon runs here" in done.stderr
    assert b"hint: start it with" in done.stderr


def test_a_bug_of_ours_is_no_traceback(tmp_path: Path) -> None:
    with serving(tmp_path, {"status": {"unexpected": 1}}) as daemon:
        done = invoke(daemon, "status")
        assert done.returncode == 1
        assert done.stderr.startswith(b"goexfs: goexfs failed in itself: KeyError")
        assert b"Traceback" not in done.stderr
        assert b"Traceback" in invoke(daemon, "status", env={"GOEXFS_DEBUG": "1"}).stderr


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    sessions = [{**SESSION, "name": f"otter-{n}"} for n in range(5000)]
    with serving(tmp_path, {"ls": {"sessions": sessions}}) as daemon:
        env = {**os.environ, "GOEXFS_SOCKET": daemon.path}
        with subprocess.Popen(
            [BIN / "goexfs", "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        ) as command:
            assert command.stdout is not None
            assert command.stderr is not None
            command.stdout.readline()
            command.stdout.close()
            assert command.stderr.read() == b""
        assert command.returncode == 141


def test_conflicts(tmp_path: Path) -> None:
    result = {**COMMITTED, "commit": None, "closed": False, "conflicts": [CONFLICT]}
    with serving(tmp_path, {"commit": result}) as daemon:
        done = invoke(daemon, "commit", "-m", "text", "--checkpoint", "4")
        assert daemon.params("commit")["checkpoint"] == 4
        assert daemon.params("commit")["message"] == "text"
        assert done.returncode == 3
        assert b"nothing was committed: 1 conflict" in done.stderr
        assert b"  changed: project/a\\x1b[2J: it was edited\n" in done.stderr
        done = invoke(daemon, "commit", "--json")
        assert done.returncode == 3
        assert json.loads(done.stdout)["conflicts"] == [CONFLICT]
    error = errors.Conflict("two meet", data={"conflicts": [CONFLICT]})
    with serving(tmp_path, {"commit": error}) as daemon:
        done = invoke(daemon, "commit")
        assert done.returncode == 3
        assert b"project/a\\x1b[2J" in done.stderr


def test_what_a_commit_could_not_carry_over(tmp_path: Path) -> None:
    loss = {"root": "project", "path": "base64:/w==", "what": "owner 5"}
    result = {**COMMITTED, "losses": [loss], "late": 2}
    with serving(tmp_path, {"commit": result}) as daemon:
        done = invoke(daemon, "commit")
    assert done.returncode == 0
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "goexfs: not carried over: project/\\xff: owner 5"
    assert lines[1].startswith("goexfs: 2 files changed while it was committed")


def test_name_status(daemon: Scripted) -> None:
    done = invoke(daemon, "diff", "--name-status")
    assert done.stdout.decode().splitlines() == [
        "! runs later",
        "!    b",
        "",
        "D  old  (2 links)",
        "A  new\\n\\x1b[2J",
        "A  dir/",
        "M  m  (mode 0644 -> 0755)",
        "R  a -> b  [! runs later]",
        "T  link  (file -> symlink)",
    ]


def test_a_patch_in_a_pipe_is_byte_for_byte(daemon: Scripted) -> None:
    done = invoke(daemon, "diff", "--from", "1", "a")
    head = b"diff --git a/m b/m\n--- a/m\n+++ b/m\n@@ -1 +1,2 @@\n"
    assert done.stdout == head + b"--x\n+y\n+\x1b/\n"
    assert done.stderr == b"! runs later\n!    b\n"
    sent = daemon.params("diff")
    assert (sent["patch"], sent["from"], sent["paths"]) == (True, 1, ["a"])


def test_stat(daemon: Scripted) -> None:
    lines = invoke(daemon, "diff", "--stat").stdout.decode().splitlines()
    assert lines[:3] == ["! runs later", "!    b", ""]
    del lines[:3]
    assert lines[0] == " m            | 3 ++-"
    assert " new\\n\\x1b[2J | 0" in lines
    assert lines[-1] == " 6 files changed, 2 insertions(+), 1 deletions(-)"


def test_log_is_in_order_and_draws_the_tree(daemon: Scripted) -> None:
    lines = invoke(daemon, "log").stdout.decode().splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [
        ["o", "0"],
        ["o", "1"],
        ["├─╮"],
        ["│", "o"],
        ["@", "3"],
        ["-", "1970-01-01"],
    ]
    assert "step 1: echo 'a b' '\\x1b[2J\\n'" in lines[3]
    assert "exit 1, 500 ms" in lines[6]
    assert re.search("commit c-1: first +partial +no changes", lines[7])


def test_kept_output_goes_to_its_own_streams(daemon: Scripted) -> None:
    done = invoke(daemon, "output", "7")
    assert daemon.params("output")["step"] == 7
    assert done.stdout == b"o\x1b\n"
    assert done.stderr.startswith(b"e\ngoexfs: there was more")


def test_doctor_without_a_daemon(tmp_path: Path) -> None:
    found = {
        "ok": False,
        "checks": [{"name": "bwrap", "ok": False, "detail": "none", "fix": "apt"}],
    }
    (tmp_path / "goexfsd").write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    (tmp_path / "goexfsd").chmod(0o755)
    code = f"""
import sys
sys.executable = {str(tmp_path / "python")!r}
sys.argv = ["goexfs", "doctor"]
from goexfs.cli import main
main()
"""
    env = {**os.environ, "GOEXFS_SOCKET": "/nonexistent/s"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 1
    assert "MISSING  daemon: no goexfs daemon runs here" in done.stdout
    assert "MISSING  bwrap: none\n         fix: apt" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = invoke(None, "completion", shell)
    assert done.returncode == 0, done.stderr
    assert b"_GOEXFS_COMPLETE" in done.stdout


def test_completion_knows_verbs_and_sessions(daemon: Scripted) -> None:
    def complete(line: str, daemon: Scripted | None) -> bytes:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return invoke(daemon, env={"_GOEXFS_COMPLETE": "bash_complete", **words}).stdout

    assert complete("goexfs che", daemon) == b"plain,checkpoint\n"
    assert complete("goexfs diff -s ot", daemon) == b"plain,otter\n"
    assert complete("goexfs diff -s ot", None).strip() == b""


def test_a_locale_without_the_letters(daemon: Scripted) -> None:
    with_umlaut = {**SESSION, "name": "ötter"}
    path = Path(daemon.path).parent / "latin"
    path.mkdir()
    with serving(path, {"ls": {"sessions": [with_umlaut]}}) as other:
        done = invoke(other, "ls", env={"PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0
        assert b"\\xf6tter" in done.stdout


def test_the_test_helpers_answer_as_the_protocol_says() -> None:
    fixed: list[tuple[str, Callable[..., Any] | dict[str, Any]]] = list(ANSWERS.items())
    for method, answer in fixed:
        if isinstance(answer, dict):
            METHODS[method][1].model_validate(answer)
