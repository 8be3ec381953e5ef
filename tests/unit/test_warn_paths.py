"""Warnings by path: the patterns, and what each rule is and is not about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfsd.warn.globs import Globs, check, expand
from goexfsd.warn.rules import CHECKS, CODES, RULES
from layering import Session
from warned import review


def hit(pattern: str, path: bytes, place: bytes = b"/home/me/project") -> bool:
    check(pattern)
    return bool(Globs.of([(pattern, True)]).matches(place, path))


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("Makefile", b"Makefile", True),
        ("Makefile", b"a/b/Makefile", True),
        ("Makefile", b"Makefile.old", False),
        ("Makefile", b"notMakefile", False),
        ("/Makefile", b"Makefile", True),
        ("/Makefile", b"a/Makefile", False),
        ("*.pth", b"lib/x.pth", True),
        ("*.pth", b"x.pth/y", False),
        ("*", b"a/b", True),
        ("a?c", b"abc", True),
        ("a?c", b"a/c", False),
        (".git/hooks/**", b".git/hooks/a/b", True),
        (".git/hooks/**", b".git/hooks", False),
        (".git/hooks/*", b"deep/er/.git/hooks/x", True),
        (".git/hooks/*", b".git/hooks/x/y", False),
        ("a/**/z", b"a/z", True),
        ("a/**/z", b"a/b/c/z", True),
        ("a/**/z", b"ab/z", False),
        ("x[0-9]", b"x5", True),
        ("x[!0-9]", b"x5", False),
        ("x[!0-9]", b"xa", True),
        ("x[", b"x[", True),
        ("{a,b}{,.c}", b"b.c", True),
        ("{a,b}{,.c}", b"a", True),
        ("{a,b}{,.c}", b"c", False),
        ("ünï", "ünï".encode(), True),
        ("x.y", b"xzy", False),
        ("a*", b"a\nb", True),
    ],
)
def test_patterns(pattern: str, path: bytes, expected: bool) -> None:
    assert hit(pattern, path) is expected


def test_the_place_of_the_root_counts() -> None:
    assert hit("fish/config.fish", b"config.fish", b"/home/me/.config/fish")
    assert not hit("/fish/config.fish", b"config.fish", b"/home/me/.config/fish")
    assert hit("etc/sudoers", b"sudoers", b"/etc")


@pytest.mark.parametrize("pattern", ["", "a//b", "a/", "../x", "./x", "{a,b,c}" * 8])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"stands for more|empty name"):
        check(pattern)


@given(st.text(max_size=12), st.binary(max_size=12))
def test_any_text_is_a_pattern_or_refused(pattern: str, path: bytes) -> None:
    try:
        check(pattern)
    except ValueError:
        return
    hit(pattern, path)


def test_every_rule_is_sound() -> None:
    for rule in RULES:
        assert rule.patterns
        for pattern in (*rule.patterns, *rule.but):
            check(pattern)
        assert "\n" not in rule.says
    assert len(CODES) == len(RULES) + len(CHECKS)


SAMPLES: dict[str, list[str]] = {
    "git-hook": [".git/hooks/pre-commit", "sub/.git/modules/x/hooks/update", ".husky/pre-push"],
    "git-dir": [".git/commondir", ".git/config.worktree"],
    "git-modules": [".gitmodules"],
    "git-deleted": [],
    "pre-commit": [".pre-commit-config.yaml", "lefthook.yml", ".lintstagedrc.json"],
    "directory-env": [".envrc", "a/.envrc", ".env", "mise.toml"],
    "shell-start": [".bashrc", ".zshenv", ".config/fish/conf.d/x.fish", "etc/profile.d/a.sh"],
    "login-start": [".xinitrc", ".config/autostart/x.desktop", "Library/LaunchAgents/a.plist"],
    "program-start": [
        ".gdbinit",
        ".pythonrc.py",
        ".gitconfig",
        ".config/git/config",
        ".aws/config",
    ],
    "on-path": [
        ".local/bin/ls",
        ".cargo/bin/cargo",
        "home/me/bin/ls",
        "usr/local/bin/x",
        "usr/bin/x",
    ],
    "ssh": [".ssh/authorized_keys", ".ssh/config"],
    "service": ["a.service", "b.timer", ".config/systemd/user/x.socket", "init.d/x"],
    "cron": ["etc/cron.d/x", "etc/cron.daily/y", "crontab", "var/spool/cron/crontabs/me"],
    "system-rights": ["etc/sudoers", "etc/sudoers.d/x", "etc/ld.so.preload", "etc/pam.d/su"],
    "python-env": [".venv/pyvenv.cfg", "env/bin/activate", "env/bin/activate.fish"],
    "python-start": ["a.pth", "x/sitecustomize.py", "usercustomize.pyc"],
    "test-code": ["conftest.py", "tests/conftest.py", "tox.ini", "jest.config.ts"],
    "build-file": ["Makefile", "a/GNUmakefile", "x.mk", "CMakeLists.txt", "setup.py", "build.rs"],
    "tool-config": [".eslintrc.js", "vite.config.ts", ".npmrc", ".yarnrc.yml"],
    "ci": [".github/workflows/ci.yml", ".gitlab-ci.yml", "Jenkinsfile", ".circleci/config.yml"],
    "editor": [".vscode/tasks.json", ".idea/runConfigurations/a.xml", ".exrc", ".dir-locals.el"],
    "agent": [".mcp.json", "CLAUDE.md", ".cursor/rules/x", ".opencode/agent/x.md", ".clinerules/x"],
}
HARMLESS = [
    "README.md",
    "src/main.py",
    ".git/hooks/pre-commit.sample",
    ".git/description",
    ".gitignore",
    "src/hooks/useForm.ts",
    "Makefile.md",
    "docs/makefile-notes.txt",
    ".github/ISSUE_TEMPLATE.md",
    ".vscode/cspell.json",
    "bin/tool",
    "node_modules/x/index.js",
    "foo.service.ts",
    "package-lock.json",
    ".idea/misc.xml",
    "activate.md",
    "settings.json",
    "github/workflows/ci.yml",
    "envrc",
    "src/cron/daily.py",
    "config/app.json",
    ".editorconfig",
]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session.over(tmp_path, lambda base: None)
    yield made
    made.close()


def put(session: Session, path: str, data: bytes = b"x\n") -> bytes:
    parts = path.encode().split(b"/")
    for end in range(1, len(parts)):
        above = b"/".join(parts[:end])
        if not Path(str(session.model, "utf-8") + "/" + above.decode()).exists():
            session.mkdir(above)
    session.write(path.encode(), data)
    return path.encode()


def test_every_rule_has_a_sample() -> None:
    assert set(SAMPLES) == {rule.code for rule in RULES}


@pytest.mark.parametrize(("code", "path"), [(c, p) for c, ps in SAMPLES.items() for p in ps])
def test_what_a_rule_is_about(session: Session, code: str, path: str) -> None:
    put(session, path)
    assert code in review(session, "/srv/project").codes(path.encode())


def test_what_no_rule_is_about(session: Session) -> None:
    for path in HARMLESS:
        put(session, path)
    assert review(session, "/srv/project").of == {}


def test_a_new_mode_counts_where_it_switches_something_on(tmp_path: Path) -> None:
    def build(base: bytes) -> None:
        top = Path(base.decode())
        (top / ".git/hooks").mkdir(parents=True)
        for name in (".git/hooks/pre-push", ".envrc"):
            (top / name).write_text("x\n")
            (top / name).chmod(0o644)

    session = Session.over(tmp_path, build)
    session.chmod(b".git/hooks/pre-push", 0o755)
    session.chmod(b".envrc", 0o755)
    found = review(session, "/srv/project")
    assert found.codes(b".git/hooks/pre-push") == {"git-hook"}
    assert found.codes(b".envrc") == set()
    session.close()


def test_directories_that_take_the_place_of_others(tmp_path: Path) -> None:
    def build(base: bytes) -> None:
        top = Path(base.decode())
        for name in ("evil", "ci", "plain"):
            (top / name).mkdir()
            (top / name / "run").write_text("x\n")
        (top / ".git").mkdir()
        (top / "etc").mkdir()

    session = Session.over(tmp_path, build)
    session.rename(b"evil", b".git/hooks")
    session.rename(b"plain", b"hooks")
    session.symlink(b".github", b"ci")
    session.symlink(b"etc/cron.d", b"../ci")
    session.symlink(b"bin", b"ci")
    found = review(session, "/srv/project")
    assert found.codes(b".git/hooks") == {"git-hook"}
    assert found.codes(b".github") == {"ci", "agent"}
    assert found.codes(b"etc/cron.d") == {"cron"}
    assert found.codes(b"hooks") == set()
    assert found.codes(b"bin") == set()
    session.close()


def test_a_repository_deleted(tmp_path: Path) -> None:
    def build(base: bytes) -> None:
        (Path(base.decode()) / ".git/refs/heads").mkdir(parents=True)
        (Path(base.decode()) / ".git/refs/heads/main").write_text("0\n")

    session = Session.over(tmp_path, build)
    session.remove(b".git")
    found = review(session, "/srv/project")
    assert found.codes(b".git") == {"git-deleted"}
    assert found.codes(b".git/refs/heads/main") == {"git-deleted"}
    assert found.counts[0].startswith("git-deleted: 4 changes: ")
    session.close()


def test_rules_of_the_users_own(session: Session) -> None:
    put(session, "db/migrations/1.sql")
    put(session, "other/schema.sql")
    put(session, "schema.sql")
    own = [
        {
            "code": "schema",
            "says": "the database changes with it",
            "patterns": ("migrations/*.sql", "/schema.sql"),
            "kinds": frozenset(("created",)),
        }
    ]
    found = review(session, rules=own)
    assert found.of[b"schema.sql"] == ["schema: the database changes with it"]
    assert found.codes(b"db/migrations/1.sql") == {"schema"}
    assert found.codes(b"other/schema.sql") == set()
    assert found.counts == ["schema: 2 changes: the database changes with it"]


def test_expansion() -> None:
    assert expand("{a,b}x{,y}") == ["ax", "axy", "bx", "bxy"]
