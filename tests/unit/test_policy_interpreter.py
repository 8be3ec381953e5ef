"""Which interpreter runs a script."""

from __future__ import annotations

import pytest

from goexfs.errors import NotExecutable
from goexfsd.sandbox.interpreter import file_name, interpreter


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", b"print()", ("python3",)),
        ("a.PY", b"print()", ("python3",)),
        ("dir.d/a.rb", b"", ("ruby",)),
        ("a", b"echo", ("sh",)),
        ("a.unknown", b"echo", ("sh",)),
        (".py", b"echo", ("sh",)),
        ("", b"", ("sh",)),
        ("a.py", b"#!/bin/sh\n", ()),
        ("a.py", b"#! /bin/sh\n", ()),
        ("a", b"#!not a path\n", ("sh",)),
        ("a", b"\x7fELF\x02\0\0", ()),
        ("a.sh", "héllo\n".encode("latin-1"), ("sh",)),
        ("a.sh", b"x" * 8000 + b"\0payload", ("sh",)),
    ],
)
def test_interpreter(name: str, text: bytes, expected: tuple[str, ...]) -> None:
    assert interpreter(name, text) == expected


@pytest.mark.parametrize("text", [b"\0", b"echo\0", bytes(range(256)), b"\xfe\xff\0a"])
def test_junk(text: bytes) -> None:
    with pytest.raises(NotExecutable) as caught:
        interpreter("x\x1b[2J", text)
    assert caught.value.exit_status == 126
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b/c.py", "c.py"), ("-rf", "rf"), ("..", "script"), ("", "script"), ("a b\n", "a_b_"),
     ("x" * 300, "x" * 100), ("../../etc/passwd", "passwd"), ("a/", "script")],
)  # fmt: skip
def test_file_name(name: str, expected: str) -> None:
    assert file_name(name) == expected
