"""Machine code by the first bytes of a file: ELF, PE, Mach-O, WebAssembly, Java classes."""

from __future__ import annotations

HEAD = 4096
"""Bytes that are enough to tell."""

_MACH_O = "a Mach-O program or library"
_FIRST_FOUR = {
    b"\x7fELF": "an ELF program, library or object",
    b"\xfe\xed\xfa\xce": _MACH_O,
    b"\xfe\xed\xfa\xcf": _MACH_O,
    b"\xce\xfa\xed\xfe": _MACH_O,
    b"\xcf\xfa\xed\xfe": _MACH_O,
    b"\x00asm": "a WebAssembly module",
    b"\xca\xfe\xba\xbe": "",  # a fat Mach-O, or a Java class
}
_FAT_ARCHITECTURES = 40
"""A fat Mach-O has fewer; where it says how many, a Java class has its version, from 45."""


def recognise(head: bytes) -> str | None:
    """What kind of machine code begins so, in words; None if none that is known."""
    kind = _FIRST_FOUR.get(head[:4])
    if kind is None:
        return "a DOS or Windows program or library" if _is_pe(head) else None
    if kind:
        return kind
    number = int.from_bytes(head[4:8], "big")
    return _MACH_O if number < _FAT_ARCHITECTURES else "a Java class"


def _is_pe(head: bytes) -> bool:
    if head[:2] != b"MZ":
        return False
    at = int.from_bytes(head[60:64], "little")
    if head[at : at + 4] == b"PE\0\0":
        return True
    return b"\0" in head[:64]  # text that begins with MZ has none
