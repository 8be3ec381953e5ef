"""The audit log: whatever is edited, removed, moved or cut off shows; a crash costs a piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goexfsd.audit import Audit, open_audit
from goexfsd.catalog import Catalog, open_catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = open_catalog(tmp_path / "catalog.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def audit(tmp_path: Path, catalog: Catalog) -> Iterator[Audit]:
    opened = open_audit(tmp_path / "audit", catalog, 1 << 20)
    yield opened
    opened.close()


def write(audit: Audit, count: int) -> None:
    for number in range(count):
        audit.add("run", uid=1000, session=f"s-{number}", status=number)


def problems(audit: Audit) -> list[str]:
    return audit.checking()()[1]


def again(audit: Audit) -> Audit:
    return open_audit(audit.directory, audit.catalog, audit.most_bytes)


def the_file(audit: Audit) -> Path:
    (path,) = audit.directory.iterdir()
    return path


def test_entries_are_read_as_they_were_written(audit: Audit) -> None:
    write(audit, 3)
    found = [entry for entry, _ in audit.entries()]
    assert [entry["n"] for entry in found] == [1, 2, 3]
    assert (found[1]["what"], found[1]["session"], found[1]["status"]) == ("run", "s-1", 1)
    assert audit.checking()() == (3, [])
    assert os.stat(audit.directory).st_mode & 0o777 == 0o700


def test_it_goes_on_after_a_restart(audit: Audit) -> None:
    write(audit, 3)
    audit.close()
    later = again(audit)
    write(later, 2)
    assert later.checking()() == (5, [])
    later.close()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_is_done_to_the_lines_shows(data: st.DataObject, tmp_path: Path) -> None:
    directory = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    directory.mkdir()
    catalog = open_catalog(directory / "catalog.sqlite")
    audit = open_audit(directory / "audit", catalog, 1 << 20)
    write(audit, data.draw(st.integers(2, 8)))
    audit.close()
    path = the_file(audit)
    lines = path.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    how = data.draw(st.sampled_from(["edit", "remove", "swap", "twice", "cut", "junk"]))
    if how == "edit":
        lines[at] = lines[at].replace(b'"uid":1000', b'"uid":1001')
    elif how == "remove":
        del lines[at]
    elif how == "swap":
        other = data.draw(st.integers(0, len(lines) - 1).filter(lambda n: n != at))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    elif how == "cut":
        del lines[at:]
    else:
        lines.insert(at, b"junk\n")
    path.write_bytes(b"".join(lines))
    later = again(audit)
    found = [problems(later)]
    write(later, 3)  # and what is written afterwards does not cover it
    found.append(problems(later))
    later.close()
    catalog.close()
    assert all(found), how


def test_a_line_that_a_crash_tore_is_removed_and_told(audit: Audit) -> None:
    write(audit, 3)
    audit.close()
    with open(the_file(audit), "ab") as file:
        file.write(b'{"n":4,"bef')
    later = again(audit)
    assert problems(later) == []
    assert [entry["what"] for entry, _ in later.entries()][-1] == "torn"
    later.close()


def test_entries_that_were_not_yet_durable_may_be_lost_in_a_crash(audit: Audit) -> None:
    audit.add("commit", durable=True)
    write(audit, 3)
    lines = the_file(audit).read_bytes().splitlines(keepends=True)
    the_file(audit).write_bytes(b"".join(lines[:2]))
    assert problems(audit) == ["the log ends with entry 2; entries up to 4 are missing"]
    later = again(audit)  # after a crash nobody knows of them
    assert problems(later) == []
    later.close()


def test_a_log_that_is_gone_is_missed(audit: Audit) -> None:
    write(audit, 3)
    audit.close()
    the_file(audit).unlink()
    later = again(audit)
    assert problems(later) == ["the log ends with entry 0; entries up to 3 are missing"]
    write(later, 1)
    assert problems(later) == ["entries 1 to 3 are missing"]
    later.close()


def test_it_stays_within_its_bound(tmp_path: Path, catalog: Catalog) -> None:
    audit = open_audit(tmp_path / "audit", catalog, 64 * 1024)
    write(audit, 1500)
    files = sorted(audit.directory.iterdir())
    assert len(files) == 8
    assert sum(path.stat().st_size for path in files) <= 64 * 1024
    count, wrong = audit.checking()()
    assert wrong == []
    assert 0 < count < 1500
    audit.close()
    later = again(audit)
    assert problems(later) == []
    files[0].unlink()
    assert len(problems(later)) == 1
    later.close()


def test_a_full_disk_costs_an_entry_and_nothing_else(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(audit, 2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: _refuse())
        write(audit, 1)
    write(audit, 1)
    assert audit.checking()() == (3, [])


def _refuse() -> int:
    raise OSError(28, "no room")


def test_long_text_is_cut(audit: Audit) -> None:
    audit.add("run", command="x" * 100_000)
    assert the_file(audit).stat().st_size < 4096
