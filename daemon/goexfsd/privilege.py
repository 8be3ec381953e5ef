"""What the daemon may still do as root: the capabilities that it keeps, and no others.

Whoever takes the daemon over has these, so each has its reason here.  The systemd unit has the same
list, for what systemd starts; a test holds the two together.  Workers of ordinary users keep none.
"""

from __future__ import annotations

from goexfsd import kernel

KEPT = {
    "CHOWN": 0,  # layers and commits of other users' files
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,  # what scripts started
    "SETGID": 6,  # becoming a user
    "SETUID": 7,
    "SETPCAP": 8,  # taking all of these from workers and sandboxes
    "LINUX_IMMUTABLE": 9,  # root's own files, in commits of root's sessions
    "NET_ADMIN": 12,  # the loopback interface of a network namespace of ours
    "SYS_PTRACE": 19,  # descriptors of workers that are another user's by then
    "SYS_ADMIN": 21,  # mounts, subvolumes, namespaces
    "SYS_RESOURCE": 24,  # limits above the default
    "MKNOD": 27,  # loop devices; devices in root's sessions
    "SETFCAP": 31,  # file capabilities, in root's sessions
}


def drop() -> None:
    """Give up all others, for this process and whatever it starts."""
    kernel.keep_capabilities(sum(1 << number for number in KEPT.values()))
