"""Which of a policy's paths the view keeps for a whole session, and what is left to a run: pure.

What a policy says of paths inside the roots when a session is opened is kept by its view, for every
process, at any depth, whatever comes into being later (``view.rules``).  A run's policy may say
more: that the sandbox does with mounts, for what is there when the step begins, and only where a
pattern leads without ``**``; one without a slash then means the top of a root.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Literal

from goexfs.errors import Usage
from goexfs.names import display
from goexfsd.sandbox.policy import Policy
from goexfsd.sandbox.secrets import SECRETS

Kind = Literal["hidden", "masked", "read_only"]
Rule = tuple[Kind, int | None, str]
"""Kind, index of the root (None: every root), pattern below it."""


def rules(
    policy: Policy, home: str, roots: Sequence[str], *, asked: Collection[str] = ()
) -> tuple[Rule, ...]:
    """What the view of a session over ``roots`` is to keep.

    Of what is hidden without anybody saying so, only what is ``asked`` for.
    """
    said: list[tuple[Kind, tuple[str, ...]]] = [
        ("hidden", tuple(x for x in policy.hidden if x not in SECRETS or x in asked)),
        ("masked", policy.masked),
        ("read_only", policy.read_only),
    ]
    return tuple(
        dict.fromkeys(
            (kind, root, pattern)
            for kind, patterns in said
            for each in patterns
            for root, pattern in _inside(each, home, roots)
        )
    )


def _inside(pattern: str, home: str, roots: Sequence[str]) -> Iterator[tuple[int | None, str]]:
    path = home + pattern[1:] if pattern.startswith("~/") else pattern
    if not path.startswith("/"):
        yield None, pattern
        return
    for index, root in enumerate(roots):
        if path.startswith(root.rstrip("/") + "/"):
            yield index, "./" + path[len(root.rstrip("/")) + 1 :]


def rest(policy: Policy, kept: Sequence[Rule]) -> Policy:
    """The policy without what the view keeps; Usage for what only a view could have kept."""
    held = {(kind, pattern) for kind, root, pattern in kept if root is None}

    def left(kind: Kind, patterns: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(each for each in patterns if (kind, each) not in held)
        for each in found:
            if not each.startswith(("/", "~/")) and (kind == "masked" or "**" in each):
                raise Usage(
                    f"{display(each)} is not in force: the session was opened without it",
                    hint="what goes for every depth, or is masked, is given to goexfs mount,"
                    " or stands in a policy that it takes",
                )
        return found

    hidden = left("hidden", policy.hidden)
    masked = left("masked", policy.masked)
    read_only = left("read_only", policy.read_only)
    return policy.model_copy(update={"hidden": hidden, "masked": masked, "read_only": read_only})
