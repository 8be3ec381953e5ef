"""``goexfs recover``."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import click

from goexfs.cli import show
from goexfs.cli.commands.doctor import daemon_program
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json
from goexfs.errors import Denied, GoexfsError, InvalidState, Unavailable, Usage
from goexfs.names import display, visible
from goexfs.wire import Message

_WORDS = {
    "forward": "finished",
    "back": "taken back, nothing is changed",
    "pending": "still pending",
}


@declare("recover", "sudo goexfs recover", "sudo goexfs recover --state-dir /var/lib/goexfs")
@click.option("--config", metavar="FILE", help="The daemon's configuration.")
@click.option("--state-dir", metavar="DIR", help="The daemon's state directory.")
@click.option("--runtime-dir", metavar="DIR", help="The daemon's runtime directory.")
@with_json
def command(config: str | None, state_dir: str | None, runtime_dir: str | None) -> int:
    """Finish or take back commits that a crash cut off, without the daemon.

    The daemon does so by itself whenever it starts; this is for where it cannot.  Root only, and
    refused while a daemon runs.  Exit status 1 if a commit is still pending.
    """
    options = {"config": config, "state-dir": state_dir, "runtime-dir": runtime_dir}
    result = recover([f"--{name}={value}" for name, value in options.items() if value is not None])
    if state().json:
        show.print_json(result)
    else:
        for each in result["settled"]:
            print(line(each))
        if not result["settled"]:
            print("no commit is pending")
    return 1 if any(each["outcome"] == "pending" for each in result["settled"]) else 0


def recover(options: list[str]) -> Message:
    """What `goexfsd --recover` says it did."""
    if os.geteuid() != 0:
        raise Denied("only root can recover commits", hint="sudo goexfs recover")
    program = daemon_program()
    if program is None:
        raise Unavailable("goexfsd is not installed here")
    done = subprocess.run([program, "--recover", *options], capture_output=True, check=False)
    try:
        found: Message = json.loads(done.stdout)
    except ValueError:
        raise _refused(done) from None
    return found


def _refused(done: subprocess.CompletedProcess[bytes]) -> GoexfsError:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    said = [line[9:] for line in lines if line.startswith("goexfsd: ")]
    hints = [line[6:] for line in lines if line.startswith("hint: ")]
    message = said[-1] if said else (lines or [f"goexfsd ended with status {done.returncode}"])[-1]
    leaf = Usage if done.returncode == 2 else InvalidState
    return leaf(message, hint=hints[-1] if hints else None)


def line(each: dict[str, Any]) -> str:
    where = ", ".join(display(root) for root in each["roots"])
    text = f"{each['commit']} to {where}: {_WORDS[each['outcome']]}"
    return f"{text}: {visible(each['why'])}" if each["why"] else text
