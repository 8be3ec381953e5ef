"""The vault: who gets a value back, and who never does."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from goexfs.errors import Denied, NotFound, StoreFailed, Usage
from goexfsd.vault import Vault, open_vault

VALUE = "the-real-value-0123456789"


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return open_vault(tmp_path)


def test_a_value_comes_back_for_its_owner_and_nobody_else(vault: Vault) -> None:
    assert not vault.put(1000, "github", VALUE, [])
    assert vault.value(1000, "github", "api.github.com") == VALUE
    with pytest.raises(NotFound):
        vault.value(1001, "github", "api.github.com")
    with pytest.raises(NotFound):
        vault.value(1000, "gitlab", "api.github.com")
    assert vault.put(1000, "github", "another-value", [])
    assert vault.value(1000, "github", "x.org") == "another-value"
    vault.remove(1000, "github")
    assert vault.infos(1000) == []
    with pytest.raises(NotFound):
        vault.remove(1000, "github")


def test_it_lasts_and_only_root_can_look(vault: Vault, tmp_path: Path) -> None:
    vault.put(1000, "github", VALUE, ["api.github.com"])
    (tmp_path / "secrets" / "1000.0.new").write_text(VALUE)
    assert open_vault(tmp_path).value(1000, "github", "https://api.github.com:443") == VALUE
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    files = list((tmp_path / "secrets").iterdir())
    assert [(file.name, stat.S_IMODE(file.stat().st_mode)) for file in files] == [
        ("1000.json", 0o600)
    ]


def test_hosts_are_held_to(vault: Vault) -> None:
    vault.put(1000, "github", VALUE, ["API.github.com", "http://10.0.0.1:8080"])
    assert vault.infos(1000)[0].hosts == ["api.github.com:443", "http://10.0.0.1:8080"]
    assert vault.value(1000, "github", "http://10.0.0.1:8080") == VALUE
    for other in ("evil.org", "api.github.com:444", "http://api.github.com", "10.0.0.1:8080"):
        with pytest.raises(Denied) as caught:
            vault.value(1000, "github", other)
        assert VALUE not in str(caught.value.to_wire())


@pytest.mark.parametrize("value", ["\n", "\r\nX: y", "\0", " ", "é", "\x1b[2J", "\t"])
def test_what_no_header_can_carry_is_refused_and_not_repeated(vault: Vault, value: str) -> None:
    with pytest.raises(Usage) as caught:
        vault.put(1000, "x", f"zqx{value}", [])
    assert "zqx" not in str(caught.value.to_wire())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"secrets": {"a": 1}}', VALUE])
def test_a_damaged_file_says_nothing_of_what_is_in_it(
    vault: Vault, tmp_path: Path, text: str
) -> None:
    vault.put(1000, "x", VALUE, [])
    (tmp_path / "secrets" / "1000.json").write_text(text)
    with pytest.raises(StoreFailed) as caught:
        vault.infos(1000)
    assert VALUE not in str(caught.value.to_wire())
    assert caught.value.__cause__ is None
