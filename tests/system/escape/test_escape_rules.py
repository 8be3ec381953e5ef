"""What a view hides, masks or keeps: for scripts and for everybody else, and by no way around."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks import Field
from daemons import Daemon, User
from manifests import Manifest

Manifests = Callable[..., Manifest]

OPTIONS = ("--hide", ".env", "--hide", "secret", "--mask", "*.key", "--read-only", "**/.git/hooks")


@pytest.fixture(name="field", params=["root", "ordinary"])
def ruled_field(
    request: pytest.FixtureRequest, daemon: Daemon, tree: Path, arena: Path, ordinary_user: User
) -> Field:
    """A project with what is to be kept from scripts, in a session that keeps it."""
    owner = User(0, 0) if request.param == "root" else ordinary_user
    for name in (".git/hooks", "sub/.git/hooks", "secret/in", "sub/plain"):
        (tree / name).mkdir(parents=True)
    for name in (".env", "sub/.env", "secret/in/side", "my.key", ".git/hooks/pre", "sub/plain/x"):
        (tree / name).write_text(f"PRIVATE {name}\n")
    (tree / "sub/.git/hooks/pre").write_text("exit 0\n")
    os.link(tree / ".git/hooks/pre", tree / "also-pre")
    os.link(tree / ".env", tree / "sub/other-name")
    owner.own(tree)
    field = Field(daemon, owner, arena, tree, arena, {"root": str(tree)})
    field.json("mount", tree, *OPTIONS)
    return field


HIDDEN = {
    "see": "won = os.path.lexists('.env') or os.path.lexists('sub/.env')",
    "list": "won = {'.env', 'secret'} & {n for _, d, f in os.walk('.') for n in d + f}",
    "open below": "won = os.path.exists('secret/in/side')",
    "make": "open('sub/plain/.env', 'x'); won = True",
    "make a directory": "os.mkdir('sub/plain/secret'); won = True",
    "make by link": "os.link('README.md', 'sub/plain/.env'); won = True",
    "make by symlink": "os.symlink('README.md', 'sub/plain/.env'); won = True",
    "move there": "os.mkdir('d'); os.rename('d', 'sub/plain/secret'); won = True",
    "move away": "os.rename('.env', 'shown'); won = True",
    "exchange": "won = libc.renameat2(-100, b'README.md', -100, b'.env', 2) == 0",
    "delete": "os.unlink('.env'); won = True",
    "delete its directory": """
        import shutil; shutil.rmtree('sub', ignore_errors=True); won = not os.path.exists('sub')
    """,
    "cover its directory": """
        import shutil; shutil.rmtree('sub', ignore_errors=True); os.mkdir('e')
        os.rename('e', 'sub'); won = True
    """,
    "through a moved directory": "os.rename('sub', 'moved'); won = os.path.exists('moved/.env')",
    "by the directory's descriptor": """
        at = os.open('sub', os.O_PATH); os.open('.env', os.O_RDONLY, dir_fd=at); won = True
    """,
    "by /proc/self/cwd": "won = os.path.exists('/proc/self/cwd/.env')",
    "write by its other name": "open('sub/other-name', 'r+').write('x'); won = True",
}
READ_ONLY = {
    "write": "open('.git/hooks/pre', 'a').write('x'); won = True",
    "truncate": "os.truncate('.git/hooks/pre', 0); won = True",
    "mode": "os.chmod('.git/hooks/pre', 0o777); won = True",
    "times": "os.utime('.git/hooks', (1, 1)); won = True",
    "attribute": "os.setxattr('.git/hooks/pre', 'user.x', b'x'); won = True",
    "new hook": "open('.git/hooks/post', 'x'); won = True",
    "delete": "os.unlink('.git/hooks/pre'); won = True",
    "replace": "open('new', 'w'); os.rename('new', '.git/hooks/pre'); won = True",
    "exchange": "open('n', 'w'); won = libc.renameat2(-100, b'n', -100, b'.git/hooks/pre', 2) == 0",
    "move its directory": "os.rename('.git', 'g'); won = True",
    "exchange its directory": """
        os.makedirs('g/hooks'); won = libc.renameat2(-100, b'g', -100, b'.git', 2) == 0
    """,
    "move one there": """
        os.makedirs('g/hooks'); open('g/hooks/post', 'w'); os.mkdir('repo')
        os.rename('g', 'repo/.git'); won = True
    """,
    "link to it": "os.link('.git/hooks/pre', 'linked'); won = True",
    "write by its other name": "open('also-pre', 'r+').write('x'); won = True",
    "by a descriptor that is open for reading": """
        fd = os.open('.git/hooks/pre', os.O_RDONLY)
        os.write(os.open(f'/proc/self/fd/{fd}', os.O_WRONLY), b'x'); won = True
    """,
    "by a shared map": """
        import mmap; fd = os.open('.git/hooks/pre', os.O_RDWR)
        mmap.mmap(fd, 4)[0:1] = b'x'; won = True
    """,
    "by a handle from before a rename": """
        os.makedirs('g/hooks'); f = open('g/hooks/post', 'w')
        os.rename('g/hooks/post', '.git/hooks/post'); f.write('x'); won = True
    """,
    "through a symlink": "os.symlink('.git', 'l'); open('l/hooks/post', 'w'); won = True",
}
MASKED = {
    "read": "won = open('my.key').read() != ''",
    "size": "won = os.stat('my.key').st_size != 0",
    "map": "fd = os.open('my.key', os.O_RDONLY); won = len(os.pread(fd, 100, 0)) > 0",
    "write": "open('my.key', 'w'); won = True",
    "move": "os.rename('my.key', 'mine'); won = open('mine').read() != ''",
    "link": "os.link('my.key', 'mine'); won = open('mine').read() != ''",
    "delete": "os.unlink('my.key'); won = True",
}


@pytest.mark.parametrize("attacks", [HIDDEN, READ_ONLY, MASKED], ids=["hidden", "kept", "masked"])
def test_what_a_view_keeps_is_kept(
    field: Field, attacks: dict[str, str], manifest: Manifests
) -> None:
    before = manifest(field.root)
    assert field.inside(attacks) == {}
    changed = {each["path"] for each in field.json("diff")["changes"]}
    kept = {".env", "sub/.env", "secret", "my.key", ".git", ".git/hooks", ".git/hooks/pre"}
    assert not changed & kept
    assert manifest(field.root) == before
    field.goexfs("commit", "-m", "what was left of it")
    for name in (".env", "secret/in/side", "my.key"):
        assert (field.root / name).read_text() == f"PRIVATE {name}\n"
    assert (field.root / ".git/hooks/pre").read_text() == "PRIVATE .git/hooks/pre\n"
    assert os.listdir(field.root / ".git/hooks") == ["pre"]


@pytest.mark.parametrize("attacks", [HIDDEN, READ_ONLY, MASKED], ids=["hidden", "kept", "masked"])
def test_without_rules_each_of_them_wins(field: Field, attacks: dict[str, str]) -> None:
    for name, attack in attacks.items():
        subprocess.run(["cp", "-a", field.root, field.arena / "copy"], check=True)
        os.rename(field.root, field.arena / "aside")
        os.rename(field.arena / "copy", field.root)
        won = field.control({name: attack})
        subprocess.run(["rm", "-rf", field.root], check=True)
        os.rename(field.arena / "aside", field.root)
        assert won == {name}


def test_everybody_at_the_mountpoint_sees_the_same(field: Field) -> None:
    view = Path(field.json("status")["session"]["mountpoint"])
    assert not os.path.lexists(view / ".env")
    masked = (view / "my.key").stat()
    assert (masked.st_size, stat.S_IMODE(masked.st_mode)) == (0, 0o444)
    with pytest.raises(OSError, match="Read-only"):
        (view / ".git/hooks/pre").write_text("x")
    field.daemon.restart()
    assert not os.path.lexists(view / ".env")
    told = field.json("status")["session"]["rules"]
    assert [each["pattern"] for each in told] == [*OPTIONS[1::2]]


def test_what_is_not_ruled_is_as_free_as_ever(field: Field) -> None:
    work = """set -e
        echo x > README.md; mkdir -p a/b; mv a c; mv sub/plain p; echo y > .git/config
        rm -r p; ln README.md twin; mv README.md .git/readme; ls -A sub
    """
    assert field.goexfs("run", "--", "sh", "-c", work).split() == [".git", "other-name"]


def test_try_hides_for_its_whole_session(daemon: Daemon, tree: Path, ordinary_user: User) -> None:
    (tree / "src" / ".env").write_text("PRIVATE")
    ordinary_user.own(tree)
    run = ("try", "--no", "--hide", ".env", "--root", tree, "--", "ls", "-A", "src")
    done = daemon.run(*run, user=ordinary_user)
    assert done.status == 0, done.err
    assert "main.py" in done.out
    assert ".env" not in done.out


def test_rules_come_from_policies_too(daemon: Daemon, tree: Path, ordinary_user: User) -> None:
    (tree / ".goexfs.toml").write_text('hide = ["*.pem"]\nread_only = ["Makefile"]\n')
    (tree / "deep").mkdir()
    for name in ("deep/a.pem", "deep/Makefile", ".envrc"):
        (tree / name).write_text("text\n")
    ordinary_user.own(tree)
    done = daemon.run("mount", tree, "--policy", "strict", "--json", user=ordinary_user)
    assert done.status == 0, done.err
    script = "ls deep; echo x >> deep/Makefile; echo x >> .envrc"
    run = daemon.run("run", "--", "sh", "-c", script, user=ordinary_user, cwd=tree)
    assert run.out == "Makefile\n"
    assert run.err.count("Read-only file system") == 2
