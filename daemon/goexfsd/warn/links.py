"""Where a symlink leads: followed by name within the view, as far as out of its root.

Nothing is opened: what each name is, is asked of ``Links``, which reads the links of the view.
"""

from __future__ import annotations

from collections.abc import Callable

_HOPS = 40
"""As many links as the kernel follows (path_resolution(7))."""

Links = Callable[[bytes], bytes | None]
"""The target of the symlink at a path of the view; None if there is none."""


def leads_out(path: bytes, target: bytes, place: bytes, links: Links) -> bool:
    """Whether the symlink at ``path`` leads out of the root that lies at ``place``.

    An absolute target leads out unless it is below ``place``, and so does one that takes more
    ``..`` than there are directories, at any moment of following it.
    """
    here = path.split(b"/")[:-1]
    rest = target
    for _ in range(_HOPS):
        if rest.startswith(b"/"):
            inside = _inside(rest, place)
            if inside is None:
                return True
            here, rest = [], inside
        step = _step(here, rest, links)
        if step is None:
            return False
        here, rest = step
        if here[:1] == [b".."]:
            return True
    return False


def _step(here: list[bytes], rest: bytes, links: Links) -> tuple[list[bytes], bytes] | None:
    """Go on from ``here`` to the next symlink: where it lies, and what is to follow from there.

    None at the end of the way; ``[b".."]`` if it leaves the root.
    """
    here = list(here)
    names = rest.split(b"/")
    for at, name in enumerate(names):
        if name == b"..":
            if not here:
                return [b".."], b""
            here.pop()
        elif name not in (b"", b"."):
            further = links(b"/".join((*here, name)))
            if further is not None:
                return here, b"/".join((further, *names[at + 1 :]))
            here.append(name)
    return None


def _inside(target: bytes, place: bytes) -> bytes | None:
    """An absolute target relative to the root, or None if it is not below it."""
    if not place or not (target + b"/").startswith(place.rstrip(b"/") + b"/"):
        return None
    return target[len(place) :].lstrip(b"/")
