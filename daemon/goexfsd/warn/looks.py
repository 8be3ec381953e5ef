"""Names that are not what they look like: unseen characters, look-alikes, names posing as git's.

A name's *skeleton* is what a person reads: letters that look like ASCII letters become those,
characters that nobody sees are left out.  The table is made for file names; it holds the
letters of other scripts that common fonts draw as ASCII ones (after Unicode's confusables.txt).
A name wholly in another script is no look-alike unless all of it reads as ASCII.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from goexfs.names import display

_ODD = re.compile(rb"[^ -~]|\A[ .-]|[ .]\Z|\A[Gg][Ii][Tt]~")
"""What any of the rules below can be about; other names are plain."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Besides all format characters (category Cf) and spaces that are not the space bar's."""

_PAIRS = (
    "аaеeоoрpсcуyхxіiјjѕsԁdԛqԝwһhӏlкkѵv"  # Cyrillic
    "АAВBЕEКKМMНHОOРPСCТTУYХXІIЈJЅSԌGҮYҺhЗ3"
    "οoαaνvρpιiκkυuγyϲcϳj"  # Greek
    "ΑAΒBΕEΖZΗHΙIΚKΜMΝNΟOΡPΤTΥYΧX"
    "օoոnսuհhցgզqյj"  # Armenian
    "ᎪAᏴBᏟCᎠDᎬEᏀGᎻHᎫJᏦKᏞLᎷMᏢPᏒRᏚSᎢTᏙVᎳWᏃZ"  # Cherokee
    "ıiɑaɡgɩiʏyᴄcᴏoᴠvᴡwᴢzꜱsɪiʀrɴnʙb"  # Latin
    "․.‧.．.﹒.∕/⁄/⧸/／/꞉:∶:։:"
)
_LETTERS = dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True))
_RIVALS = ("CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC")
_WORD = re.compile(r"[^\W\d_]+")

_POSED = """
    .git .gitattributes .gitmodules .github .gitlab-ci.yml .envrc .vscode .idea .husky .ssh
    .bashrc .profile .zshrc
"""
POSED = frozenset(_POSED.split())
"""Names that mean something to programs, and that others may pose as."""


def is_odd(name: bytes) -> bool:
    """Whether ``strange`` may have anything to say."""
    return _ODD.search(name) is not None


def strange(name: bytes) -> Iterator[tuple[str, str | None]]:
    """What is strange about one name: (code, what it reads as)."""
    text = name.decode("utf-8", "surrogateescape")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029" for char in text):
        yield "name-control", None
    if any(char in _BIDI for char in text):
        yield "name-bidi", None
    if any(map(_is_unseen, text)) or text != text.strip(" "):
        yield "name-invisible", None
    if text.startswith("-"):
        yield "name-option", None
    read = skeleton(text)
    posed = _posed(read, text)
    if posed is not None:
        yield "name-poses", posed
    elif any(char in _LETTERS or char != _read_as(char) != "" for char in text) and (
        read.isascii() or _mixed(text)
    ):
        yield "name-lookalike", display(read)


def _is_unseen(char: str) -> bool:
    if char in _BIDI or 0xDC80 <= ord(char) <= 0xDCFF:
        return False
    category = unicodedata.category(char)
    return char in _UNSEEN or category == "Cf" or (category == "Zs" and char != " ")


def skeleton(text: str) -> str:
    """What a person reads."""
    return "".join(map(_read_as, unicodedata.normalize("NFC", text)))


def _read_as(char: str) -> str:
    if char.isascii():
        return char
    if char in _LETTERS:
        return _LETTERS[char]
    category = unicodedata.category(char)
    if category == "Zs":
        return " "
    if category == "Cf" or char in _UNSEEN:
        return ""
    if category[0] == "L" or category in ("Nd", "Nl"):  # full-width, mathematical, ...
        return unicodedata.normalize("NFKC", char)
    return char


def _posed(read: str, text: str) -> str | None:
    """The name that programs know and this one, to a person or another file system, is."""
    folded = read.casefold().partition(":")[0].rstrip(" .")
    if re.fullmatch(r"git~\d+", folded):  # what Windows may call it
        folded = ".git"
    return folded if folded in POSED and text != folded else None


def _mixed(text: str) -> bool:
    """Whether one word mixes Latin letters with ones that look Latin and are not."""
    for word in _WORD.findall(text):
        if word.isascii() or not any(char in _LETTERS for char in word):
            continue
        scripts = {unicodedata.name(char, "").partition(" ")[0] for char in word}
        if "LATIN" in scripts and not scripts.isdisjoint(_RIVALS):
            return True
    return False
