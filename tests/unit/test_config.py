"""The configuration: defaults, the short form, and no silent typos."""

from __future__ import annotations

from pathlib import Path

import pytest

from goexfs.errors import Usage
from goexfsd.config import read_config


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "goexfsd.toml"
    path.write_text(text)
    return path


def test_overrides_win(tmp_path: Path) -> None:
    path = written(tmp_path, 'state_dir = "/a"\nruntime_dir = "/b"\n')
    config = read_config(path, {"state_dir": Path("/c")})
    assert (config.state_dir, config.runtime_dir) == (Path("/c"), Path("/b"))


def test_store_may_be_a_path(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, 'store = "/some/btrfs"\n'), {})
    assert config.store.directory == Path("/some/btrfs")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("memry = 1\n", "memry"),
        ("[limits]\nmemory = -1\n", "limits.memory"),
        ('state_dir = "relative"\n', "state_dir"),
        ("[store\n", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(Usage, match=named.replace(".", r"\.")):
        read_config(written(tmp_path, text), {})


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="cannot be read"):
        read_config(tmp_path / "none.toml", {})
