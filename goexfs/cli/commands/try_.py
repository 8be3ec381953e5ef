"""``goexfs try``: a whole session at once."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Literal

import click

from goexfs.cli import script as scripts
from goexfs.cli import show, warned
from goexfs.cli.asking import ask, real
from goexfs.cli.boundary import with_policy
from goexfs.cli.commands.commit import commit, losses, report
from goexfs.cli.commands.diff import changes, show_patch
from goexfs.cli.commands.run import request
from goexfs.cli.ending import state
from goexfs.cli.options import Duration, with_json
from goexfs.cli.options import command as declare
from goexfs.cli.state import PIPE_GONE
from goexfs.cli.stream import stdin_source
from goexfs.errors import Conflict
from goexfs.wire import Message

Answer = Literal["commit", "discard", "keep"]

_QUESTION = "[c]ommit, [d]iscard, [k]eep for later, or [l]ook closer? "


@declare(
    "try",
    "goexfs try -- ./upgrade.sh",
    "goexfs try --yes -- npm install left-pad",
    "goexfs try --root ~/project --no -- make",
    context_settings={"allow_interspersed_args": False},
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND]...")
@click.option("--yes", "answer", flag_value="commit", help="Commit, unless the script fails.")
@click.option("--no", "answer", flag_value="discard", help="Discard, whatever happened.")
@click.option("--keep", "answer", flag_value="keep", help="Keep the session for later.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="DIR",
    type=click.Path(readable=False),
    help="The directory, or directories [else the current one].",
)
@click.option("--script", metavar="FILE", type=click.Path(allow_dash=True), help="As for run.")
@click.option("--timeout", type=Duration(), metavar="TIME", help="As for run.")
@click.option("-e", "--env", "variables", multiple=True, metavar="VAR[=VALUE]", help="As for run.")
@with_policy
@with_json
def command(
    argv: tuple[str, ...],
    answer: str | None,
    roots: tuple[str, ...],
    script: str | None,
    timeout: float | None,
    variables: tuple[str, ...],
    boundary: Message,
) -> int:
    """Mount the current directory, run COMMAND, show what changed, and ask what to do with it.

    Without a terminal to ask on, and without --yes, --no or --keep, the session is kept: no
    answer is not a yes.  So it is where --yes was given and the script failed.  The exit status
    is the script's where that failed; else 0, 3 for a conflict, or that of the error.
    """
    params = {**request(argv, script, timeout, variables), **boundary}
    mount: Message = {"roots": [real(root) for root in roots or (".",)]}
    if "policy" in boundary:
        mount["policy"] = boundary["policy"]
    if hide := boundary.get("rules", {}).get("hide"):
        mount["hide"] = hide
    session = ask("mount", mount)
    return Try(session, answer).go(params, read_stdin=script != "-")


class Try:
    """A session from its first step to its fate, which is always printed."""

    def __init__(self, session: Message, answer: str | None) -> None:
        self._session: str = session["session"]
        self._name: str = session["name"]
        self._many = len(session["roots"]) > 1
        self._answer = answer
        self._quiet = state().json
        self._report: dict[str, Any] = {"session": self._session, "name": self._name}

    def go(self, params: Message, read_stdin: bool) -> int:
        try:
            return self._go(params, read_stdin)
        except BrokenPipeError:
            if "fate" not in self._report:
                self._kept("what reads our output is gone")
            return PIPE_GONE
        except BaseException:
            if "fate" not in self._report:
                self._kept("it was not seen through")
            raise

    def _go(self, params: Message, read_stdin: bool) -> int:
        source = stdin_source() if read_stdin else None
        cwd = real(".")
        asked = {**params, "session": self._session, "cwd": cwd}
        ran = scripts.run(asked, source, not self._quiet, state())
        state().script = "none"
        self._report["run"] = ran
        found = changes({"session": self._session}, quiet=self._quiet)
        self._report["changes"] = found["changes"]
        self._report["summary"] = found["summary"]
        self._report["warnings"] = found.get("warnings", [])
        if not self._quiet:
            self._show(ran, found)
        status = self._settle(ran, found)
        if self._quiet:
            show.print_json(self._report)
        return ran["status"] or status

    def _show(self, ran: Message, found: Message) -> None:
        sys.stdout.flush()
        on = show.coloured(sys.stderr)
        status = "" if ran["status"] == 0 else f"exit status {ran['status']}, "
        took = show.span(ran["duration"])
        print(f"-- {status}{took}: {show.summary(found['summary'])}", file=sys.stderr)
        warned.on_stderr(warned.apart(warned.lines(found, self._many, on)))
        for line in show.change_lines(found["changes"], self._many, on):
            print(line, file=sys.stderr)

    def _settle(self, ran: Message, found: Message) -> int:
        """Do what was decided; the status of doing it."""
        match self._decide(ran, found):
            case "commit":
                return self._commit(ran)
            case "discard":
                self._discard("nothing was changed" if not show.total(found["summary"]) else None)
            case "keep":
                pass
        return 0

    def _decide(self, ran: Message, found: Message) -> Answer:
        if self._answer == "keep":
            self._kept(None)
            return "keep"
        if not show.total(found["summary"]) or self._answer == "discard":
            return "discard"
        if self._answer == "commit":
            if ran["status"] == 0:
                return "commit"
            self._kept("the script failed")
            return "keep"
        if self._quiet or not (sys.stdin.isatty() and sys.stderr.isatty()):
            self._kept("nobody is there to ask")
            return "keep"
        return self._ask()

    def _ask(self) -> Answer:
        while True:
            try:
                print(_QUESTION, end="", file=sys.stderr, flush=True)
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                line = ""
            said = line.strip().lower()
            if said in ("c", "commit"):
                return "commit"
            if said in ("d", "discard"):
                return "discard"
            if said in ("l", "look", "look closer"):
                show_patch({"session": self._session})
            elif not line or said in ("k", "keep"):
                if not line:
                    print(file=sys.stderr)
                self._kept(None if line else "there was no answer")
                return "keep"

    def _commit(self, ran: Message) -> int:
        params: Message = {"session": self._session}
        if ran["checkpoint"] is not None:
            # What was shown is what is committed.
            params["checkpoint"] = ran["checkpoint"]
        result = commit(params, self._quiet)
        self._report["commit"] = result
        if result.get("conflicts"):
            if not self._quiet:
                report(result)
            self._kept("it conflicts with the real directory")
            return Conflict.exit_status
        self._report["fate"] = "committed"
        self._say(f"committed as {result['commit']}: {show.summary(result['applied'])}")
        if not self._quiet:
            losses(result)
        return 0

    def _discard(self, why: str | None) -> None:
        ask("discard", {"session": self._session})
        self._report["fate"] = "discarded"
        self._say("discarded" + (f": {why}" if why else ""))

    def _kept(self, why: str | None) -> None:
        self._report["fate"] = "kept"
        reason = f", since {why}" if why else ""
        name = show.name(self._name)
        self._say(
            f"session {name} is kept, uncommitted{reason}\n"
            f"   goexfs diff -s {name}   goexfs commit -s {name}   goexfs discard -s {name}"
        )

    def _say(self, text: str) -> None:
        if not self._quiet or text.startswith("session"):
            with suppress(OSError):
                print(f"-- {text}", file=sys.stderr, flush=True)
