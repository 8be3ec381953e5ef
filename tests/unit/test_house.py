"""The house itself: the pages name what is there, the units and scripts are well-formed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import rooms

HOUSE = Path(__file__).resolve().parent.parent.parent


def architecture_rooms() -> list[str]:
    """``folder/file`` of every row in the architecture page's list."""
    found, folder = [], ""
    for line in (HOUSE / "docs/architecture.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"\*\*`(\S+)/`\*\*", line):
            folder = heading[1]
        elif row := re.match(r"\| `(\w+\.py)` \|", line):
            found.append(f"{folder}/{row[1]}")
    return found


def test_every_module_is_in_the_architecture_page_and_there() -> None:
    there = {str(path) for path in rooms.modules() if path.name != "__init__.py"}
    assert set(architecture_rooms()) == there, "run scripts/rooms.py"
    assert len(architecture_rooms()) == len(there)


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path)
        for path in rooms.modules()
        if not rooms.about(path) and (HOUSE / path).stat().st_size
    ]
    assert silent == []


@pytest.mark.parametrize("page", [*sorted(HOUSE.glob("docs/**/*.md")), HOUSE / "README.md"])
def test_files_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    tests = re.findall(r"`((?:docs|scripts|tests|systemd)/[\w./-]+)`", text)
    missing += [name for name in tests if not (HOUSE / name).exists()]
    assert missing == []


def test_the_tests_that_durability_names_exist() -> None:
    text = (HOUSE / "docs/durability.md").read_text(encoding="utf-8")
    known = "".join(path.read_text() for path in HOUSE.glob("tests/**/test_*.py"))
    assert [name for name in re.findall(r"::(test_\w+)", text) if f"def {name}(" not in known] == []


def test_every_line_of_the_threat_model_names_tests_that_exist() -> None:
    text = (HOUSE / "docs/threat-model.md").read_text(encoding="utf-8")
    table = text.partition("| who tries what |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    known = set(
        re.findall(
            r"def (test_\w+)",
            "".join(path.read_text() for path in HOUSE.glob("tests/**/test_*.py")),
        )
    )
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row[3])
        assert named, row[1]
        assert set(named) <= known, set(named) - known


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_the_systemd_units_are_clean(tmp_path: Path) -> None:
    for name in ("goexfsd.service", "goexfsd.socket"):
        text = (HOUSE / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/goexfs/bin/goexfsd", "/bin/true"))
    units = [str(tmp_path / name) for name in ("goexfsd.service", "goexfsd.socket")]
    argv = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("script", ["bootstrap", "check", "test", "demo", "../.ci/run"])
def test_scripts_parse_and_are_executable(script: str) -> None:
    path = HOUSE / "scripts" / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_ci_runs_what_the_readme_names() -> None:
    assert "scripts/test" in (HOUSE / ".ci/run").read_text()
    assert "scripts/test" in (HOUSE / "README.md").read_text()
    assert "scripts/demo" in (HOUSE / "README.md").read_text()
