"""The store on real images: found again, missed, damaged, layers, checkpoints, crash orders."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.errors import InvalidState, Limit, NotFound, StoreFailed
from goexfsd.store import Store, StoreSettings, close_store, mounts, open_store
from goexfsd.store.settings import DEFAULT_LEAST, DEFAULT_MOST, MIB, default_size

SMALL = StoreSettings(size_bytes=128 * MIB, grow=False)
OWNER = (21001, 21001)


@pytest.fixture
def state(arena: Path) -> Path:
    path = arena / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = open_store(SMALL, state)
    yield store
    close_store(store)


def layer_file(store: Store, sid: str, text: str) -> Path:
    path = store.layer(sid) / "upper" / "project" / "file"
    path.write_text(text)
    return path


def make_session(store: Store, sid: str = "s1") -> Path:
    layer = store.create_layer(sid, *OWNER, ["project", "other"])
    store.secure(sid)
    return layer


# -- the image --------------------------------------------------------------------------------


def test_first_start_makes_a_sparse_private_image(state: Path, store: Store) -> None:
    image = state / "store.img"
    assert image.stat().st_size == 128 * MIB
    assert image.stat().st_blocks * 512 < 16 * MIB
    assert image.stat().st_mode & 0o077 == 0
    assert store.path == state / "store"
    assert mounts.source_of(store.path) is not None
    flags = os.statvfs(store.path).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV


def test_a_reboot_finds_everything_again(state: Path) -> None:
    store = open_store(SMALL, state)
    make_session(store)
    layer_file(store, "s1", "kept")
    close_store(store)
    assert mounts.loop_of(state / "store.img") is None
    again = open_store(SMALL, state)
    assert again.sessions() == ["s1"]
    assert (again.layer("s1") / "upper/project/file").read_text() == "kept"
    close_store(again)


def test_a_mount_left_by_a_killed_daemon_is_used(state: Path) -> None:
    first = open_store(SMALL, state)
    make_session(first)
    os.close(first.lock_fd)  # what SIGKILL leaves: mounted, unlocked
    second = open_store(SMALL, state)
    assert second.sessions() == ["s1"]
    assert len(mounts.mounted_at(mounts.loop_of(state / "store.img") or "")) == 1
    close_store(second)


def test_an_attached_unmounted_image_is_used(state: Path) -> None:
    close_store(open_store(SMALL, state))
    argv = ["losetup", "--find", "--show", str(state / "store.img")]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    store = open_store(SMALL, state)
    assert mounts.source_of(store.path) == device
    close_store(store)


def test_a_missing_image_is_never_replaced(state: Path) -> None:
    close_store(open_store(SMALL, state))
    (state / "store.img").rename(state / "elsewhere")
    with pytest.raises(StoreFailed, match="missing") as caught:
        open_store(SMALL, state)
    assert "backup" in str(caught.value.hint)
    assert not (state / "store.img").exists()
    (state / "elsewhere").rename(state / "store.img")
    close_store(open_store(SMALL, state))


def test_an_image_deleted_while_mounted_can_be_saved(state: Path) -> None:
    store = open_store(SMALL, state)
    make_session(store)
    (state / "store.img").unlink()
    os.close(store.lock_fd)
    with pytest.raises(StoreFailed) as caught:
        open_store(SMALL, state)
    hint = str(caught.value.hint)
    assert "still attached" in hint
    subprocess.run(["sync", "-f", str(store.path)], check=True)
    subprocess.run(hint.partition(": ")[2].split(), check=True)
    subprocess.run(["umount", str(store.path)], check=True)
    again = open_store(SMALL, state)
    assert again.sessions() == ["s1"]
    close_store(again)


def test_a_moved_image_is_known_by_its_identity(state: Path, arena: Path) -> None:
    close_store(open_store(SMALL, state))
    moved = arena / "moved.img"
    (state / "store.img").rename(moved)
    close_store(open_store(StoreSettings(image=moved, grow=False), state))
    assert not (state / "store.img").exists()


def test_another_image_in_its_place_is_refused(state: Path, arena: Path) -> None:
    close_store(open_store(SMALL, state))
    other = arena / "other"
    other.mkdir(mode=0o700)
    close_store(open_store(SMALL, other))
    shutil.copy(other / "store.img", state / "store.img")
    with pytest.raises(StoreFailed, match="not this daemon's store"):
        open_store(SMALL, state)


def test_an_overwritten_superblock_names_the_rescue(state: Path) -> None:
    store = open_store(StoreSettings(size_bytes=256 * MIB), state)
    make_session(store)
    close_store(store)
    with open(state / "store.img", "r+b") as image:
        image.seek(64 * 1024)
        image.write(b"\0" * 4096)
    with pytest.raises(StoreFailed, match="no btrfs superblock") as caught:
        open_store(SMALL, state)
    assert "btrfs rescue super-recover" in str(caught.value.hint)
    rescue = ["btrfs", "rescue", "super-recover", "-y", str(state / "store.img")]
    subprocess.run(rescue, check=False, capture_output=True)
    again = open_store(SMALL, state)
    assert again.sessions() == ["s1"]
    close_store(again)


def test_a_damaged_tree_is_an_error_not_a_new_store(state: Path) -> None:
    close_store(open_store(SMALL, state))
    image = state / "store.img"
    with open(image, "r+b") as file:
        file.seek(1 * MIB)
        for _ in range(64):
            file.write(os.urandom(MIB))
    before = image.stat()
    with pytest.raises(StoreFailed, match="cannot be mounted"):
        open_store(SMALL, state)
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert mounts.loop_of(image) is None


def test_a_cut_off_image_is_named(state: Path) -> None:
    close_store(open_store(SMALL, state))
    os.truncate(state / "store.img", 100 * MIB)
    with pytest.raises(StoreFailed, match="cut off"):
        open_store(SMALL, state)


def test_a_damaged_marker_is_an_error(state: Path) -> None:
    close_store(open_store(SMALL, state))
    (state / "store.json").write_text("{")
    with pytest.raises(StoreFailed, match="damaged"):
        open_store(SMALL, state)


def test_a_first_start_cut_short_is_taken_up(state: Path) -> None:
    (state / "store.img.new").write_bytes(b"half")
    close_store(open_store(SMALL, state))
    assert not (state / "store.img.new").exists()
    (state / "store.json").unlink()  # killed between the image's rename and the marker
    close_store(open_store(SMALL, state))
    assert (state / "store.json").exists()


@pytest.mark.usefixtures("store")
def test_a_second_user_of_the_image_is_refused(state: Path, arena: Path) -> None:
    other = arena / "other"
    other.mkdir(mode=0o700)
    with pytest.raises(InvalidState, match="in use"):
        open_store(StoreSettings(image=state / "store.img"), other)
    assert not mounts.mounted_at(str(other / "store"))


def test_an_image_mounted_elsewhere_is_refused(state: Path, arena: Path) -> None:
    close_store(open_store(SMALL, state))
    elsewhere = arena / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["mount", "-o", "loop", state / "store.img", elsewhere], check=True)
    try:
        with pytest.raises(InvalidState, match="is mounted at"):
            open_store(SMALL, state)
    finally:
        subprocess.run(["umount", elsewhere], check=True)


def test_growing_at_start(state: Path) -> None:
    store = open_store(SMALL, state)
    before = store.usage()
    close_store(store)
    store = open_store(StoreSettings(size_bytes=320 * MIB, grow=False), state)
    assert store.usage().total_bytes == before.total_bytes
    close_store(store)
    store = open_store(StoreSettings(size_bytes=320 * MIB), state)
    assert store.usage().total_bytes == 320 * MIB
    close_store(store)


def test_growing_when_nearly_full(state: Path) -> None:
    store = open_store(StoreSettings(size_bytes=128 * MIB), state)
    layer = make_session(store)
    (layer / "upper/project/big").write_bytes(os.urandom(110 * MIB))
    store.sync()
    store.snapshot("s1", 0)
    assert store.usage().total_bytes == 256 * MIB
    close_store(store)


def test_default_size_follows_the_free_space() -> None:
    assert default_size(100 * 1024 * MIB) == 80 * 1024 * MIB
    assert default_size(0) == DEFAULT_LEAST
    assert default_size(10**18) == DEFAULT_MOST


def test_a_store_too_small_is_refused(state: Path) -> None:
    with pytest.raises(Limit, match="too small"):
        open_store(StoreSettings(size_bytes=MIB), state)
    assert os.listdir(state) in ([], ["store"])


# -- a directory on the user's btrfs ------------------------------------------------------------


def test_a_btrfs_directory_as_store(btrfs_image: Path, state: Path) -> None:
    directory = btrfs_image / "goexfs"
    directory.mkdir(mode=0o700)
    settings = StoreSettings(directory=directory)
    store = open_store(settings, state)
    make_session(store)
    with pytest.raises(InvalidState, match="in use"):
        open_store(settings, state)
    close_store(store)
    again = open_store(settings, state)
    assert again.sessions() == ["s1"]
    assert again.usage().disk_free_bytes is None
    again.delete_session("s1")
    close_store(again)


def test_a_vanished_btrfs_directory_is_not_replaced(btrfs_image: Path, state: Path) -> None:
    directory = btrfs_image / "goexfs"
    directory.mkdir(mode=0o700)
    close_store(open_store(StoreSettings(directory=directory), state))
    shutil.rmtree(directory)
    with pytest.raises(StoreFailed, match="cannot be opened"):
        open_store(StoreSettings(directory=directory), state)
    directory.mkdir(mode=0o700)
    with pytest.raises(StoreFailed, match="not the store"):
        open_store(StoreSettings(directory=directory), state)
    assert not os.listdir(directory)


def test_directories_that_cannot_be_a_store(
    btrfs_image: Path, ext4_image: Path, state: Path
) -> None:
    ext4_image.chmod(0o700)
    with pytest.raises(StoreFailed, match="does not lie on a btrfs"):
        open_store(StoreSettings(directory=ext4_image), state)
    used = btrfs_image / "used"
    used.mkdir(mode=0o700)
    (used / "photo.jpg").touch()
    with pytest.raises(StoreFailed, match="not empty"):
        open_store(StoreSettings(directory=used), state)
    assert os.listdir(used) == ["photo.jpg"]


@pytest.mark.usefixtures("store")
def test_changing_the_kind_of_store_is_refused(btrfs_image: Path, state: Path) -> None:
    directory = btrfs_image / "goexfs"
    directory.mkdir(mode=0o700)
    with pytest.raises(StoreFailed, match="the settings name another"):
        open_store(StoreSettings(directory=directory), state)


# -- layers and checkpoints ----------------------------------------------------------------------


def test_a_layer_is_the_owners_inside_and_closed_outside(store: Store) -> None:
    layer = make_session(store)
    assert sorted(os.listdir(layer)) == ["index", "origins", "upper", "work"]
    assert sorted(os.listdir(layer / "upper")) == ["other", "project"]
    inside = [layer, *(layer / name for name in os.listdir(layer)), layer / "upper" / "project"]
    for path in inside:
        status = path.stat()
        assert (status.st_uid, status.st_gid) == OWNER
        assert status.st_mode & 0o077 == 0
    above = layer.parent.stat()
    assert (above.st_uid, above.st_mode & 0o777) == (0, 0o700)
    with pytest.raises(InvalidState, match="already"):
        make_session(store)


def test_checkpoints_are_read_only_and_hold_dirty_data(store: Store) -> None:
    make_session(store)
    layer_file(store, "s1", "one")
    checkpoint = store.snapshot("s1", 0)
    assert (checkpoint / "upper/project/file").read_text() == "one"
    with pytest.raises(OSError, match="Read-only"):
        (checkpoint / "upper/project/file").write_text("no")
    layer_file(store, "s1", "two")
    assert (store.snapshot("s1", 1) / "upper/project/file").read_text() == "two"
    assert store.checkpoints("s1") == [0, 1]
    assert store.checkpoint("s1", 0) == checkpoint
    with pytest.raises(InvalidState, match="already"):
        store.snapshot("s1", 1)
    store.delete_checkpoint("s1", 0)
    assert store.checkpoints("s1") == [1]
    with pytest.raises(NotFound):
        store.checkpoint("s1", 0)


def test_inode_numbers_survive_snapshot_and_restore(store: Store) -> None:
    make_session(store)
    number = layer_file(store, "s1", "one").stat().st_ino
    store.snapshot("s1", 0)
    store.adopt("s1", store.restore("s1", 0))
    assert (store.layer("s1") / "upper/project/file").stat().st_ino == number


def test_generation_says_whether_anything_changed(store: Store) -> None:
    layer = make_session(store)
    layer_file(store, "s1", "one")
    first = store.snapshot("s1", 0)
    assert store.generation(layer) == store.generation(first)
    second = store.snapshot("s1", 1)
    assert store.generation(second) == store.generation(first)
    layer_file(store, "s1", "two")
    store.sync()
    assert store.generation(layer) > store.generation(first)
    store.adopt("s1", store.restore("s1", 0))
    assert store.generation(layer) == store.generation(first)


def test_layer_bytes_counts_what_the_layer_holds(store: Store) -> None:
    layer = make_session(store)
    assert store.layer_bytes("s1") == 0
    big = layer / "upper/project/big"
    big.write_bytes(os.urandom(4 * MIB))
    with open(layer / "upper/project/hole", "wb") as file:
        file.truncate(64 * MIB)
    store.sync()
    assert store.layer_bytes("s1") == 4 * MIB
    shutil.copyfile(big, layer / "upper/project/copy")  # may share by reflink: counted once
    subprocess.run(["cp", "--reflink=always", big, layer / "upper/project/shared"], check=True)
    store.snapshot("s1", 0)
    assert store.layer_bytes("s1") in (4 * MIB, 8 * MIB)
    big.unlink()
    (layer / "upper/project/copy").unlink()
    (layer / "upper/project/shared").unlink()
    store.sync()
    assert store.layer_bytes("s1") == 0


def test_reflinked_base_data_is_not_the_layers(btrfs_image: Path, state: Path) -> None:
    base = btrfs_image / "base"
    base.write_bytes(os.urandom(8 * MIB))
    os.sync()
    directory = btrfs_image / "goexfs"
    directory.mkdir(mode=0o700)
    store = open_store(StoreSettings(directory=directory), state)
    layer = make_session(store)
    copy = layer / "upper/project/base"
    subprocess.run(["cp", "--reflink=always", base, copy], check=True)
    with open(copy, "r+b") as file:
        file.write(os.urandom(4096))
    store.sync()
    assert store.layer_bytes("s1") == 4096
    close_store(store)


@pytest.mark.parametrize("crash", ["before the exchange", "after the exchange"])
def test_adopt_is_whole_at_any_instant(
    state: Path, monkeypatch: pytest.MonkeyPatch, crash: str
) -> None:
    store = open_store(SMALL, state)
    make_session(store)
    layer_file(store, "s1", "old")
    store.snapshot("s1", 0)
    layer_file(store, "s1", "new")
    restored = store.restore("s1", 0)
    target = "subvolumes.sync" if crash == "after the exchange" else "kernel.renameat2"

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"goexfsd.store.holdings.{target}", dies)
        with pytest.raises(KeyboardInterrupt):
            store.adopt("s1", restored)
    os.close(store.lock_fd)
    again = open_store(SMALL, state)
    expected = "old" if crash == "after the exchange" else "new"
    assert (again.layer("s1") / "upper/project/file").read_text() == expected
    assert sorted(os.listdir(again.layer("s1").parent)) == ["ckpt", "layer", "steps"]
    assert again.checkpoints("s1") == [0]
    close_store(again)


def test_a_half_made_layer_is_swept(state: Path) -> None:
    store = open_store(SMALL, state)
    make_session(store)
    os.rename(store.layer("s1"), store.path / "sessions/s1/layer.new")  # killed just before
    close_store(store)
    again = open_store(SMALL, state)
    assert sorted(os.listdir(again.path / "sessions/s1")) == ["ckpt", "steps"]
    with pytest.raises(NotFound):
        again.layer("s1")
    again.delete_session("s1")
    close_store(again)


def test_adopt_takes_only_a_restored_layer(store: Store) -> None:
    layer = make_session(store)
    checkpoint = store.snapshot("s1", 0)
    for path in (layer, checkpoint, store.path / "sessions"):
        with pytest.raises(NotFound):
            store.adopt("s1", path)


def test_files_open_over_adopt_keep_their_bytes(store: Store) -> None:
    make_session(store)
    store.snapshot("s1", 0)
    path = layer_file(store, "s1", "still here")
    store.sync()
    with open(path) as file:
        store.adopt("s1", store.restore("s1", 0))
        store.sync()
        assert not path.exists()
        assert file.read() == "still here"


# -- deleting ------------------------------------------------------------------------------------


def test_discard_leaves_nothing(store: Store) -> None:
    layer = make_session(store)
    for number in range(5):
        layer_file(store, "s1", str(number))
        store.snapshot("s1", number)
    (store.steps_dir("s1") / "1.out").write_text("output")
    os.mkdir(layer / "upper/project/dir")
    store.delete_session("s1")
    assert store.sessions() == []
    assert not os.listdir(store.path / "trash")
    assert not layer.parent.exists()
    store.delete_session("s1")
    for look in (store.layer, store.steps_dir):
        with pytest.raises(NotFound):
            look("s1")


def test_a_discard_cut_short_is_finished_at_the_next_start(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(SMALL, state)
    make_session(store)
    store.snapshot("s1", 0)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("goexfsd.store.garbage.subvolumes.delete", dies)
        with pytest.raises(KeyboardInterrupt):
            store.delete_session("s1")
    assert store.sessions() == []
    assert os.listdir(store.path / "trash")
    os.close(store.lock_fd)
    again = open_store(SMALL, state)
    assert not os.listdir(again.path / "trash")
    close_store(again)


def test_commits_come_and_go(store: Store) -> None:
    path = store.create_commit("c1", *OWNER)
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (*OWNER, 0o700)
    (path / "before").write_text("image")
    assert store.commits() == ["c1"]
    assert store.commit_path("c1") == path
    with pytest.raises(InvalidState):
        store.create_commit("c1", *OWNER)
    store.delete_commit("c1")
    assert store.commits() == []


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../x", "-x", "a\0b", "a.b"])
def test_ids_cannot_leave_the_store(store: Store, bad: str) -> None:
    for use in (store.layer, store.delete_session, store.commit_path, store.steps_dir):
        with pytest.raises(ValueError, match="not an id"):
            use(bad)
    with pytest.raises(ValueError, match="not a root's name"):
        store.create_layer("ok", *OWNER, ["../x"])
    assert store.sessions() == []


# -- full ----------------------------------------------------------------------------------------


def fill(directory: Path, what: str) -> None:
    """Make files of data, or symlinks (which are metadata), until there is no room."""
    data, target = os.urandom(MIB), "x" * 3800
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012
        for number in range(1_000_000):
            path = directory / f"f{number}"
            if what == "data":
                path.write_bytes(data)
            else:
                path.symlink_to(target)


@pytest.mark.parametrize("what", ["data", "metadata"])
@pytest.mark.parametrize("mixed", [True, False])
def test_discard_works_on_a_full_store(
    state: Path, mixed: bool, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mixed:  # data and metadata apart, as in images of a usual size
        monkeypatch.setattr("goexfsd.store.image._MIXED_BELOW", 0)
    store = open_store(StoreSettings(size_bytes=(64 if mixed else 128) * MIB, grow=False), state)
    layer = make_session(store)
    assert store.usage().reserve_bytes > 0
    fill(layer / "upper/project", what)
    assert store.usage().free_bytes < 16 * MIB
    more = fill_with_sessions(store)
    for sid in ("s1", *more):
        store.delete_session(sid)
    assert store.sessions() == []
    make_session(store, "after")
    (store.layer("after") / "upper/project/f").write_bytes(os.urandom(4 * MIB))
    store.sync()
    close_store(store)


def fill_with_sessions(store: Store) -> list[str]:
    """Open sessions, each with a little in it, until the store refuses."""
    made: list[str] = []
    while len(made) < 1000:
        sid = f"more{len(made)}"
        try:
            layer = make_session(store, sid)
        except Limit:
            return made
        made.append(sid)
        with contextlib.suppress(OSError):
            (layer / "upper/project/f").write_bytes(os.urandom(2000))
    return made


def test_a_full_disk_beneath_the_image_is_a_limit(ext4_image: Path, arena: Path) -> None:
    state = ext4_image / "state"
    state.mkdir(mode=0o700)
    store = open_store(StoreSettings(size_bytes=512 * MIB), state)
    make_session(store)
    fill(ext4_image, "data")
    assert store.usage().free_bytes < 2 * MIB
    with pytest.raises(Limit, match="disk that holds the store"):
        make_session(store, "s2")
    for path in ext4_image.glob("f*"):
        path.unlink()
    store.delete_session("s1")
    close_store(store)
