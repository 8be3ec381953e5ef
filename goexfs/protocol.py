"""What goes over the socket: requests, replies and events as frozen pydantic models.

JSON-RPC 2.0, one object a line, UTF-8, over a unix stream socket.  A request may not exceed
``MAX_LINE`` bytes; a reply may.  Long work streams notifications to the connection that asked,
each naming the ``request`` id it belongs to; a client sends ``input``, ``resize`` and ``signal``
notifications back to a running script.  Unknown fields of a request are refused.

Paths are text as ``goexfs.names.to_wire`` makes it.  Times are seconds since the epoch (float).
Sizes are bytes.  No I/O happens here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PROTOCOL_VERSION = 1
MAX_LINE = 4 * 1024 * 1024
MAX_INPUT_AHEAD = 8 * 1024 * 1024
POLICY_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
SECRET_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

Encoding = Literal["utf-8", "base64"]
Kind = Literal["deleted", "created", "modified", "renamed", "retyped", "metadata"]
FileType = Literal["file", "dir", "symlink", "fifo", "socket", "char", "block"]
SessionState = Literal["opening", "open", "committing", "committed", "discarded", "failed"]


class Model(BaseModel):
    """Base of all wire models: frozen; requests refuse unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reply(BaseModel):
    """Base of results: a client of an older version ignores what it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# -- shared parts ---------------------------------------------------------------------------


class RootInfo(Reply):
    name: str
    """The root's name in the view (its directory below the mountpoint when there are several)."""
    path: str
    """The real directory."""
    view: str
    """Where this root appears in the mounted view."""
    stable: bool = False
    """The session sees a snapshot of it: what others change there meanwhile does not show."""


class ViewRule(Reply):
    """What a session's view keeps of a path, for every process."""

    kind: Literal["hidden", "masked", "read_only"]
    pattern: str
    root: str | None = None
    """The name of the root that it is about; None: every one."""


class SessionInfo(Reply):
    session: str
    name: str
    mountpoint: str
    roots: list[RootInfo]
    state: SessionState
    owner: int
    """uid."""
    created: float
    running: list[int] = Field(default_factory=list)
    """Steps running now."""
    checkpoint: int = 0
    """The checkpoint that the live layer descends from."""
    view: Literal["fuse", "kernel"] = "fuse"
    lacks: list[str] = Field(default_factory=list)
    """What this view does not do and the other does, a sentence each."""
    forked_from: str | None = None
    """The session that it was forked from, by id."""
    forked_at: int | None = None
    """At which checkpoint of it."""
    rules: list[ViewRule] = Field(default_factory=list)
    jobs: list[str] = Field(default_factory=list)
    """Those that run."""


class Summary(Reply):
    """How many changes of each kind."""

    deleted: int = 0
    created: int = 0
    modified: int = 0
    renamed: int = 0
    retyped: int = 0
    metadata: int = 0

    @property
    def total(self) -> int:
        return (
            self.deleted
            + self.created
            + self.modified
            + self.renamed
            + self.retyped
            + self.metadata
        )


class Change(Reply):
    """One difference between base and layer (or between two checkpoints)."""

    kind: Kind
    root: str
    """The root's name."""
    path: str
    """Relative to the root; ``.`` is the root itself."""
    type: FileType
    """What it is now (what it was, for a deletion)."""
    old_path: str | None = None
    """Where it was, for a rename."""
    old_type: FileType | None = None
    """What it was, for a retype."""
    aspects: list[
        Literal["content", "mode", "owner", "xattrs", "target", "device", "times", "links"]
    ] = Field(default_factory=list)
    """What differs, for modified, metadata and renamed entries; links: the name belongs to
    another file than before (hard links)."""
    mode: int | None = None
    """Permission bits now (what they were, for a deletion)."""
    old_mode: int | None = None
    size: int | None = None
    old_size: int | None = None
    links: int = 1
    """Names that the file has in the view: more than 1 means that they all show the change."""
    warnings: list[str] = Field(default_factory=list)
    """Why a reviewer should look at it: ``code: sentence``; docs/warnings.md has the codes."""


class ConflictInfo(Reply):
    root: str
    path: str
    reason: Literal[
        "changed", "replaced", "deleted", "created", "parent", "retyped", "blocked", "read"
    ]
    detail: str
    """One sentence: what happened in the base, and what the session wants."""
    theirs: str = ""
    """Of a commit: its first half, what happened in the base."""
    mine: str = ""
    """Of a commit: its second half, what the session did."""
    choices: list[Literal["mine", "theirs", "merge"]] = Field(default_factory=list)
    """How it can be resolved."""


class Loss(Reply):
    """Something of an entry that the owner may not set in the base (an owner, a capability)."""

    root: str
    path: str
    what: str


class CheckpointInfo(Reply):
    number: int
    parent: int | None
    step: int | None
    """The step after which it was taken; None for one taken by hand and for the first."""
    label: str | None
    created: float


class StepInfo(Reply):
    number: int
    command: list[str]
    state: Literal["running", "done", "interrupted"]
    status: int | None
    """The script's exit status; 128 + n after signal n; 124 after the time limit."""
    timed_out: bool
    started: float
    ended: float | None
    before: int = 0
    """The checkpoint that it started from."""
    checkpoint: int | None
    """Taken after it."""
    summary: Summary | None
    """What it changed."""
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool


class CommitInfo(Reply):
    commit: str
    session: str
    message: str
    created: float
    applied: Summary
    partial: bool
    undoes: str | None = None
    """The commit that this one took back."""
    undone_by: str | None = None
    """The commit that took this one back."""
    undo_until: float | None = None
    """It can be undone until then at the latest, earlier if newer commits need the room; None:
    not any more."""
    sha256: str | None = None
    """SHA-256 of the list of changes that it applied; None for an undo."""
    before_bytes: int = 0
    """What its before-images take in the store; less where they are shared with the base."""


# -- requests and their results -------------------------------------------------------------


class Ping(Model):
    pass


class PingResult(Reply):
    version: str
    protocol: int
    pid: int
    uid: int
    """The caller's, as the kernel reports it."""


class Mount(Model):
    roots: list[str] = Field(min_length=1, max_length=64)
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    at: str | None = None
    policy: str | None = Field(default=None, pattern=POLICY_NAME)
    """Whose paths in the roots the view keeps; None: ``default``."""
    hide: list[str] = Field(default_factory=list, max_length=1024)
    """Further ones: not to be seen by anybody at the mountpoint,"""
    mask: list[str] = Field(default_factory=list, max_length=256)
    """to be seen empty,"""
    read_only: list[str] = Field(default_factory=list, max_length=256)
    """not to be changed."""
    view: Literal["fuse", "kernel", "auto"] = "fuse"
    """Who serves it; ``auto``: the kernel where that loses nothing that was asked for."""


class Ls(Model):
    all: bool = False
    """Also those that ended; root: also other users'."""


class LsResult(Reply):
    sessions: list[SessionInfo]


class Status(Model):
    session: str | None = None
    cwd: str | None = None
    """Picks the one open session whose root or mountpoint holds it, when session is None."""


class StaleRead(Reply):
    """A base file that a script read and that changed in the base since."""

    root: str
    path: str
    detail: str
    """What happened to it."""


class StatusResult(Reply):
    session: SessionInfo
    summary: Summary
    checkpoints: int
    steps: int
    layer_bytes: int
    """Exclusive to the live layer, as btrfs accounts it (rounded to its block size)."""
    warnings: list[str] = Field(default_factory=list)
    """Those of all changes together, then ``code: N changes: sentence`` for each code."""
    stale_reads: list[StaleRead] = Field(default_factory=list)
    """The first 1,000 of them."""
    sha256: str = ""
    """Of the list of changes."""


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


class Credential(Model):
    """A secret of the owner's that requests to one host carry, and no script sees."""

    secret: str = Field(pattern=SECRET_NAME)
    """Its name in ``goexfs secret list``."""
    host: str = Field(min_length=1, max_length=300)
    """``HOST[:PORT]``, of https, no ``*``; with ``http://`` before it, of plain HTTP."""
    header: str = Field(default="Authorization", pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")
    format: str = Field(default="", pattern=r"^$|^[ -z|~]*\{\}[ -z|~]*$", max_length=200)
    """The whole header, ``{}`` for the secret; empty: only the placeholder is replaced."""
    env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    """The variable that holds a placeholder.  None: every request to the host gets the header."""


class Rules(Model):
    """What a policy file, or one run, says of the boundary; what it leaves out stays as it is."""

    model_config = ConfigDict(allow_inf_nan=False)

    network: Literal["none", "allow", "host"] | None = None
    allow: list[str] = Field(default_factory=list, max_length=256)
    """``HOST[:PORT]``: what is reached with ``network`` at ``allow``."""
    credentials: list[Credential] = Field(default_factory=list, max_length=64)
    memory: int | None = Field(default=None, ge=16 * 1024**2)
    processes: int | None = Field(default=None, ge=4)
    cpu: float | None = Field(default=None, ge=0.01)
    wall_seconds: float | None = Field(default=None, gt=0)
    open_files: int | None = Field(default=None, ge=32)
    file_bytes: int | None = Field(default=None, ge=0)
    tmp_bytes: int | None = Field(default=None, ge=1024**2)
    output_bytes: int | None = Field(default=None, ge=0)
    layer_bytes: int | None = Field(default=None, ge=0)
    layer_inodes: int | None = Field(default=None, ge=0)
    home: bool | None = None
    environment: list[str] | None = Field(default=None, max_length=256)
    read: list[str] = Field(default_factory=list, max_length=256)
    hide: list[str] = Field(default_factory=list, max_length=1024)
    show: list[str] = Field(default_factory=list, max_length=256)
    mask: list[str] = Field(default_factory=list, max_length=256)
    read_only: list[str] = Field(default_factory=list, max_length=256)
    unenforced: Literal["refuse", "allow"] | None = None


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


class Diff(Model):
    session: str | None = None
    cwd: str | None = None
    paths: list[str] = Field(default_factory=list)
    """Names or globs, relative to ``cwd`` where the session holds it, else to a root
    (``ROOTNAME/...`` when there are several); or absolute (real or view)."""
    exclude: list[str] = Field(default_factory=list)
    """Names or globs of what to leave out."""
    step: int | None = None
    from_: int | None = Field(default=None, alias="from")
    to: int | None = None
    patch: bool = False
    """Also stream the unified diff, as ``chunk`` events before the result."""
    binary: bool = True
    """False: the patch only says that binary files differ; quicker, and not to be applied."""


class DiffResult(Reply):
    session: str
    from_: int | None = Field(default=None, alias="from")
    """A checkpoint, or None for the base."""
    to: int | None
    """A checkpoint, or None for the live layer."""
    changes: list[Change]
    summary: Summary
    warnings: list[str] = Field(default_factory=list)
    """Of all changes together (``code: sentence``); those of one are in it."""
    sha256: str = ""
    """Of the list of changes; the audit log has it of what was seen and of what was committed."""


class Log(Model):
    session: str | None = None
    cwd: str | None = None
    network: bool = False
    """Also what each step did on the network."""


class Inherited(Reply):
    """What a fork has from the session that it was forked from."""

    session: str
    name: str
    checkpoint: int
    """Where it was forked."""
    steps: list[StepInfo]
    """Those that led there, oldest first."""


class LogResult(Reply):
    session: SessionInfo
    checkpoints: list[CheckpointInfo]
    steps: list[StepInfo]
    commits: list[CommitInfo]
    network: list[StepNetwork] = Field(default_factory=list)
    """Of the steps that had a proxy, where it was asked for."""
    inherited: list[Inherited] = Field(default_factory=list)
    """Of a fork: from whom, the first forefather first."""


class Output(Model):
    """The kept output of a step."""

    session: str | None = None
    cwd: str | None = None
    step: int


class OutputResult(Reply):
    stdout: str
    stderr: str
    truncated: bool


class Checkpoint(Model):
    session: str | None = None
    cwd: str | None = None
    label: str | None = Field(default=None, max_length=200)


class Rewind(Model):
    session: str | None = None
    cwd: str | None = None
    to: int


class RewindResult(Reply):
    session: str
    checkpoint: int
    saved: int | None
    """A checkpoint made of what the live layer held and no checkpoint had yet."""


class Fork(Model):
    """Without step and checkpoint: at the state that the session has now."""

    session: str | None = None
    cwd: str | None = None
    step: int | None = Field(default=None, ge=0)
    """After this step; 0: before the first."""
    checkpoint: int | None = Field(default=None, ge=0)
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class Resolve(Model):
    """What becomes of the conflicts at and below a path; the longest path counts."""

    path: str
    way: Literal["mine", "theirs", "merge"]


class Patch(Model):
    """A patch that ``diff`` made, as it was edited."""

    text: str
    """UTF-8 text, or base64 when encoding says so."""
    encoding: Encoding = "utf-8"


class Commit(Model):
    session: str | None = None
    cwd: str | None = None
    message: str = Field(default="", max_length=10_000)
    paths: list[str] = Field(default_factory=list)
    """Names or globs, as for ``diff``."""
    exclude: list[str] = Field(default_factory=list)
    """Names or globs of what stays in the session."""
    patch: Patch | None = None
    """Commit what is in it; what was taken out of it stays in the session.  In place of
    ``paths`` and ``exclude``."""
    checkpoint: int | None = None
    """Commit exactly this reviewed checkpoint; refused if the live layer has moved on."""
    dry_run: bool = False
    """Only say what would be done; nothing is staged or kept."""
    on_conflict: Literal["abort", "mine", "theirs", "merge"] = "abort"
    """What becomes of conflicts of which ``resolve`` says nothing."""
    resolve: list[Resolve] = Field(default_factory=list)
    isolation: Literal["snapshot", "serializable"] = "snapshot"
    """``serializable``: a base file that a script read, and that changed since, is a conflict."""


class Operation(Reply):
    """One step of a commit."""

    action: Literal[
        "save",
        "stage",
        "widen",
        "link",
        "fill",
        "put",
        "replace",
        "exchange",
        "move",
        "park",
        "remove",
        "set",
    ]
    root: str
    path: str
    to: str | None = None
    """For link, exchange and move: the other place."""
    bytes: int | None = None
    """For save and stage: what it takes on disk at most."""


class Resolution(Reply):
    """How a conflict was resolved."""

    root: str
    path: str
    way: Literal["mine", "theirs", "merge"]
    detail: str
    """One sentence: what that came to."""


class CommitResult(Reply):
    commit: str | None
    """None when there was nothing to commit, or when there were conflicts."""
    session: str
    applied: Summary
    conflicts: list[ConflictInfo] = Field(default_factory=list)
    """Those that are not resolved; where there are any, nothing was touched."""
    resolved: list[Resolution] = Field(default_factory=list)
    remaining: Summary
    """What is left in the session (after a partial commit)."""
    closed: bool
    losses: list[Loss] = Field(default_factory=list)
    """What could not be carried over although the change itself was committed."""
    sha256: str | None = None
    """Of the list of changes that were applied."""
    late: int = 0
    """Entries that somebody else changed in the very last moment; their newest bytes are kept
    with the commit's before-images."""
    warnings: list[str] = Field(default_factory=list)
    """Of what was to be committed: those of all changes together, then ``code: path: sentence``
    for each of a change's, the path as for a terminal."""
    plan: list[Operation] = Field(default_factory=list)
    """Of a dry run: every operation, in order; ``applied`` is what would be."""


class Undo(Model):
    """Take a commit back by a new one; only its owner and root may."""

    commit: str | None = None
    """None: the newest of the caller's that can be undone, one in cwd's root before others."""
    cwd: str | None = None
    message: str = Field(default="", max_length=10_000)


class UndoResult(Reply):
    commit: str | None
    """The new commit, which can be undone in turn; None when there were conflicts."""
    undone: str
    """The commit that was meant."""
    session: str
    applied: Summary
    conflicts: list[ConflictInfo] = Field(default_factory=list)
    """What changed since the commit; where there are any, nothing was touched."""
    losses: list[Loss] = Field(default_factory=list)
    late: int = 0


class SecretSet(Model):
    """Keep a secret of the caller's, or a new value of it."""

    name: str = Field(pattern=SECRET_NAME)
    value: str = Field(min_length=1, max_length=8192, repr=False)
    """Printable ASCII; never told again."""
    hosts: list[str] = Field(default_factory=list, max_length=32)
    """The only hosts that a policy may bind it to; empty: any."""


class SecretSetResult(Reply):
    secret: str
    replaced: bool


class SecretList(Model):
    pass


class SecretInfo(Reply):
    name: str
    hosts: list[str]
    created: float
    changed: float


class SecretListResult(Reply):
    secrets: list[SecretInfo]


class SecretRemove(Model):
    name: str = Field(pattern=SECRET_NAME)


class SecretRemoveResult(Reply):
    secret: str


class Verify(Model):
    """Is the base what it should be: as a commit left it, or as an open session found it?"""

    commit: str | None = None
    """None, and no session: as for ``undo``."""
    session: str | None = None
    cwd: str | None = None


class VerifyDifference(Reply):
    root: str
    path: str
    detail: str
    """One sentence: what is different."""


class VerifyResult(Reply):
    commit: str | None
    session: str
    checked: int
    """Entries that were looked at."""
    differences: list[VerifyDifference] = Field(default_factory=list)


class Discard(Model):
    session: str | None = None
    cwd: str | None = None


class DiscardResult(Reply):
    session: str
    discarded: bool = True


class Audit(Model):
    """The audit log: the caller's own entries, and those about the caller's sessions; root: all."""

    session: str | None = Field(default=None, max_length=64)
    """Only about this one: an id, or the name of an open one."""
    limit: int = Field(default=100, ge=0, le=100_000)
    """The newest so many."""
    verify: bool = False
    """Also check the chain, of everybody's entries."""


class AuditEntry(Reply):
    number: int
    at: float
    what: str
    """A method, or what the daemon did by itself: start, stop, applied, taken_back, torn."""
    uid: int | None
    """Who asked; None: nobody did."""
    owner: int | None
    """Whose session it is."""
    session: str | None
    result: str
    """``ok``, the code of an error, or ``given_up``."""
    said: dict[str, str]
    """What there is to say besides."""
    sha256: str
    """Of the entry's line, which the next one holds."""


class AuditResult(Reply):
    entries: list[AuditEntry]
    """Oldest first."""
    checked: int | None = None
    """How many entries were verified."""
    problems: list[str] = Field(default_factory=list)
    """What is wrong with the log; a sentence each."""


class Doctor(Model):
    pass


class Check(Reply):
    name: str
    ok: bool
    detail: str
    fix: str | None = None
    """The command that mends it."""
    required: bool = True


class DoctorResult(Reply):
    ok: bool
    checks: list[Check]


METHODS: dict[str, tuple[type[Model], type[Reply]]] = {
    "ping": (Ping, PingResult),
    "mount": (Mount, SessionInfo),
    "ls": (Ls, LsResult),
    "status": (Status, StatusResult),
    "run": (Run, RunResult),
    "start": (Start, JobInfo),
    "jobs": (Jobs, JobsResult),
    "kill": (Kill, JobInfo),
    "diff": (Diff, DiffResult),
    "log": (Log, LogResult),
    "output": (Output, OutputResult),
    "policy": (Policy, PolicyResult),
    "checkpoint": (Checkpoint, CheckpointInfo),
    "rewind": (Rewind, RewindResult),
    "fork": (Fork, SessionInfo),
    "commit": (Commit, CommitResult),
    "undo": (Undo, UndoResult),
    "discard": (Discard, DiscardResult),
    "secret_set": (SecretSet, SecretSetResult),
    "secret_list": (SecretList, SecretListResult),
    "secret_remove": (SecretRemove, SecretRemoveResult),
    "verify": (Verify, VerifyResult),
    "audit": (Audit, AuditResult),
    "doctor": (Doctor, DoctorResult),
}
"""Every method: its parameters and its result."""


# -- notifications, daemon to client: {"method": ..., "params": {"request": id, ...}} ----------


class Started(Model):
    """A step began."""

    request: int | str
    session: str
    step: int


class OutputEvent(Model):
    """A piece of a script's output, in order within its stream (``pty`` carries both)."""

    request: int | str
    stream: Literal["stdout", "stderr", "pty"]
    data: str
    encoding: Encoding


class Taken(Model):
    """The script has taken this many more bytes of ``input``.

    A client keeps at most 1 MiB of input that was not yet taken under way; beyond
    ``MAX_INPUT_AHEAD`` the run is ended with a Limit error.
    """

    request: int | str
    bytes: int


class ChunkEvent(Model):
    """A piece of a patch."""

    request: int | str
    data: str
    encoding: Encoding


class ProgressEvent(Model):
    """How far long work is; ``total`` None while unknown."""

    request: int | str
    stage: str
    done: int
    total: int | None


EVENTS: dict[str, type[Model]] = {
    "started": Started,
    "output": OutputEvent,
    "taken": Taken,
    "chunk": ChunkEvent,
    "progress": ProgressEvent,
}


# -- notifications, client to daemon ----------------------------------------------------------


class Input(Model):
    """Bytes for the running script's stdin (or terminal)."""

    request: int | str
    data: str = ""
    encoding: Encoding = "utf-8"
    eof: bool = False


class Resize(Model):
    request: int | str
    rows: int = Field(ge=1, le=10000)
    cols: int = Field(ge=1, le=10000)


class Signal(Model):
    request: int | str
    name: Literal["INT", "TERM", "HUP", "QUIT", "KILL"]


NOTICES: dict[str, type[Model]] = {"input": Input, "resize": Resize, "signal": Signal}


class Envelope(BaseModel):
    """A line from a client: a request when it has an id, else a notification."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    jsonrpc: Literal["2.0"]
    id: int | str | None = None
    method: str = Field(max_length=64)
    params: dict[str, Any] = Field(default_factory=dict)
