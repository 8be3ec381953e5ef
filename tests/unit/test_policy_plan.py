"""Job and policy to bubblewrap's arguments: pure, so that every rule can be checked alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from goexfs.errors import Denied, NotExecutable, Usage
from goexfsd.sandbox import Job, Launch, Machine, Policy, View, plan
from goexfsd.sandbox.explain import tell
from goexfsd.sandbox.look import Found, Mask
from goexfsd.sandbox.plan import Argument, Data, arguments

MACHINE = Machine(
    nsenter="/usr/bin/nsenter",
    bwrap="/usr/bin/bwrap",
    shell="/bin/sh",
    setpriv="/usr/bin/setpriv",
    setsid="/usr/bin/setsid",
    links={"/bin": "usr/bin"},
    proc_read_only=("/proc/sys",),
    proc_masked_dirs=("/proc/acpi",),
    proc_masked_files=("/proc/keys",),
    cgroups={"": (Path("/sys/fs/cgroup"), "/")},
    resolv_conf="/run/resolv.conf",
)


def job(*argv: str, **how: Any) -> Job:
    fields: dict[str, Any] = {
        "uid": 1000,
        "gid": 1001,
        "groups": (1001, 44),
        "user": "ada",
        "home": "/home/ada",
        "views": (View("/run/goexfs/views/s/mnt", "/home/ada/project"),),
        "cwd": "/home/ada/project",
        "argv": argv,
        "env": {},
        "script": None,
        "pty": None,
        "hide": ("/var/lib/goexfs",),
        "session_id": "s",
        "step": 3,
    }
    return Job(**{**fields, **how})


def launch(*argv: str, policy: dict[str, Any] | None = None, **how: Any) -> Launch:
    return plan(job(*argv, **how), Policy(**(policy or {})), MACHINE)


def shown(made: Launch, found: Found | None = None) -> list[Argument]:
    return arguments(made, found or Found(own_home=True))


def follows(options: list[Argument], *part: Argument) -> int:
    """Where ``part`` stands in the options, as a run of neighbours."""
    for index in range(len(options) - len(part) + 1):
        if tuple(options[index : index + len(part)]) == part:
            return index
    raise AssertionError(f"{part} is not in {options}")


def test_every_namespace_and_no_further_ones() -> None:
    options = shown(launch("true"))
    for option in ("--unshare-all", "--unshare-user", "--disable-userns", "--new-session"):
        assert option in options
    for option in ("--die-with-parent", "--clearenv", "--remount-ro"):
        assert option in options
    follows(options, "--cap-drop", "ALL")
    assert "--share-net" not in options


def test_the_host_s_network_only_by_choice() -> None:
    options = shown(launch("true", policy={"network": "host"}))
    assert "--share-net" in options
    follows(options, "--ro-bind-try", "/run/resolv.conf", "/run/resolv.conf")


def test_nothing_of_the_system_is_writable() -> None:
    options = shown(launch("true"))
    writable = [options[i + 2] for i, option in enumerate(options) if option == "--bind"]
    assert writable == ["/home/ada/project"]
    assert "--dev-bind" not in options


def test_identity_is_dropped_before_bubblewrap() -> None:
    program = launch("true").program
    bwrap = program.index("/usr/bin/bwrap")
    before = program[:bwrap]
    assert before[before.index("--reuid") + 1] == "1000"
    assert before[before.index("--regid") + 1] == "1001"
    assert before[before.index("--groups") + 1] == "1001,44"
    for option in ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"):
        assert option in before


def test_no_groups_and_root_s_group() -> None:
    assert "--clear-groups" in launch("true", groups=()).program
    assert "--clear-groups" in launch("true", groups=(0,)).program


def test_root_is_refused() -> None:
    with pytest.raises(ValueError, match="never runs as root"):
        launch("true", uid=0)


def test_options_and_environment_are_not_on_the_command_line() -> None:
    """Other users see command lines."""
    made = launch("true", env={"VALUE": "hidden-value"})
    assert not any("hidden-value" in part for part in made.program + made.command)
    follows(shown(made), "--setenv", "VALUE", "hidden-value")


def test_order_of_mounts() -> None:
    found = Found(
        own_home=True,
        masks=(
            Mask("/home/ada/.ssh", directory=True, in_view=False),
            Mask("/home/ada/project/.netrc", directory=False, in_view=True),
        ),
        sockets=("/home/ada/agent",),
        walls=("/opt/private",),
    )
    options = shown(launch("true"), found)
    order = [
        follows(options, "--ro-bind-try", "/usr", "/usr"),
        follows(options, "--tmpfs", "/tmp"),
        follows(options, "--ro-bind", "/home/ada", "/home/ada"),
        follows(options, "--tmpfs", "/opt/private"),
        follows(options, "--tmpfs", "/home/ada/.ssh"),
        follows(options, "--ro-bind", "/dev/null", "/home/ada/agent"),
        follows(options, "--bind", "/run/goexfs/views/s/mnt", "/home/ada/project"),
        follows(options, Data(b""), "/home/ada/project/.netrc"),
        follows(options, "--remount-ro", "/"),
    ]
    assert order == sorted(order)


def test_outer_roots_are_mounted_before_inner_ones() -> None:
    views = (View("/v/2", "/srv/a/b/c"), View("/v/1", "/srv/a"))
    options = shown(launch("true", views=views))
    assert follows(options, "--bind", "/v/1") < follows(options, "--bind", "/v/2")


def test_a_home_that_is_not_the_owner_s_is_private() -> None:
    options = shown(launch("true", home="/root", user="root"), Found(own_home=False))
    follows(options, "--perms", "0700", "--tmpfs", "/root")
    assert "--ro-bind" not in [
        o for i, o in enumerate(options) if options[i + 1 : i + 2] == ["/root"]
    ]


def test_links_of_the_top_are_made_again() -> None:
    follows(shown(launch("true")), "--symlink", "usr/bin", "/bin")


def test_more_to_read() -> None:
    options = shown(launch("true", policy={"read": ("~/../data", "/data")}))
    follows(options, "--ro-bind-try", "/data", "/data")


def test_accounts_name_the_owner() -> None:
    options = shown(launch("true"))
    passwd = options[options.index("/etc/passwd") - 1]
    assert isinstance(passwd, Data)
    assert passwd.content.startswith(b"ada:x:1000:1001::/home/ada:/bin/sh\nroot:x:0:0:")


def test_account_fields_cannot_be_forged() -> None:
    options = shown(launch("true", user="a:x:0:0\nroot"))
    passwd = options[options.index("/etc/passwd") - 1]
    assert isinstance(passwd, Data)
    assert passwd.content.startswith(b"a_x_0_0_root:x:1000:1001:")


@pytest.mark.parametrize(
    "name",
    ["API_TOKEN", "github_token", "AWS_REGION", "SSH_AUTH_SOCK", "DBPASSWORD", "STRIPE_KEY",
     "MY_SECRET_THING", "GOOGLE_APPLICATION_CREDENTIALS", "OPENAI_API_KEY", "KUBECONFIG",
     "MYSQL_PWD", "DB_PASS", "GITHUB_PAT", "CI_JOB_JWT", "SLACK_WEBHOOK_URL"],
)  # fmt: skip
def test_secret_variables_are_refused(name: str) -> None:
    with pytest.raises(Denied, match="looks like a secret"):
        launch("true", env={name: "x"})


@pytest.mark.parametrize(
    "name",
    ["EDITOR", "GIT_AUTHOR_NAME", "KEYBOARD", "MONKEY", "http_proxy", "PWD", "OLDPWD", "COMPASS"],
)
def test_other_variables_are_passed_on(name: str) -> None:
    follows(shown(launch("true", env={name: "x"})), "--setenv", name, "x")


def test_a_run_s_variable_wins() -> None:
    options = shown(launch("true", env={"LANG": "de_DE.UTF-8"}))
    assert [
        options[i + 2] for i, o in enumerate(options) if options[i : i + 2] == ["--setenv", "LANG"]
    ] == ["de_DE.UTF-8"]


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A", "x\0y")])
def test_what_cannot_be_a_variable(name: str, value: str) -> None:
    with pytest.raises(Usage):
        launch("true", env={name: value})


def test_variables_outside_the_policy_are_refused() -> None:
    with pytest.raises(Denied, match="policy"):
        launch("true", env={"FOO": "x"}, policy={"environment": ("LC_*",)})


def test_nul_in_arguments() -> None:
    with pytest.raises(Usage, match="NUL"):
        launch("true", "a\0b")


def test_a_terminal_is_controlling_inside() -> None:
    made = launch("bash", pty=(24, 80, "vt100"))
    assert made.pty == (24, 80)
    assert made.command[4:] == ("/usr/bin/setsid", "--ctty", "--wait", "bash")
    follows(shown(made), "--setenv", "TERM", "vt100")


def test_scripts() -> None:
    made = launch("a", script=("dir/x.py", b"print()"))
    assert made.command[4:] == ("python3", "/run/goexfs-script/x.py", "a")
    follows(shown(made), "--ro-bind-data", Data(b"print()"), "/run/goexfs-script/x.py")
    with pytest.raises(NotExecutable):
        launch(script=("x", b"\0\1"))


def test_limits() -> None:
    made = launch("true", policy={"memory_bytes": 1 << 30, "max_processes": 9, "cpu": 1.5})
    limits = made.limits
    assert (limits.memory_bytes, limits.max_processes, limits.cpu) == (1 << 30, 9, 1.5)
    assert limits.required
    assert not launch("true", policy={"unenforced": "allow"}).limits.required


def test_search() -> None:
    search = launch("true", policy={"read": ("~/../other",)}).search
    assert (search.uid, search.gid, search.groups) == (1000, 1001, (1001, 44))
    assert "/home/ada" in search.visible
    assert search.hide == ("/var/lib/goexfs",)
    assert "/run" not in search.visible
    assert "/home/ada" not in launch("true", policy={"home": False}).search.visible


def test_policies_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"netwrok": "none"})
    with pytest.raises(ValidationError):
        Policy(memory_bytes=1)
    with pytest.raises(ValidationError):
        Policy().network = "host"


def test_what_is_read_only_in_a_view_and_what_cannot_be_renamed() -> None:
    found = Found(
        masks=(Mask("/home/ada/project/a/key", directory=False, in_view=True),),
        pins=(("/v/a", "/home/ada/project/a"),),
        read_only=(("/v/.git/hooks", "/home/ada/project/.git/hooks"),),
    )
    options = shown(launch("true"), found)
    order = [
        follows(options, "--bind", "/run/goexfs/views/s/mnt"),
        follows(options, "--bind", "/v/a", "/home/ada/project/a"),
        follows(options, "--ro-bind", "/v/.git/hooks", "/home/ada/project/.git/hooks"),
        follows(options, Data(b""), "/home/ada/project/a/key"),
    ]
    assert order == sorted(order)


def test_what_is_read_besides_may_lie_in_a_home_that_is_not_shown() -> None:
    options = shown(launch("true", policy={"read": ("~/reference",), "home": False}))
    assert follows(options, "--tmpfs", "/home/ada") < follows(
        options, "--ro-bind-try", "/home/ada/reference", "/home/ada/reference"
    )


def test_explained() -> None:
    made = launch("cat", "x", env={"LANG": "C"}, policy={"memory_bytes": 1 << 30})
    found = Found(own_home=True, masks=(Mask("/home/ada/.ssh", directory=True, in_view=False),))
    told = tell(made, found)
    assert told.environment["LANG"] == "C"
    assert told.environment["USER"] == "ada"
    assert told.cgroup == {"memory": str(1 << 30), "pids": "512", "unenforced": "refuse"}
    assert told.hidden == ["/home/ada/.ssh"]
    assert told.argv[-2:] == ["cat", "x"]
    assert "--setenv" not in told.argv
    assert "{args}" not in told.argv
    assert "<0 bytes>" not in told.argv
    assert "io_uring_setup" in told.absent
    assert "mount" in told.refused
