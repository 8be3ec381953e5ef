"""Scripts: a run, a job in the background, their sandbox, and what they did on the network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from goexfs.protocol.changes import Summary
from goexfs.protocol.model import POLICY_NAME, Encoding, Model, Reply
from goexfs.protocol.policies import Rules


class Pty(Model):
    rows: int = Field(default=24, ge=1, le=10000)
    cols: int = Field(default=80, ge=1, le=10000)
    term: str = Field(default="xterm-256color", max_length=64)


class Script(Model):
    text: str
    """UTF-8 text, or base64 when encoding says so."""
    encoding: Encoding = "utf-8"
    name: str = "script"
    """The file's name: its suffix chooses the interpreter where there is no shebang."""


class Run(Model):
    session: str | None = None
    cwd: str | None = None
    """The caller's directory: picks the session, and the script starts there if a root holds it."""
    command: list[str] = Field(default_factory=list)
    """argv; with a script, the script's arguments."""
    script: Script | None = None
    timeout: float | None = Field(default=None, gt=0)
    env: dict[str, str] = Field(default_factory=dict)
    pty: Pty | None = None
    stream: bool = True
    """Output as ``output`` events; otherwise it comes with the result."""
    stdin: bool = False
    """The client will send ``input`` events; otherwise the script's stdin is empty."""
    label: str | None = None
    policy: str | None = Field(default=None, pattern=POLICY_NAME)
    """A preset, or a file of the owner's; None: ``default``."""
    rules: Rules | None = None
    """This run's own word on top of it."""


class NetworkRequest(Reply):
    """One connection that a script asked the proxy for."""

    at: float
    seconds: float
    host: str = Field(max_length=256)
    """Empty where it was no request that could be understood."""
    port: int
    method: str = Field(max_length=1024)
    allowed: bool
    why: str | None = Field(default=None, max_length=400)
    """Why it was refused, or failed."""
    rule: str | None = Field(default=None, max_length=300)
    """What would allow it: ``--allow-host RULE``, or a line of a policy's ``allow``."""
    status: int | None = None
    """Of the answer."""
    sent: int = 0
    """Bytes to the host."""
    received: int = 0


class Network(Reply):
    """What a step did on the network, with ``network`` at ``allow``."""

    total: int = 0
    refused: int = 0
    requests: list[NetworkRequest] = Field(default_factory=list)
    """In the order of their ends, the first 500 of them."""


class StepNetwork(Network):
    """The same, in a log."""

    step: int


class Start(Run):
    """A run beside the steps, until it ends, is killed, or the session ends: a job."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """None: one is made up."""


class JobInfo(Reply):
    name: str
    command: list[str]
    started: float
    ended: float | None = None
    status: int | None = None
    """None: it runs, or was killed with its session."""
    why: str | None = None
    """Why it ended, where its status does not say."""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout: str | None = None
    """What was kept of it, where that was asked for."""
    stderr: str | None = None


class Jobs(Model):
    session: str | None = None
    cwd: str | None = None
    name: str | None = None
    """Only this one."""
    output: bool = False
    """With what was kept of their output."""


class JobsResult(Reply):
    jobs: list[JobInfo]


class Kill(Model):
    session: str | None = None
    cwd: str | None = None
    name: str
    signal: Literal["INT", "TERM", "HUP", "QUIT", "KILL"] = "TERM"


class RunResult(Reply):
    session: str
    step: int
    status: int
    signal: int | None = None
    timed_out: bool = False
    duration: float
    checkpoint: int | None
    summary: Summary
    stdout: str | None = None
    """Only when not streamed: UTF-8 with replacement, at most the output limit."""
    stderr: str | None = None
    truncated: bool = False
    policy: str = "default"
    policy_sha256: str = ""
    """Of everything that the policy came to."""
    exceeded: list[Literal["memory", "processes", "layer_bytes", "layer_inodes"]] = Field(
        default_factory=list
    )
    """Limits of the policy that the step ran into."""
    network: Network | None = None
    """None where the policy's ``network`` is not ``allow``."""


class Policy(Model):
    """What a run would be held to; ``explain``: also the sandbox that would be built."""

    run: Run | None = None
    explain: bool = False


class Setting(Reply):
    key: str
    value: str | int | float | bool | list[str] | None
    source: str
    """Where the value comes from: a preset, a file, this run, the daemon's limits."""


class Explanation(Reply):
    """A sandbox that was not built."""

    argv: list[str]
    """The whole command; ``{...}`` are descriptors, ``<n bytes>`` data behind one."""
    environment: dict[str, str]
    refused: list[str]
    """System calls that fail with EPERM."""
    absent: list[str]
    """System calls that fail with ENOSYS."""
    families: list[str]
    """The socket families that are left."""
    cgroup: dict[str, str]
    """Controller to limit."""
    hidden: list[str]
    """What exists and would be empty."""
    network: list[str] = Field(default_factory=list)
    """What the script reaches, and with which credentials, in words."""


class PolicyResult(Reply):
    policy: str
    session: str | None
    settings: list[Setting]
    notes: list[str]
    """What was asked for and not granted, and why."""
    available: list[str]
    """Names that ``run`` takes."""
    explanation: Explanation | None = None
