"""What a script's output may do to a terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.cli.screen import Screen

CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")


def through(*pieces: bytes) -> bytes:
    screen = Screen()
    return b"".join(screen.feed(piece) for piece in pieces) + screen.end()


@pytest.mark.parametrize(
    "text",
    [b"plain\n", b"\ttab\r\n", b"\x1b[1;31mred\x1b[0m", b"\x1b[38:2::1:2:3mx", b"50%\r\x1b[K",
     b"\x1b[2A\x1b[J", b"\x1b[?25l\x1b[?25h", "grün ✓ 漢".encode(), b"\xff\xfe", b"\a\b"],
)  # fmt: skip
def test_text_colours_and_progress_pass(text: bytes) -> None:
    assert through(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"\x1b]0;title\a", b"\\x1b]0;title\a"),
        (b"\x1b]52;c;ZXZpbA==\x1b\\", b"\\x1b]52;c;ZXZpbA==\\x1b\\"),
        (b"\x1b[6n", b"\\x1b[6n"),
        (b"\x1b[c", b"\\x1b[c"),
        (b"\x1b[21t", b"\\x1b[21t"),
        (b"\x1bP$q\x1b\\", b"\\x1bP$q\\x1b\\"),
        (b"\x1b[?1049h", b"\\x1b[?1049h"),
        (b"\x1bc", b"\\x1bc"),
        (b"\x1b(0\x0e", b"\\x1b(0\\x0e"),
        ("\x9b6n".encode(), b"\\x9b6n"),
        (b"\x00\x7f", b"\\x00\\x7f"),
        (b"\x1b[1;1H", b"\\x1b[1;1H"),
        (b"\x1b\x1b[31m", b"\\x1b\x1b[31m"),
    ],
)
def test_everything_else_is_shown(text: bytes, shown: bytes) -> None:
    assert through(text) == shown
    assert through(*(text[i : i + 1] for i in range(len(text)))) == shown


PIECE = st.sampled_from([b"\x1b", b"[", b"]", b"0;", b"m", b"6n", b"?25l", b"\xc2", b"\x9b", b"a"])


@given(st.lists(PIECE | st.binary(max_size=4)))
def test_however_it_is_cut_it_comes_out_the_same_and_harmless(pieces: list[bytes]) -> None:
    shown = through(*pieces)
    assert shown == through(b"".join(pieces))
    harmless = re.sub(rb"\x1b\[[0-9;:]*[A-GJKm]|\x1b\[\?25[hl]|[\t\n\r\a\b]", b"", shown)
    assert not CONTROLS.search(harmless)
