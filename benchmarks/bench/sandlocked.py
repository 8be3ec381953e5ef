"""Runs in a virtual environment that has sandlock: ``sandlocked.py DIRECTORY HOW PROGRAM ...``.

HOW is ``abort`` (the program's output is passed on), ``time`` (milliseconds of the run as the
library gives it) or ``commit`` (milliseconds of bringing the changes into the directory).
"""

from __future__ import annotations

import sys
import time

import sandlock

directory, how, *program = sys.argv[1:]
policy = sandlock.Sandbox(
    workdir=directory,
    fs_readable=["/"],
    fs_writable=[directory, "/tmp", "/dev/null"],
    on_exit="defer" if how == "commit" else "abort",
)
begin = time.perf_counter()
done = policy.run(program)
took = (time.perf_counter() - begin) * 1000
if not done.success:
    sys.exit(f"sandlock: {done.error or done.stderr.decode(errors='replace')}")
if how == "commit":
    begin = time.perf_counter()
    policy.commit()
    took = (time.perf_counter() - begin) * 1000
sys.stdout.write(done.stdout.decode() if how == "abort" else str(took))
