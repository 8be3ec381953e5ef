"""``goexfs doctor``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

from goexfs.cli import show
from goexfs.cli.asking import ask
from goexfs.cli.ending import state
from goexfs.cli.options import command as declare
from goexfs.cli.options import with_json
from goexfs.errors import Unavailable
from goexfs.names import visible
from goexfs.wire import Message


@declare("doctor", "goexfs doctor", "sudo goexfs doctor --json")
@with_json
def command() -> int:
    """Check what goexfs needs of this machine, and say which command mends what is missing.

    Asks the daemon; where none answers, `goexfsd --doctor` is run instead.  Exit status 1 if
    something that is needed is missing.
    """
    result = examine()
    if state().json:
        show.print_json(result)
    else:
        on = show.coloured()
        for check in result["checks"]:
            print(line(check, on))
    return 0 if result["ok"] else 1


def examine() -> Message:
    try:
        return ask("doctor", {})
    except Unavailable as error:
        checks = [
            {
                "name": "daemon",
                "ok": False,
                "detail": error.message,
                "fix": "sudo systemctl start goexfsd",
                "required": True,
            },
            *_by_itself(error),
        ]
        return {"ok": False, "checks": checks}


def daemon_program() -> str | None:
    """goexfsd itself: beside this interpreter, else on the path."""
    beside = os.path.join(os.path.dirname(sys.executable), "goexfsd")
    return beside if os.access(beside, os.X_OK) else shutil.which("goexfsd")


def _by_itself(unavailable: Unavailable) -> list[dict[str, Any]]:
    program = daemon_program()
    if program is None:
        raise unavailable
    done = subprocess.run([program, "--doctor"], capture_output=True, check=False, text=True)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["checks"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"it ended with status {done.returncode}"
        raise Unavailable(
            f"{unavailable.message}; and `goexfsd --doctor` failed: {reason}",
            hint=unavailable.hint,
        ) from None
    return found


def line(check: dict[str, Any], on: bool) -> str:
    if check["ok"]:
        mark = show.paint("ok     ", "32", on)
    elif check.get("required", True):
        mark = show.paint("MISSING", "1;31", on)
    else:
        mark = show.paint("without", "33", on)
    text = f"{mark}  {visible(check['name'])}: {visible(check['detail'])}"
    if not check["ok"] and check.get("fix"):
        text += f"\n         fix: {visible(check['fix'])}"
    return text
