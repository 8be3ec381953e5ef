"""Out of the roots by the file system: paths, links, descriptors, devices, fifos, sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks import Field
from attacks import open_field as open_field
from manifests import Manifest

Manifests = Callable[..., Manifest]

WRITES = {
    "absolute path": "open(at.victim, 'a').write('x'); won = True",
    "dot dot": "open('../outside/victim', 'a').write('x'); won = True",
    "new file beside": "open(at.outside + '/made', 'w').write('x'); won = True",
    "new directory": "os.mkdir(at.outside + '/made-dir'); won = True",
    "fifo": "os.mkfifo(at.outside + '/made-fifo'); won = True",
    "socket": "socket.socket(socket.AF_UNIX).bind(at.outside + '/made-socket'); won = True",
    "symlink to a file": "os.symlink(at.victim, 'l1'); open('l1', 'a').write('x'); won = True",
    "symlink to a directory": """
        os.symlink(at.outside, 'l2')
        open('l2/made-2', 'w').write('x')
        won = True
    """,
    "relative symlink": """
        os.symlink('../outside/victim', 'l3')
        open('l3', 'a').write('x')
        won = True
    """,
    "chain of symlinks": """
        os.symlink('c2', 'c1'); os.symlink('..', 'c2')
        open('c1/outside/victim', 'a').write('x')
        won = True
    """,
    "hard link out of there": "os.link(at.victim, 'h1'); open('h1', 'a').write('x'); won = True",
    "hard link into there": "os.link('README.md', at.outside + '/h2'); won = True",
    "rename into there": "os.rename('README.md', at.outside + '/r'); won = True",
    "rename out of there": "os.rename(at.outside + '/second', 'r2'); won = True",
    "truncate": "os.truncate(at.outside + '/third', 0); won = True",
    "unlink": "os.unlink(at.outside + '/third'); won = True",
    "chmod": "os.chmod(at.victim, 0o777); won = True",
    "times": "os.utime(at.victim, (1, 1)); won = True",
    "xattr": "os.setxattr(at.victim, 'user.x', b'x'); won = True",
    "O_PATH and /proc/self/fd": """
        fd = os.open(at.victim, os.O_PATH)
        open(f'/proc/self/fd/{fd}', 'a').write('x')
        won = True
    """,
    "read-only and /proc/self/fd": """
        fd = os.open(at.victim, os.O_RDONLY)
        os.write(os.open(f'/proc/self/fd/{fd}', os.O_WRONLY), b'x')
        won = True
    """,
    "O_TMPFILE and link": """
        fd = os.open(at.outside, os.O_TMPFILE | os.O_WRONLY)
        path = f'/proc/self/fd/{fd}'.encode()
        won = libc.linkat(-100, path, -100, (at.outside + '/tmpfile').encode(), 0x400) == 0
    """,
    "roots of processes": """
        for pid in pids():
            try:
                open(f'/proc/{pid}/root' + at.victim, 'a').write('x')
                won = True
            except OSError: pass
    """,
    "working directories of processes": """
        for pid in pids():
            try:
                open(f'/proc/{pid}/cwd/../outside/victim', 'a').write('x')
                won = True
            except OSError: pass
    """,
    "mmap": """
        import mmap
        with open(at.victim, 'r+b') as file:
            mmap.mmap(file.fileno(), 0)[0] = 88
        won = True
    """,
}

# Not tried outside: they would work there, on this machine, or need a sandbox to mean anything.
UNSAFE = {
    "descriptors that were inherited": """
        for fd in os.listdir('/proc/self/fd') + os.listdir('/dev/fd'):
            for path in ('..', '../..', at.victim.lstrip('/')):
                try:
                    place = os.open(path, os.O_PATH, dir_fd=int(fd))
                    won = won or os.path.samefile(f'/proc/self/fd/{place}', '/proc/1/root/nowhere')
                    won = True
                except (OSError, NotADirectoryError): pass
    """,
    "descriptors of the first process": """
        for fd in os.listdir('/proc/1/fd'):
            try:
                os.open(f'/proc/1/fd/{fd}/..', os.O_PATH)
                won = True
            except OSError: pass
    """,
    "bind mount": """
        os.mkdir('m')
        won = libc.mount(at.outside.encode(), b'm', None, 4096, None) == 0
    """,
    "remount writable": "won = libc.mount(None, b'/usr', None, 32 | 4096, None) == 0",
    "unmount what hides": """
        won = any(libc.umount2(p.encode(), 2) == 0 for p in ('/tmp', at.root, '/proc', '/run'))
    """,
    "chroot and climb": """
        os.mkdir('jail'); os.chroot('jail')
        won = True
    """,
    "pivot_root": "won = libc.syscall(155, b'.', b'.') == 0",
    "block device": """
        for major in (7, 8, 253, 254, 259):
            os.mknod(f'dev{major}', 0o60666, os.makedev(major, 0))
            won = True
    """,
    "device already there": """
        import glob
        for name in glob.glob('/dev/*'):
            if stat.S_ISBLK(os.stat(name).st_mode): won = True
        bad = ('mem', 'kmem', 'port', 'fuse', 'kvm')
        won = won or any(os.path.exists(f'/dev/{name}') for name in bad)
    """,
    "/dev/mem, by device number": "os.mknod('mem', 0o20666, os.makedev(1, 1)); won = True",
    "fuse of one's own": "os.open('/dev/fuse', os.O_RDWR); won = True",
}


def test_nothing_outside_the_roots_can_be_written(field: Field, manifest: Manifests) -> None:
    outside, base = manifest(field.outside), manifest(field.root)
    assert field.inside({**WRITES, **UNSAFE}) == {}
    assert manifest(field.outside) == outside
    assert manifest(field.root) == base


def test_nor_where_the_script_may_read_it(field: Field, manifest: Manifests) -> None:
    """The same with everything in sight, read-only."""
    outside, base = manifest(field.outside), manifest(field.root)
    # A link to what cannot be written is no harm: it is a link across mounts, and refused.
    assert field.inside({**WRITES, **UNSAFE}, "--read", field.arena) == {}
    assert manifest(field.outside) == outside
    assert manifest(field.root) == base


def test_outside_the_sandbox_they_all_win(field: Field) -> None:
    assert field.control(WRITES) == set(WRITES)


def test_what_a_script_links_to_is_not_followed_by_diff_and_commit(
    field: Field, manifest: Manifests
) -> None:
    """Links that lead out are committed as links; what they lead to stays as it is."""
    before = manifest(field.outside)
    script = f"""
        ln -s {field.outside}/victim absolute
        ln -s ../outside relative
        rm -r src && ln -s ../outside/deep src
        mv README.md kept && ln -s {field.outside}/second README.md
    """
    field.goexfs("run", "--", "sh", "-c", script)
    field.goexfs("diff")
    field.goexfs("commit", "-m", "links")
    assert os.readlink(field.root / "absolute") == f"{field.outside}/victim"
    assert os.readlink(field.root / "src") == "../outside/deep"
    assert manifest(field.outside) == before


def test_a_fifo_of_the_base_leads_nowhere(field: Field) -> None:
    """P1: what a script writes into a fifo does not come out of the base's."""
    reader = os.open(field.root / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        attack = "os.write(os.open('pipe', os.O_WRONLY | os.O_NONBLOCK), b'x'); won = True"
        assert field.control({"fifo": attack}) == {"fifo"}
        assert os.read(reader, 10) == b"x"
        assert field.inside({"fifo": attack}) == {}
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


def test_a_socket_in_a_root_leads_nowhere(field: Field) -> None:
    """A server that listens in the real directory, say of a build tool or an editor."""
    path = field.root / "server.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o777)
        attack = "socket.socket(socket.AF_UNIX).connect('server.sock'); won = True"
        assert field.control({"socket": attack}) == {"socket"}
        assert field.inside({"socket": attack}) == {}


@pytest.mark.parametrize("name", ["setuid", "capability"])
def test_a_program_that_a_script_makes_privileged_gains_nothing(field: Field, name: str) -> None:
    """Neither for the script, nor for others at the mountpoint: nosuid."""
    view = Path(field.json("status")["session"]["mountpoint"])
    field.goexfs("run", "--", "sh", "-c", "cp /usr/bin/id ./id; chmod 6755 ./id; ./id -u > uid")
    uid = field.owner.uid or 1879048192
    assert field.goexfs("run", "--", "cat", "uid") == f"{uid}\n"
    flags = os.statvfs(view).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    if name == "capability":
        code = "os.setxattr('id', 'security.capability', bytes(20)); won = True"
        assert field.inside({"xattr": code}) == {}
