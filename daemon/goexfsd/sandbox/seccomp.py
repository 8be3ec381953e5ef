"""Which system calls a script may make: a list as data, turned into BPF by libseccomp.

What is refused answers as an old or locked-down kernel would (ENOSYS, EPERM, EAFNOSUPPORT), so
that programs fall back.  Calls newer than the list are ENOSYS until somebody has looked at
them.  Programs of another architecture (32-bit x86, x32) are killed: libseccomp's default.

Programs are built once per variant and kept.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import Any, Literal

from goexfs.errors import Unsupported

Network = Literal["none", "allow", "host"]

# Answered with ENOSYS: callers fall back to what the filter can judge, or do without.
ABSENT = (
    "clone3",  # its flags lie in memory, where a filter cannot look
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "mount_setattr",
    "open_tree_attr",
    "memfd_secret",
    "quotactl_fd",
    "io_setup",  # all of the machine's programs share one number of requests
    "lookup_dcookie",
    "uselib",
    "nfsservctl",
    "vm86",
    "vm86old",
)

# Answered with EPERM.
REFUSED = (
    # kernel keyring, programs in the kernel, other tasks' memory and events
    "add_key",
    "keyctl",
    "request_key",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    "fanotify_init",
    "fanotify_mark",
    # handles reach files past every mount and mask
    "name_to_handle_at",
    "open_by_handle_at",
    # mounts, roots, namespaces
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "chroot",
    "setns",
    "swapon",
    "swapoff",
    "quotactl",
    # the machine
    "reboot",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "query_module",
    "get_kernel_syms",
    "settimeofday",
    "clock_settime",
    "clock_settime64",
    "stime",
    "acct",
    "syslog",
    "vhangup",
    "iopl",
    "ioperm",
    "modify_ldt",
    "_sysctl",
    "sysfs",
    "ustat",
    # other tasks' memory placement
    "move_pages",
    "migrate_pages",
)

FAMILIES = {1: "AF_UNIX", 2: "AF_INET", 10: "AF_INET6"}
"""The socket families there are; netlink, vsock, packet, bluetooth, alg, ... are not."""
_HIGHEST_FAMILY = 64

_CLONE_NEW = (
    0x00000080,  # CLONE_NEWTIME
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
_CLONE_NEWTIME = 0x80  # in clone() these bits are the exit signal's
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000
# TIOCSTI and TIOCLINUX: typing into the terminal, and the console's selection and paste (the low
# 32 bits count: CVE-2019-10063).  TIOCSETD: line disciplines, which the kernel loads when asked.
_IOCTLS = (0x5412, 0x541C, 0x5423)
_F_SETLEASE = 1024
_RLIMIT_CORE = 4
_LOW = 0xFFFFFFFF

# Numbers from 424 on are the same on all architectures: for names that an older libseccomp
# does not know.
_NUMBERS = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "open_tree_attr": 467,
}
# 470 is the first that nobody has looked at.
_UNKNOWN = range(470, 512)


def summary() -> tuple[list[str], list[str], list[str]]:
    """(refused, absent, socket families): what the program comes to, in words."""
    partly = (
        "unshare, clone with a namespace flag",
        "mknod of a device",
        "ioctl TIOCSTI, TIOCLINUX, TIOCSETD",
        "fcntl F_SETLEASE",
        "personality other than the default",
    )
    unknown = f"calls numbered {_UNKNOWN.start} to {_UNKNOWN.stop - 1}"
    return [*REFUSED, *partly], [*ABSENT, unknown], list(FAMILIES.values())


@functools.cache
def program(network: Network) -> bytes:
    """The BPF program (an array of struct sock_filter) for a policy's network setting."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise Unsupported(
            f"libseccomp cannot be loaded: {error}", hint="apt-get install libseccomp2"
        ) from error
    rules = _Rules(pyseccomp)
    for name in ABSENT:
        rules.call(errno.ENOSYS, name)
    for name in REFUSED:
        rules.call(errno.EPERM, name)
    for number in _UNKNOWN:
        rules.call(errno.ENOSYS, number)
    rules.namespaces()
    rules.devices()
    rules.sockets()
    rules.terminals()
    rules.personalities()
    rules.leases()
    rules.cores()
    return rules.export()


class _Rules:
    """libseccomp's filter, with one method per idea."""

    def __init__(self, library: Any) -> None:
        self._lib = library
        self._filter = library.SyscallFilter(defaction=library.ALLOW)

    def call(self, code: int, name: str | int, *conditions: Any) -> None:
        """Refuse ``name``; one that this architecture does not have needs no refusing."""
        number = name if isinstance(name, int) else self._number(name)
        if number >= 0:
            self._filter.add_rule(self._lib.ERRNO(code), number, *conditions)

    def _number(self, name: str) -> int:
        found = int(self._lib.resolve_syscall(self._lib.Arch.NATIVE, name))
        return found if found >= 0 else _NUMBERS.get(name, -1)

    def namespaces(self) -> None:
        for flag in _CLONE_NEW:
            masked = self._lib.Arg(0, self._lib.MASKED_EQ, flag, flag)
            self.call(errno.EPERM, "unshare", masked)
            if flag != _CLONE_NEWTIME:
                self.call(errno.EPERM, "clone", masked)

    def devices(self) -> None:
        """No device nodes: 0:0 is a whiteout, and allowed to anyone."""
        for kind in (_S_IFCHR, _S_IFBLK):
            self.call(errno.EPERM, "mknod", self._lib.Arg(1, self._lib.MASKED_EQ, _S_IFMT, kind))
            self.call(errno.EPERM, "mknodat", self._lib.Arg(2, self._lib.MASKED_EQ, _S_IFMT, kind))

    def sockets(self) -> None:
        for family in range(_HIGHEST_FAMILY):
            if family not in FAMILIES:
                same = self._lib.Arg(0, self._lib.MASKED_EQ, _LOW, family)
                self.call(errno.EAFNOSUPPORT, "socket", same)
                self.call(errno.EAFNOSUPPORT, "socketpair", same)
        above = self._lib.Arg(0, self._lib.GE, _HIGHEST_FAMILY)
        self.call(errno.EAFNOSUPPORT, "socket", above)
        self.call(errno.EAFNOSUPPORT, "socketpair", above)

    def terminals(self) -> None:
        for request in _IOCTLS:
            self.call(errno.EPERM, "ioctl", self._lib.Arg(1, self._lib.MASKED_EQ, _LOW, request))

    def personalities(self) -> None:
        """Only the default: READ_IMPLIES_EXEC and its like weaken every later exec."""
        self.call(errno.EPERM, "personality", self._lib.Arg(0, self._lib.NE, 0))

    def leases(self) -> None:
        """A lease on a file of the owner's makes whoever opens it outside wait."""
        command = self._lib.Arg(1, self._lib.MASKED_EQ, _LOW, _F_SETLEASE)
        self.call(errno.EPERM, "fcntl", command)

    def cores(self) -> None:
        """The limit on core dumps stays: 0, the lower one, would let them out (``parked``).

        Nothing happens and 0 is answered: who asks for less has it, and programs that hold
        secrets end when they do not get it.
        """
        of_core = (self._lib.MASKED_EQ, _LOW, _RLIMIT_CORE)
        self.call(0, "setrlimit", self._lib.Arg(0, *of_core))
        self.call(0, "prlimit64", self._lib.Arg(1, *of_core), self._lib.Arg(2, self._lib.NE, 0))

    def export(self) -> bytes:
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        with os.fdopen(fd, "w+b") as file:
            self._filter.export_bpf(file)
            file.flush()
            file.seek(0)
            return file.read()
