"""The main job on real files, with proof.  Started by ``scripts/demo``, which prepares the machine.

Makes a project of some thousand files with a git repository in it, starts a private daemon, and

1. runs three scripts (sh, Python, Perl) in a session that create, edit, delete, rename and chmod;
   shows the diff; proves by manifest that the project is untouched; commits; proves that the
   project is now what the view was, and what the same scripts make of a plain copy;
2. lets a fourth script wreck the project in a second session, and discards it; proves that every
   byte and attribute is as it was.

Times are printed.  Exit status 0 only if every proof holds; nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import leaks
from daemons import Daemon, Done, User
from manifests import Manifest, differences, manifest

GIT = {
    "GIT_AUTHOR_NAME": "Demo",
    "GIT_AUTHOR_EMAIL": "demo@example.org",
    "GIT_AUTHOR_DATE": "2026-01-01T12:00:00Z",
    "GIT_COMMITTER_NAME": "Demo",
    "GIT_COMMITTER_EMAIL": "demo@example.org",
    "GIT_COMMITTER_DATE": "2026-01-01T12:00:00Z",
    "GIT_CONFIG_NOSYSTEM": "1",
}

SHELL = f"""#!/bin/sh
# Tidy up, and commit that with git.
set -e
{"".join(f"export {name}='{value}'" + chr(10) for name, value in GIT.items())}
find lib -name '*.pyc' -delete
find lib -name __pycache__ -type d -empty -delete
mv lib/json lib/json_renamed
mkdir -p notes/today
printf 'written by a script\\n' > notes/today/first.txt
sed -i 's/^import re$/import re  # a script was here/' lib/textwrap.py
chmod 600 lib/this.py
git rm -q --cached lib/antigravity.py
rm lib/antigravity.py
git -c gc.auto=0 commit -q -m 'Tidy up'
echo "tidied: $(git log --oneline | wc -l) commits"
"""

PYTHON = '''#!/usr/bin/env python3
"""Annotate modules, write a report, link it twice."""
import json, os, pathlib

report = {}
for path in sorted(pathlib.Path("lib").glob("a*.py")):
    text = path.read_text()
    report[path.name] = len(text.splitlines())
    path.write_text("# checked\\n" + text)
    path.chmod(0o640)
pathlib.Path("notes/report.json").write_text(json.dumps(report, indent=1))
os.link("notes/report.json", "notes/same-report.json")
os.symlink("report.json", "notes/latest")
os.rename("lib/base64.py", "lib/base_sixty_four.py")
os.setxattr("notes/report.json", "user.made-by", b"a script")
print("annotated", len(report), "modules")
'''

PERL = """#!/usr/bin/perl
# Edit in place, drop a directory, make a file with a hole.
use strict; use warnings;
my @files = glob("lib/email/*.py");
{ local ($^I, @ARGV) = ("", @files); while (<>) { s/^(import re)$/$1  # seen by Perl/; print; } }
open(my $log, ">>", "notes/today/first.txt") or die; print $log "and by another\\n"; close $log;
unlink glob("lib/wsgiref/*"); rmdir "lib/wsgiref" or die "rmdir: $!";
open(my $hole, ">", "notes/hole") or die; seek($hole, 8 << 20, 0); print $hole "end"; close $hole;
chmod 0755, "notes/today/first.txt";
print "edited ", scalar(@files), " files\\n";
"""

WRECK = """#!/bin/sh
rm -rf .git lib/[a-m]*
find . -type f -name '*.py' | head -n 500 | while read -r f; do echo ruined > "$f"; done
chmod -R a-w lib
mv notes gone
ln -s /etc/passwd passwd
mkfifo pipe
echo "wrecked"
exit 3
"""


class Mismatch(Exception):
    """A proof failed."""


class Demonstration:
    """One run, below a directory of its own."""

    def __init__(self, directory: Path, user: User) -> None:
        self.user = user
        self.project = directory / "project"
        self.copy = directory / "copy"
        self.daemon = Daemon(directory / "goexfs")
        self.daemon.directory.mkdir()
        self.times: list[tuple[str, float]] = []

    # -- doing -----------------------------------------------------------------------------

    def goexfs(self, *arguments: str, script: str | None = None, status: int = 0) -> Done:
        """Show and run one command line; Mismatch if it ends otherwise."""
        shown = " ".join(word if " " not in word else f"'{word}'" for word in arguments)
        print(f"\n$ goexfs {shown}", flush=True)
        done = self.quiet(*arguments, script=script, status=status)
        print("".join(f"  {line}\n" for line in _shortened(done.out + done.err)), end="")
        return done

    def quiet(self, *arguments: str, script: str | None = None, status: int = 0) -> Done:
        begin = time.perf_counter()
        done = self.daemon.run(*arguments, user=self.user, input=script, cwd=self.project)
        self.times.append((f"goexfs {arguments[0]}", time.perf_counter() - begin))
        if done.status != status:
            raise Mismatch(
                f"goexfs {' '.join(arguments)}: exit status {done.status}, not {status}\n"
                f"{done.out}{done.err}\ndaemon log:\n{self.daemon.said()[-4000:]}"
            )
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.quiet(*arguments, "--json").out)

    def native(self, name: str, text: str) -> None:
        """Run a script on the plain copy, unprotected, for comparison."""
        script = self.copy.parent / name
        script.write_text(text)
        script.chmod(0o755)
        subprocess.run(
            [str(script)],
            cwd=self.copy,
            check=True,
            stdout=subprocess.DEVNULL,
            env={"HOME": "/nonexistent", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            user=self.user.uid,
            group=self.user.gid,
            extra_groups=[],
        )
        script.unlink()

    # -- the story --------------------------------------------------------------------------

    def run(self) -> None:
        files = make_project(self.project, self.user)
        subprocess.run(["cp", "-a", str(self.project), str(self.copy)], check=True)
        say(f"A project of {files:,} files with a git repository in it: {self.project}")
        self.timed("daemon start, store made", self.daemon.start)
        try:
            self.commit_one()
            self.discard_one()
            self.measure()
        finally:
            status = self.daemon.stop() if self.daemon.process else 1
        check("the daemon stopped cleanly", [] if status == 0 else [f"status {status}"])
        check("no mount is left", list(leaks.mounts_below(self.daemon.directory)))

    def commit_one(self) -> None:
        say("Three scripts in one session, committed")
        before = manifest(self.project)
        self.goexfs("mount", str(self.project), "--name", "tidy")
        for name, text in (("tidy.sh", SHELL), ("annotate.py", PYTHON), ("edit.pl", PERL)):
            script = self.daemon.directory / name
            script.write_text(text)
            script.chmod(0o755)
            self.goexfs("run", "-s", "tidy", "--script", str(script))
        self.goexfs("log", "-s", "tidy")
        self.goexfs("diff", "-s", "tidy", "--stat")
        self.goexfs("diff", "-s", "tidy", "lib/textwrap.py", "notes/today", "notes/latest")
        check("the project is untouched", differences(before, manifest(self.project)))
        view = Path(self.json("status", "-s", "tidy")["session"]["mountpoint"])
        changes = self.json("diff", "-s", "tidy")["changes"]
        shown = self.owned(timed(manifest(view, extents=False), changes))
        self.goexfs("commit", "-s", "tidy", "-m", "Tidy, annotate, edit")
        after = timed(manifest(self.project, extents=False), changes)
        check("the project is what the view was", differences(shown, after))
        for name, text in (("tidy.sh", SHELL), ("annotate.py", PYTHON), ("edit.pl", PERL)):
            self.native(name, text)
        plain, now = (comparable(manifest(top, times=False)) for top in (self.copy, self.project))
        check("and what the scripts make of a plain copy", differences(plain, now))

    def discard_one(self) -> None:
        say("A script that wrecks everything, discarded")
        before = manifest(self.project)
        self.goexfs("mount", str(self.project), "--name", "wreck")
        self.goexfs("run", "-s", "wreck", "--script", "-", script=WRECK, status=3)
        self.goexfs("diff", "-s", "wreck", "--name-status")
        check("the project is untouched", differences(before, manifest(self.project)))
        self.goexfs("discard", "-s", "wreck")
        check("and exactly as it was", differences(before, manifest(self.project)))

    def measure(self) -> None:
        say("Times, ms, whole commands (median of 5 for mount, run, diff, discard)")
        rows: dict[str, list[float]] = {}
        for _ in range(5):
            verbs: list[tuple[str, ...]] = [
                ("mount", str(self.project), "--name", "quick"),
                ("run", "-s", "quick", "--", "true"),
                ("diff", "-s", "quick", "--stat"),
                ("discard", "-s", "quick"),
            ]
            for verb in verbs:
                self.quiet(*verb)
                rows.setdefault(verb[0], []).append(self.times.pop()[1])
        for name, seconds in rows.items():
            print(f"  goexfs {name:<10} {sorted(seconds)[2] * 1000:8.1f}")
        print("  the story above:")
        for what, second in self.times:
            print(f"  {what:<28} {second * 1000:8.1f}")

    def owned(self, shown: Manifest) -> Manifest:
        """A view's manifest as the base must be: root's views show the sandbox's uid."""
        if self.user.uid != 0:
            return shown
        return {name: replace(entry, uid=0, gid=0) for name, entry in shown.items()}

    def timed(self, what: str, action: Any) -> None:
        begin = time.perf_counter()
        action()
        self.times.append((what, time.perf_counter() - begin))


def timed(found: Manifest, changes: list[dict[str, Any]]) -> Manifest:
    """Only with the times of files whose contents changed: a file that was rewritten as it was, or
    a directory where something came and went, is no change, and the base keeps its times."""
    new = {
        os.fsencode(change["path"])
        for change in changes
        if change["type"] == "file" and change["kind"] in ("created", "modified")
    }
    return {
        name: entry if name in new else replace(entry, mtime_ns=0) for name, entry in found.items()
    }


def comparable(found: Manifest) -> Manifest:
    """Without what differs between two runs of the same scripts (git's index has inode numbers)."""
    return {
        name: replace(entry, digest=None) if name == b".git/index" else entry
        for name, entry in found.items()
    }


def make_project(top: Path, owner: User) -> int:
    """The installed Python's library and packages, as a git repository; how many files."""
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, top / "lib", symlinks=True, ignore_dangling_symlinks=True)
    packages = Path(sysconfig.get_path("purelib"))
    shutil.copytree(packages, top / "packages", symlinks=True)
    owner.own(top)
    git: list[str] = ["git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Start"]):
        subprocess.run(
            [*git, *command],
            cwd=top,
            check=True,
            env={**os.environ, **GIT, "HOME": "/nonexistent"},
            user=owner.uid,
            group=owner.gid,
            extra_groups=[],
        )
    return sum(len(files) for _, _, files in os.walk(top))


def check(what: str, found: list[str]) -> None:
    """Print a proof; Mismatch with the first differences if it fails."""
    if found:
        raise Mismatch(f"NOT TRUE: {what}:\n  " + "\n  ".join(found[:20]))
    print(f"  proved: {what}")


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _shortened(text: str, most: int = 30) -> list[str]:
    lines = text.rstrip().splitlines()
    if len(lines) <= most:
        return lines
    return [*lines[: most - 8], f"[... {len(lines) - most + 1} more lines ...]", *lines[-7:]]


def main() -> int:
    """Exit status: 0 all proved, 1 not."""
    parser = argparse.ArgumentParser(description="The main job on real files, with proof.")
    default = int(os.environ.get("SUDO_UID", "0")), int(os.environ.get("SUDO_GID", "0"))
    parser.add_argument(
        "--uid", type=int, default=default[0], help="whose project (default: yours)"
    )
    options = parser.parse_args()
    user = User(options.uid, default[1] if options.uid == default[0] else options.uid)
    os.umask(0o022)
    directory = Path(tempfile.mkdtemp(prefix="goexfs-demo-"))
    directory.chmod(0o755)
    try:
        Demonstration(directory, user).run()
    except Mismatch as mismatch:
        print(f"\n{mismatch}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\nEverything proved; nothing is left behind.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
