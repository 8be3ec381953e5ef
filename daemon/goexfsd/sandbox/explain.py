"""The sandbox that a launch would build, told without building it.

It looks at the same things as a run, at the same paths with the same eyes.
"""

from __future__ import annotations

from goexfs.protocol import Explanation
from goexfsd.sandbox import seccomp
from goexfsd.sandbox.look import Found, look
from goexfsd.sandbox.plan import Argument, Data, Launch, arguments


async def explain(launch: Launch) -> Explanation:
    """Look, and tell; SandboxFailed if a file system does not answer."""
    return tell(launch, await look(launch.search))


def tell(launch: Launch, found: Found) -> Explanation:
    """The words for a launch and what was found."""
    options, environment = _without_environment(arguments(launch, found))
    refused, absent, families = seccomp.summary()
    program = list(launch.program)
    place = program.index("{args}")
    argv = [*program[: place - 1], *options, *program[place + 1 :], *launch.command]
    filled = {"{open_files}": str(launch.open_files)}
    return Explanation(
        argv=[filled.get(word, word) for word in argv],
        environment=environment,
        refused=refused,
        absent=absent,
        families=families,
        cgroup=_cgroup(launch),
        network=list(launch.reaches),
        hidden=[*(mask.path for mask in found.masks), *found.sockets, *found.walls],
    )


def _without_environment(options: list[Argument]) -> tuple[list[str], dict[str, str]]:
    words: list[str] = []
    environment: dict[str, str] = {}
    rest = iter(options)
    for option in rest:
        if option == "--setenv":
            name = _word(next(rest))
            environment[name] = _word(next(rest))
        else:
            words.append(_word(option))
    return words, environment


def _word(argument: Argument) -> str:
    """Text that JSON can carry."""
    if isinstance(argument, Data):
        return f"<{len(argument.content)} bytes>"
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _cgroup(launch: Launch) -> dict[str, str]:
    limits = launch.limits
    asked = {
        "memory": limits.memory_bytes,
        "pids": limits.max_processes,
        "cpu": limits.cpu,
    }
    found = {name: str(value) for name, value in asked.items() if value is not None}
    return {**found, "unenforced": "refuse" if limits.required else "allow"}
