"""Random sessions: the change list is the exact difference of two full manifests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings

from goexfsd.layer.changes import Change, compute
from layercheck import Check
from layering import Root, Session, manifest
from layerops import Op, base_trees, build, operations, perform

pytestmark = pytest.mark.timeout(600)


def changes(session: Session) -> list[Change]:
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        return compute(layer, [Root()], [base])
    finally:
        os.close(layer)
        os.close(base)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(base=base_trees(), ops=operations())
def test_change_list_is_the_exact_difference(base: list[Op], ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        try:
            perform(session, ops)
            found = changes(session)
            for change in found:
                note(f"{change.kind} {change.old_path!r} {change.path!r} {set(change.aspects)}")
            before, after = manifest(session.base), manifest(session.model)
            inodes = session.inodes
            Check(before, after, found, inodes, session.timed, (), inodes.values()).run()
        finally:
            session.close()
