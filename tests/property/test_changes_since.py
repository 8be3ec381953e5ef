"""Changes between two checkpoints: what the file system's generations lead to is what a walk finds.

Random work with checkpoints in between, and ways back to one of them, as a rewind goes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import btrfsutil
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import views
from layering import Root, Session, copy_tree
from layerops import Op, base_trees, build, operations, perform
from sincecheck import Kept

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="asking btrfs needs root"),
]

EXAMPLES = int(os.environ.get("GOEXFS_EXAMPLES", "15"))


@pytest.fixture(scope="module")
def workshop(temporary: Path) -> Iterator[Path]:
    """One btrfs for all examples."""
    directory = Path(tempfile.mkdtemp(prefix="since-", dir=temporary))
    with views.store(directory) as at:
        yield at
    directory.rmdir()


class Handmade(Session):
    """A layer and its model, each in a subvolume, so that both can go back."""

    kept: Kept
    tops: list[bool]

    @property
    def model(self) -> bytes:
        return self.home + b"/models/m"

    @property
    def grave(self) -> bytes:
        return self.layer + b"/grave"

    @classmethod
    def on(cls, home: Path, fill: list[Op]) -> Handmade:
        self = cls(os.fsencode(home))
        os.mkdir(self.base)
        build(fill)(self.base)
        layer = views.create_layer(home / "layer", views.ROOT, ["r"])
        btrfsutil.create_subvolume(str(home / "models"))
        os.mkdir(self.grave)
        copy_tree(self.base, self.model)
        self.kept, self.tops = Kept(layer, [Root()], home / "base"), []
        return self

    def keep(self) -> None:
        models = Path(os.fsdecode(self.home))
        btrfsutil.create_snapshot(str(models / "models"), str(models / f"model-{len(self.tops)}"))
        self.kept.keep()
        self.tops.append(self._top_is_ours)

    def back(self, number: int) -> None:
        """As a rewind does it: the layer is a new snapshot of a checkpoint from now on."""
        home = Path(os.fsdecode(self.home))
        places = (
            (home / "layer", self.kept.snapshots[number]),
            (home / "models", home / f"model-{number}"),
        )
        for place, checkpoint in places:
            btrfsutil.delete_subvolume(str(place))
            btrfsutil.create_snapshot(str(checkpoint), str(place))
        self._top_is_ours = self.tops[number]

    def drop(self) -> None:
        self.kept.drop()
        for path in Path(os.fsdecode(self.home)).glob("model*"):
            btrfsutil.delete_subvolume(str(path))
        shutil.rmtree(self.home)


STEPS = st.lists(st.tuples(operations(), st.integers(-2, 3)), min_size=1, max_size=4)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=base_trees(), first=operations(), steps=STEPS)
def test_generations_lead_to_what_a_walk_finds(
    workshop: Path, base: list[Op], first: list[Op], steps: list[tuple[list[Op], int]]
) -> None:
    session = Handmade.on(Path(tempfile.mkdtemp(dir=workshop)), base)
    try:
        perform(session, first)
        session.keep()
        for ops, back in steps:
            if 0 <= back < len(session.tops):
                session.back(back)
            perform(session, ops)
            session.keep()
        perform(session, first[:2])
        session.kept.check()
        note(f"told of {session.kept.told}")
        assert session.kept.told
    finally:
        session.drop()
