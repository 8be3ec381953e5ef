"""Names that a directory which folds case takes for one; and that others tell apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from goexfsd.commit.folding import clashes, folds


@pytest.mark.parametrize(
    ("arriving", "staying", "wanted"),
    [
        ([b"New", b"NEW"], [], [(b"New", b"NEW")]),
        ([b"hello"], [b"Hello", b"other"], [(b"hello", b"Hello")]),
        ([b"Hello"], [b"Hello"], []),
        ([b"HELLO"], [], []),
        (["é".encode()], ["E\u0301".encode()], [("é".encode(), "E\u0301".encode())]),
        (["Straße".encode()], [b"STRASSE"], [("Straße".encode(), b"STRASSE")]),
        ([b"\xff", b"\xfe"], [b"\xfd"], []),
        ([b"a", b"b", b"A", b"B"], [], [(b"a", b"A"), (b"b", b"B")]),
    ],
)
def test_what_clashes(
    arriving: list[bytes], staying: list[bytes], wanted: list[tuple[bytes, bytes]]
) -> None:
    assert list(clashes(arriving, staying)) == wanted


def test_an_ordinary_directory_folds_nothing(tmp_path: Path) -> None:
    assert not folds(str(tmp_path))
