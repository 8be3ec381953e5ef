#!/usr/bin/env python3
"""An agent framework in ten lines: run what a model proposes, look, then commit or discard.

    agent_loop.py DIRECTORY PROPOSALS

PROPOSALS is a file with a shell command a line: it stands for the model.  Each runs as a step of
one session over DIRECTORY; one that fails is rewound, and the next starts from where it was.
Nothing real changes before the commit at the end, and that commits exactly what was reviewed.
"""

import sys
from pathlib import Path

import goexfs


def propose(proposals: Path) -> list[str]:
    """What a model would say."""
    return proposals.read_text().splitlines()


def review(changes: list[goexfs.Change]) -> bool:
    """What a person, or a policy, would decide: here, nothing may be deleted."""
    for change in changes:
        print(f"{change.kind:9} {change.path}")
    return not any(change.kind == "deleted" for change in changes)


def main(directory: str, proposals: str) -> int:
    with goexfs.connect() as fs:
        session = fs.mount(directory)
        good = fs.checkpoint("start", session=session).number
        for command in propose(Path(proposals)):
            ran = fs.run(["sh", "-c", command], session=session, timeout=60)
            print(f"$ {command}\n{ran.stdout}{ran.stderr}", end="")
            if ran.status == 0 and ran.checkpoint is not None:
                good = ran.checkpoint
            else:
                print(f"[exit {ran.status}: taken back]")
                fs.rewind(good, session=session)
        if review(fs.diff(session=session).changes):
            result = fs.commit(session=session, checkpoint=good, message="the agent's work")
            print(f"committed as {result.commit}" if result.commit else "nothing was committed")
            return 3 if result.conflicts else 0
        fs.discard(session)
        print("discarded")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
