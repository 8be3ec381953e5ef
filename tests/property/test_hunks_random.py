"""Random sessions, committed by an edited patch: a part, then the rest, is all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from committing import Ran
from goexfs.cli.hunks import Hunk, Piece, pieces
from goexfsd.layer.changes import differences, open_views
from goexfsd.layer.patch import patch
from goexfsd.worker import Root
from layering import Session, manifest
from layerops import Op, base_trees, build, operations, perform
from outcomes import bench, changes, check, shown

pytestmark = pytest.mark.timeout(600)
BITS = st.lists(st.booleans(), min_size=12, max_size=12)


def patch_of(session: Session) -> bytes:
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        with open_views(None, layer, [Root(0, "r", "")], [base]) as views:
            return b"".join(patch(views, differences(views)))
    finally:
        os.close(layer)
        os.close(base)


def commit(session: Session, text: bytes) -> Ran:
    return bench(session).commit(patch=text)


def some(found: list[Piece], bits: list[bool]) -> bytes:
    """The pieces, and of those that have parts the hunks, whose bit is set."""
    chosen = b""
    at = 0
    for piece in found:
        at += 1
        if not bits[at % len(bits)]:
            continue
        kept: list[Hunk] = []
        for hunk in piece.hunks:
            at += 1
            if piece.whole or bits[at % len(bits)]:
                kept.append(hunk)
        chosen += piece.text(kept)
    return chosen


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=base_trees(), ops=operations())
def test_the_whole_patch_is_everything(base: list[Op], ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        try:
            perform(session, ops)
            for change in changes(session):
                note(f"{change.kind} {change.old_path!r} {change.path!r} {set(change.aspects)}")
            text = patch_of(session)
            note(os.fsdecode(text))
            ran = commit(session, text)
            check(session, ran)
            assert not any(ran.last["remaining"].values())
        finally:
            session.close()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=base_trees(), ops=operations(), bits=BITS)
def test_some_and_then_the_rest_is_all(base: list[Op], ops: list[Op], bits: list[bool]) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        try:
            perform(session, ops)
            found = changes(session)
            for change in found:
                note(f"{change.kind} {change.old_path!r} {change.path!r} {set(change.aspects)}")
            text = some(pieces(patch_of(session)), bits)
            note(os.fsdecode(text))
            part = commit(session, text)
            note(str(part.messages))
            event(f"{part.last['event']} {part.last.get('remaining_total', 0) > 0}")
            if part.last["event"] == "error":
                assert part.last["error"]["data"]["code"] in ("usage", "not_found")
            elif part.last.get("remaining_total") == 0 and part.last["event"] == "applied":
                check(session, part)  # all of it: such a session is closed
                return
            elif part.last["event"] == "applied":
                assert part.last["remaining_total"] == len(changes(session))
            check(session, bench(session, "rest").commit())
        finally:
            session.close()


# -- long texts, of which each line is another ---------------------------------------------------

EDITS = st.lists(
    st.tuples(st.integers(0, 119), st.sampled_from(["drop", "put", "change", "both"])),
    min_size=1,
    max_size=14,
    unique_by=lambda edit: edit[0],
)
ENDS = st.sampled_from([b"\n", b"\r\n"])


def edited(lines: list[bytes], edits: list[tuple[int, str]], end: bytes) -> list[bytes]:
    made = list(lines)
    for at, what in sorted(edits, reverse=True):
        new = [b"\xff new %d" % at + end]
        made[at : at + 1] = {
            "drop": [],
            "put": [made[at], *new],
            "change": new,
            "both": [*new, b"more %d" % at + end],
        }[what]
    return made


def lines_of(text: bytes) -> list[bytes]:
    return sorted(
        line
        for piece in pieces(text)
        for hunk in piece.hunks
        for line in hunk.lines
        if line[:1] in b"+-"
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS, bits=BITS, end=ENDS, chop=st.booleans(), chmod=st.booleans())
def test_hunks_of_long_texts(
    edits: list[tuple[int, str]], bits: list[bool], end: bytes, chop: bool, chmod: bool
) -> None:
    lines = [b"line %d" % number + end for number in range(120)]
    with tempfile.TemporaryDirectory() as home:

        def fill(base: bytes) -> None:
            Path(os.fsdecode(base), "f").write_bytes(b"".join(lines))

        session = Session.over(Path(home), fill)
        try:
            new = b"".join(edited(lines, edits, end))
            session.write(b"f", new[: -len(end)] if chop else new)
            if chmod:
                session.chmod(b"f", 0o755)
            whole = pieces(patch_of(session))
            small = [Piece(p.head, [part for h in p.hunks for part in h.split()]) for p in whole]
            for piece, coarse in zip(small, whole, strict=True):
                assert lines_of(piece.text(piece.hunks)) == lines_of(coarse.text(coarse.hunks))
            chosen = b"".join(
                piece.text(hunk for at, hunk in enumerate(piece.hunks) if bits[at % len(bits)])
                for piece in small
            )
            note(os.fsdecode(chosen))
            was = lines_of(patch_of(session))
            ran = commit(session, chosen)
            note(str(ran.messages))
            assert ran.last["event"] in ("applied", "nothing")
            now = manifest(session.base)[b"f"]
            assert now.data == by_hand(lines, chosen)
            assert bool(now.mode & 0o100) == chmod
            assert sorted(lines_of(chosen) + lines_of(patch_of(session))) == was
            if ran.last["event"] == "nothing" or ran.last["remaining_total"]:
                rest = bench(session, "rest").commit()
                assert rest.last["event"] == "applied", rest.messages
            assert shown(manifest(session.base)) == shown(manifest(session.model))
        finally:
            session.close()


def by_hand(lines: list[bytes], text: bytes) -> bytes:
    """The text with the hunks of a patch of one file: the last one first, by line numbers."""
    made = list(lines)
    for hunk in reversed([hunk for piece in pieces(text) for hunk in piece.hunks]):
        at = int(hunk.lines[0][4:].partition(b",")[0]) - 1
        old, new = side(hunk, b" -"), side(hunk, b" +")
        context = 0
        while old[context : context + 1] == new[context : context + 1] != []:
            context += 1
        tail = 0
        while tail < min(len(old), len(new)) - context and old[-1 - tail] == new[-1 - tail]:
            tail += 1
        made[at + context : at + len(old) - tail] = new[context : len(new) - tail]
    return b"".join(made)


def side(hunk: Hunk, marks: bytes) -> list[bytes]:
    found: list[bytes] = []
    mine = False
    for line in hunk.lines[1:]:
        if line[:1] == b"\\":
            if mine:
                found[-1] = found[-1][:-1]
            continue
        mine = line[:1] in marks
        if mine:
            found.append(line[1:] + b"\n")
    return found
