"""Ordinary programs work inside the view as they do on a local disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import User
from manifests import Manifest

Run = Callable[..., str]


@pytest.fixture
def work(arena: Path, ordinary_user: User) -> Path:
    top = arena / "work"
    top.mkdir()
    return ordinary_user.own(top)


@pytest.fixture
def run(work: Path, goexfs: Goexfs, ordinary_user: User) -> Run:
    """Run a shell script in a session over ``work``, as the ordinary user."""
    mounted = False

    def go(script: str) -> str:
        nonlocal mounted
        if not mounted:
            goexfs("mount", work, user=ordinary_user)
            mounted = True
        how: dict[str, Any] = {"user": ordinary_user, "cwd": work, "timeout": 110}
        env = ["-e", f"HOME={work}"]
        return goexfs("run", *env, "--", "sh", "-euc", script, **how).out

    return go


IDENTITY = "git config --global user.name n; git config --global user.email e@example.invalid;"


def test_git(work: Path, run: Run, ordinary_user: User) -> None:
    source = work / "source"
    source.mkdir()
    for number in range(200):
        (source / f"f{number}").write_text(f"{number}\n" * 50)
    ordinary_user.own(work)
    out = run(
        IDENTITY
        + """
        cd source; git init -q -b main .; git add .; git commit -qm first; cd ..
        git clone -q source copy; cd copy
        echo more >> f1; git status --porcelain
        git commit -qam second; echo x >> f2; git stash -q; git status --porcelain
        git stash pop -q; git status --porcelain; git checkout -q -- .
        git gc -q; git fsck --strict --no-dangling; git log --oneline | wc -l
        git checkout -q -b side HEAD~1; echo side >> f3; git commit -qam side
        git checkout -q main; git merge -q side -m merge; git log --oneline | wc -l
        """
    )
    assert out == " M f1\n M f2\n2\n4\n"


def test_venv_and_wheel(work: Path, run: Run, ordinary_user: User) -> None:
    with zipfile.ZipFile(work / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        info = "tiny-1.0.dist-info"
        wheel.writestr("tiny.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    ordinary_user.own(work)
    out = run(
        "/usr/bin/python3 -m venv v; v/bin/pip -q install --no-index ./tiny-1.0-py3-none-any.whl;"
        "v/bin/python -c 'import tiny; print(tiny.answer)'"
    )
    assert out.splitlines()[-1] == "42"


@pytest.mark.skipif(shutil.which("npm", path="/usr/bin:/usr/local/bin") is None, reason="no npm")
def test_npm(work: Path, run: Run, ordinary_user: User) -> None:
    package = work / "package"
    package.mkdir()
    (package / "package.json").write_text(
        '{"name": "tiny", "version": "1.0.0", "main": "i.js", "bin": {"tiny": "i.js"}}'
    )
    (package / "i.js").write_text("#!/usr/bin/env node\nmodule.exports = 42; console.log(42)\n")
    subprocess.run(["tar", "czf", "tiny.tgz", "package"], cwd=work, check=True)
    (work / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    ordinary_user.own(work)
    out = run(
        "npm install --offline --no-audit --no-fund ./tiny.tgz > npm.log 2>&1"
        " || { cat npm.log; exit 1; };"
        "node -e \"require('tiny')\"; node_modules/.bin/tiny"
    )
    assert out == "42\n42\n"


def test_make(work: Path, run: Run, ordinary_user: User) -> None:
    for name in "abcd":
        (work / f"{name}.c").write_text(f'#include "all.h"\nint {name}(void) {{ return 1; }}\n')
    (work / "all.h").write_text("int a(void); int b(void); int c(void); int d(void);\n")
    (work / "main.c").write_text(
        '#include "all.h"\n#include <stdio.h>\n'
        'int main(void) { printf("%d\\n", a() + b() + c() + d()); return 0; }\n'
    )
    (work / "Makefile").write_text(
        "prog: main.o a.o b.o c.o d.o\n\t$(CC) -o $@ $^\n%.o: %.c all.h\n\t$(CC) -c -o $@ $<\n"
    )
    ordinary_user.own(work)
    out = run("make -s -j4; ./prog; make -q && echo fresh; touch all.h; make -q || echo stale")
    assert out == "4\nfresh\nstale\n"


def test_sqlite_wal_with_two_processes(work: Path, run: Run, ordinary_user: User) -> None:
    with sqlite3.connect(work / "db") as db:
        # Two processes that both turn it on for the first time may meet, on any file system.
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (who, n)")
    db.close()
    ordinary_user.own(work)
    writer = """
import sqlite3, sys
db = sqlite3.connect('db', timeout=60, isolation_level=None)
assert db.execute('PRAGMA journal_mode').fetchone() == ('wal',)
for n in range(200):
    db.execute('BEGIN IMMEDIATE')
    db.execute('INSERT INTO t VALUES (?, ?)', (sys.argv[1], n))
    db.execute('COMMIT')
"""
    (work / "w.py").write_text(writer)
    out = run(
        "/usr/bin/python3 w.py a & p=$!; /usr/bin/python3 w.py b; wait $p;"
        "sqlite3 db 'SELECT who, count(*) FROM t GROUP BY who; PRAGMA integrity_check'"
    )
    assert out == "a|200\nb|200\nok\n"
    db = sqlite3.connect(work / "db")
    assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)
    db.close()


def test_rsync_and_tar_both_ways(
    work: Path, tree: Path, run: Run, ordinary_user: User, manifest: Callable[..., Manifest]
) -> None:
    os.rename(tree, work / "project")
    # An entry for another user would have no number in the sandbox's user namespace.
    subprocess.run(["setfacl", "-b", work / "project" / "README.md"], check=True)
    acl = f"u:{ordinary_user.uid}:r"
    subprocess.run(["setfacl", "-m", acl, work / "project" / "README.md"], check=True)
    before = manifest(work / "project")
    out = run(
        """
        rsync -aHAX project/ copy/
        rsync -aHAXin --delete project/ copy/
        tar --xattrs --acls --sparse -cf t.tar -C project .
        mkdir out; tar --xattrs --acls -xf t.tar -C out
        rsync -aHAXin --delete project/ out/ | grep -v '^\\.d' || true
        find copy -delete; test ! -e copy; ls
        """
    )
    assert out.splitlines() == ["out", "project", "t.tar"]
    assert manifest(work / "project") == before


def test_editors(work: Path, run: Run, ordinary_user: User) -> None:
    (work / "f").write_text("one\ntwo\n")
    (work / "g").write_text("one\ntwo\n")
    (work / "f").chmod(0o640)
    ordinary_user.own(work)
    out = run(
        """
        sed -i s/two/three/ f; cat f; stat -c %a f
        vi -es -c '%s/two/four/' -c wq g </dev/null || ex -s -c '%s/two/four/' -c wq g; cat g
        cp f .f.tmp; echo end >> .f.tmp; mv .f.tmp f; tail -n 1 f
        """
    )
    assert out == "one\nthree\n640\none\nfour\nend\n"


def test_mmap_and_locks_between_processes(work: Path, run: Run, ordinary_user: User) -> None:
    script = """
import fcntl, mmap, os
with open('shared', 'wb') as f:
    f.truncate(8192)
def add():
    with open('shared', 'r+b') as f:
        m = mmap.mmap(f.fileno(), 8192)
        for _ in range(500):
            fcntl.lockf(f, fcntl.LOCK_EX)
            m[:8] = (int.from_bytes(m[:8], 'big') + 1).to_bytes(8, 'big')
            fcntl.lockf(f, fcntl.LOCK_UN)
pids = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        add()
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
with open('shared', 'rb') as f:
    print(int.from_bytes(f.read(8), 'big'))
"""
    (work / "m.py").write_text(script)
    ordinary_user.own(work)
    assert run("/usr/bin/python3 m.py") == "2000\n"


def test_this_interpreter_is_not_needed(run: Run, work: Path) -> None:
    """Scripts find the system's Python, whatever goexfs itself runs on."""
    assert run("python3 -c 'import sys; print(sys.prefix)'") == "/usr\n"
    assert sys.prefix != "/usr"
