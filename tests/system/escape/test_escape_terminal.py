"""Against the person: escape sequences in output, names, commands and messages."""

from __future__ import annotations

import re

import pytest

from attacks import Field
from attacks import open_field as open_field
from terminals import Terminal

EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b]0;pwned\x07\x1b[6n\x1bP$q\x1b\\"
SCRIPT = r"""
import os, sys
evil = "\x1b]52;c;ZXZpbA==\x07\x1b]0;pwned\x07\x1b[6n"
print(evil + "out"); print(evil + "err", file=sys.stderr)
for name in (evil, "a\nb", "\u202egpj.exe", "\x9b6n", "-rf"):
    open(name, "w").write(evil + "\n")
os.symlink(evil, "link-to-evil"); os.mkdir("d" + evil)
open("README.md", "a").write(evil + "\n")
"""
STEERING = re.compile(rb"\x1b[^\[]|\x1b\[[0-9;]*[^0-9;mKA-GJ]|[\x07\x0e\x0f]|\xc2[\x80-\x9f]")


def on_terminal(field: Field, *arguments: str, until: bytes = b"") -> bytes:
    terminal = Terminal(
        str(field.daemon.socket), *arguments, cwd=field.root, env={"GIT_PAGER": "cat"}
    )
    try:
        return terminal.rest() if not until else terminal.see(until)
    finally:
        terminal.close()


@pytest.mark.parametrize("verb", ["diff", "status", "log", "ls", "diff --stat", "output 1"])
def test_nothing_that_a_script_made_steers_a_terminal(field: Field, verb: str) -> None:
    field.goexfs("run", "--", "python3", "-c", SCRIPT)
    field.goexfs("run", "--", "echo", EVIL)
    seen = on_terminal(field, *verb.split(), "-s", field.at["session"])
    assert seen
    assert STEERING.findall(seen) == []


def test_nor_does_its_output(field: Field) -> None:
    if field.owner.uid:
        pytest.skip("the terminal's goexfs runs as root")
    seen = on_terminal(field, "run", "-s", field.at["session"], "--", "python3", "-c", SCRIPT)
    assert b"out" in seen
    assert b"err" in seen
    assert b"\\x1b]52;c;" in seen
    assert [found for found in STEERING.findall(seen) if found != b"\a"] == []  # a bell may ring


def test_errors_and_conflicts_neither(field: Field) -> None:
    field.goexfs("run", "--", "python3", "-c", SCRIPT)
    (field.root / EVIL.partition("\x1bP")[0]).write_text("meanwhile")
    for verb in ("commit", "commit -m " + EVIL.replace(" ", ""), "diff --step 99"):
        seen = on_terminal(field, *verb.split(" "), "-s", field.at["session"])
        assert STEERING.findall(seen) == [], verb


def test_json_is_plain_ascii(field: Field) -> None:
    field.goexfs("run", "--", "python3", "-c", SCRIPT)
    for verb in ("diff", "status", "log", "ls"):
        out = field.goexfs(verb, "--json", *(() if verb == "ls" else ("-s", field.at["session"])))
        assert out.isascii()
        assert "\x1b" not in out


def test_the_terminal_of_the_caller_is_not_the_script_s(field: Field) -> None:
    """No controlling terminal, no way to type into it."""
    code = {
        "terminal": "os.open('/dev/tty', os.O_RDWR); won = True",
        "typing": "fcntl.ioctl(0, 0x5412, b'x'); won = True",
        "pts": "won = any(name.isdigit() for name in os.listdir('/dev/pts'))",
    }
    assert field.inside(code) == {}
