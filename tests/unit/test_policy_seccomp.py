"""The system call filter, run by a small machine for classic BPF: no process is risked."""

from __future__ import annotations

import errno
import platform
import struct

import pytest

from goexfsd.sandbox import seccomp

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")

ARCH = 0xC000003E
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x00000000
_LOAD, _JUMP, _RETURN, _ALU = 0, 5, 6, 4


def judge(number: int, *arguments: int, arch: int = ARCH) -> int:
    """What the filter says: see linux/filter.h and linux/seccomp.h."""
    padded = [argument & (2**64 - 1) for argument in (*arguments, *[0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    program = list(struct.iter_unpack("<HBBI", seccomp.program("none")))
    accumulator, at = 0, 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        kind = code & 7
        if kind == _RETURN:
            return int(value)
        if kind == _LOAD:
            accumulator = int(struct.unpack_from("<I", data, value)[0])
        elif kind == _ALU and code & 0xF0 == 0x50:
            accumulator &= value
        elif kind == _JUMP:
            at += _jump(code & 0xF0, accumulator, value, yes, no)
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


def _jump(operation: int, accumulator: int, value: int, yes: int, no: int) -> int:
    if operation == 0x00:
        return value
    holds = {
        0x10: accumulator == value,
        0x20: accumulator > value,
        0x30: accumulator >= value,
        0x40: bool(accumulator & value),
    }
    return yes if holds[operation] else no


def refused(code: int) -> int:
    return ERRNO | code


@pytest.mark.parametrize("number", [0, 1, 2, 9, 39, 57, 59, 60, 202, 231, 257, 262, 318, 436, 439])
def test_ordinary_calls(number: int) -> None:
    assert judge(number) == ALLOW


@pytest.mark.parametrize(
    "number", [101, 155, 161, 165, 166, 246, 250, 298, 304, 308, 310, 321, 323]
)
def test_refused_calls(number: int) -> None:
    assert judge(number) == refused(errno.EPERM)


@pytest.mark.parametrize("number", [425, 426, 427, 428, 430, 435, 447, 467, 470, 490, 511])
def test_absent_calls(number: int) -> None:
    assert judge(number) == refused(errno.ENOSYS)


def test_other_architectures_are_killed() -> None:
    assert judge(0, arch=0x40000003) == KILL  # i386
    assert judge(0x40000000) == KILL  # x32


@pytest.mark.parametrize("family", range(80))
def test_socket_families(family: int) -> None:
    expected = ALLOW if family in (1, 2, 10) else refused(errno.EAFNOSUPPORT)
    for call in (41, 53):
        assert judge(call, family, 1) == expected
        assert judge(call, family | 1 << 32, 1) == refused(errno.EAFNOSUPPORT)


def test_new_namespaces() -> None:
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(272, flag) == refused(errno.EPERM)
        assert judge(56, flag | 17) == refused(errno.EPERM)
    assert judge(272, 0x80) == refused(errno.EPERM)
    assert judge(56, 17) == ALLOW  # fork
    assert judge(56, 0x3D0F00) == ALLOW  # pthread_create
    assert judge(272, 0x400) == ALLOW  # unshare(CLONE_FILES)


def test_device_nodes() -> None:
    for kind, allowed in ((0o010000, True), (0o100000, True), (0o020000, False), (0o060000, False)):
        expected = ALLOW if allowed else refused(errno.EPERM)
        assert judge(133, 0, kind | 0o644) == expected
        assert judge(259, -100, 0, kind | 0o644) == expected


def test_terminal_requests() -> None:
    for request in (0x5412, 0x541C):
        assert judge(16, 0, request) == refused(errno.EPERM)
        assert judge(16, 0, request | 1 << 32) == refused(errno.EPERM)
    assert judge(16, 0, 0x5413) == ALLOW  # TIOCGWINSZ
    assert judge(16, 0, 0x540E) == ALLOW  # TIOCSCTTY


def test_personalities() -> None:
    assert judge(135, 0) == ALLOW
    assert judge(135, 0x0400000) == refused(errno.EPERM)


def test_built_once() -> None:
    assert seccomp.program("none") is seccomp.program("none")
