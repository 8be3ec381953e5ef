"""The owner's policy files: names, what extends what, what is not understood."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.errors import Denied, GoexfsError, NotFound, Usage
from goexfsd.rulebook import _chain, _File, _Home, _project, _table

PRESETS = ["default", "dev", "strict"]
SIZES = frozenset(["memory"])


def write(home: Path, **files: str) -> Path:
    (home / ".config/goexfs").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (home / f".config/goexfs/{name}.toml").write_text(text)
    return home


def chain(home: Path, name: str) -> tuple[list[dict[str, Any]], str]:
    found, preset = _chain(name, _Home(str(home)).files(), PRESETS, SIZES, str(home))
    return [table for _, table in found], preset


def test_no_files_is_the_preset(tmp_path: Path) -> None:
    assert chain(tmp_path, "strict") == ([], "strict")


def test_a_file_extends_the_preset_of_its_name_or_the_default(tmp_path: Path) -> None:
    write(tmp_path, strict="memory = '2G'", mine="cpu = 1")
    assert chain(tmp_path, "strict") == ([{"memory": 2 << 30}], "strict")
    assert chain(tmp_path, "mine") == ([{"cpu": 1}], "default")


def test_files_extend_each_other_the_outermost_first(tmp_path: Path) -> None:
    write(tmp_path, one="extends = 'two'\ncpu = 1", two="extends = 'dev'\ncpu = 2", dev="cpu = 3")
    assert chain(tmp_path, "one") == ([{"cpu": 3}, {"cpu": 2}, {"cpu": 1}], "dev")


def test_circles_and_what_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, one="extends = 'two'", two="extends = 'one'", three="extends = 'none'")
    write(tmp_path, four="extends = 4")
    for name, error in (("one", Usage), ("three", NotFound), ("none", NotFound), ("four", Usage)):
        with pytest.raises(error):
            chain(tmp_path, name)


def test_only_the_file_that_is_used_must_be_in_order(tmp_path: Path) -> None:
    write(tmp_path, good="cpu = 1", bad="cpu = ")
    os.mkfifo(tmp_path / ".config/goexfs/fifo.toml")
    (tmp_path / ".config/goexfs/dir.toml").mkdir()
    (tmp_path / ".config/goexfs/gone.toml").symlink_to("/nowhere")
    (tmp_path / ".config/goexfs/.hidden.toml").touch()
    assert chain(tmp_path, "good") == ([{"cpu": 1}], "default")
    for name in ("bad", "fifo", "dir"):
        with pytest.raises(Usage):
            chain(tmp_path, name)
    assert set(_Home(str(tmp_path)).files()) == {"good", "bad", "fifo", "dir", "gone"}


def test_what_is_to_be_read_is_named_by_its_real_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path, mine="read = ['~/link', '/usr/../etc', 'relative']")
    found, _ = chain(tmp_path, "mine")
    assert found[0]["read"] == [str(tmp_path / "real"), "/etc", "relative"]


def test_a_project_s_file_is_not_looked_for_through_links(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        assert _project(fd, "/r") is None
        (tmp_path / ".goexfs.toml").write_bytes(b"cpu = 1")
        assert _project(fd, "/r") == b"cpu = 1"
        (tmp_path / ".goexfs.toml").unlink()
        (tmp_path / ".goexfs.toml").symlink_to("/etc/passwd")
        with pytest.raises(Denied):
            _project(fd, "/r")
    finally:
        os.close(fd)


@given(
    st.binary(max_size=200) | st.text(alphabet="a[]{}=\"'\n.#1e-:T", max_size=80).map(str.encode)
)
def test_any_bytes_are_a_table_of_plain_values_or_one_of_our_errors(text: bytes) -> None:
    try:
        table = _table(_File("/f", text), SIZES)
    except GoexfsError:
        return
    assert all(isinstance(value, str | int | float | bool | list) for value in table.values())
