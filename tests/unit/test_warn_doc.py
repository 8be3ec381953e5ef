"""docs/warnings.md lists every rule, check, format and setting, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from goexfsd.config import WarningRule
from goexfsd.warn import secrets, settings
from goexfsd.warn.rules import ARRIVED, CHECKS, DELETED_MANY, RULES, SWITCHED, Rule

DOC = (Path(__file__).parents[2] / "docs" / "warnings.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", DOC, re.M | re.S)
    assert found is not None, f"docs/warnings.md has no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def words(rule: Rule) -> str:
    text = ", ".join(f"`{pattern}`" for pattern in rule.patterns)
    if rule.but:
        text += "; not " + ", ".join(f"`{pattern}`" for pattern in rule.but)
    if rule.kinds == SWITCHED:
        return text + "; mode"
    if rule.kinds != ARRIVED:
        return text + "; when " + ", ".join(sorted(rule.kinds))
    return text


def test_rules_by_path() -> None:
    assert rows("By path") == [[f"`{r.code}`", r.says, words(r)] for r in RULES]


def test_checks() -> None:
    found = rows("By a closer look")
    assert [row[:2] for row in found] == [[f"`{code}`", says] for code, says in CHECKS.items()]
    assert all(len(row) == 3 and row[2] for row in found)


def test_numbers() -> None:
    assert f"more than {DELETED_MANY} files" in DOC
    assert f"first {secrets.HEAD // 1024} KiB" in DOC
    assert settings.MAX == 2**20
    assert "up to 1 MiB" in DOC


def test_formats_and_settings() -> None:
    named = list(dict.fromkeys(each.name for each in secrets.FORMATS))
    assert section("Secrets").strip() == ", ".join(named) + "."
    first = section("Git settings").partition("\n\nWith `!`")[0]
    assert set(re.findall(r"`([^`]+)`", first)) == settings.GIT_SETTINGS
    parts = {row[0]: row[1] for row in rows("Packages")}
    assert parts == {
        f"`{name}`": ", ".join(f"`{part}`" for part in each)
        for name, each in settings.RUN_BY.items()
    }


def test_keys_of_your_own() -> None:
    assert {row[0] for row in rows("Your own")} == {f"`{key}`" for key in WarningRule.model_fields}
