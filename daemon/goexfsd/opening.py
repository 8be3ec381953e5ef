"""A session to be: what a ``mount`` asks for, looked at with the owner's eyes, made a row.

Nothing is opened here.  The paths come from the owner's worker (``probe``), canonical; root
compares them as text with what is goexfs's own.
"""

from __future__ import annotations

import os
import pwd
import secrets
import time
from collections.abc import Collection, Iterable

from goexfs import protocol as p
from goexfs.errors import InvalidState, Usage
from goexfs.names import display, from_wire
from goexfsd.catalog import RootRow, SessionRow
from goexfsd.channel import open_channel
from goexfsd.decide import overlap
from goexfsd.probe import probe
from goexfsd.server import Peer
from goexfsd.session import House, Session
from goexfsd.worker import Owner

Found = tuple[str, int]
"""A canonical path and its inode."""


async def look(house: House, peer: Peer, request: p.Mount) -> tuple[list[Found], Found | None]:
    """The roots and the mountpoint that are meant; NotFound, Usage, Denied."""
    options = {
        "roots": [os.fsdecode(path_of(root)) for root in request.roots],
        "at": None if request.at is None else os.fsdecode(path_of(request.at)),
    }
    owner = Owner(peer.uid, peer.gid, peer.groups)
    spec = house.worker_spec(owner, (), {}, options)
    async with open_channel(house.workers, probe, spec, looks=True) as channel:
        found = await channel.expect("probed")
    at = found["at"]
    return [(path, ino) for path, ino in found["roots"]], None if at is None else tuple(at)


def check_places(house: House, live: Iterable[Session], roots: list[str], at: str | None) -> None:
    """Roots must not overlap each other, the mountpoint, or what is goexfs's own."""
    for index, root in enumerate(roots):
        for other in roots[:index]:
            if overlap(root, other):
                raise Usage(
                    f"the roots {display(other)} and {display(root)} overlap",
                    hint="name the outer one only",
                )
    config = house.config
    own = [
        ("the state directory", str(config.state_dir)),
        ("the runtime directory", str(config.runtime_dir)),
        ("the store", str(house.store.path)),
    ]
    for root in roots:
        for what, place in own:
            real = os.path.realpath(place)
            if overlap(root, real):
                raise Usage(
                    f"the root {display(root)} overlaps {what} {display(place)} of goexfs",
                    hint="choose roots outside, or move goexfs's directories",
                )
        if at is not None and overlap(root, at):
            raise Usage(
                f"the mountpoint {display(at)} and the root {display(root)} overlap",
                hint="choose a mountpoint outside the roots; scripts see the view"
                " at the root's own path anyway",
            )
    for session in live:
        if at is not None and session.row.at == at:
            raise Usage(f"the mountpoint {display(at)} is in use by session {session.row.name}")


def new_row(
    peer: Peer,
    request: p.Mount,
    roots: list[Found],
    at: Found | None,
    mine: Collection[Session],
    slots: Collection[int],
) -> SessionRow:
    """The row of a session that is being opened."""
    user, home = account(peer.uid)
    return SessionRow(
        id=f"s-{secrets.token_hex(5)}",
        name=new_name(request.name, _plain_name(roots[0][0]), mine),
        uid=peer.uid,
        gid=peer.gid,
        groups=peer.groups,
        home=home,
        user=user,
        slot=next(n for n in range(len(slots) + 1) if n not in slots),
        roots=_root_rows(roots),
        at=at[0] if at else None,
        at_ino=at[1] if at else 0,
        state="opening",
        checkpoint=-1,
        created=time.time(),
    )


def path_of(text: str) -> bytes:
    """The bytes of a path on the wire."""
    try:
        return from_wire(text)
    except ValueError as error:
        raise Usage(str(error)) from error


def account(uid: int) -> tuple[str, str]:
    """Name and home directory of a user."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return f"uid{uid}", "/"
    return entry.pw_name, entry.pw_dir


def _plain_name(path: str) -> str:
    base = path.rstrip("/").rpartition("/")[2]
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in base)
    return clean.lstrip("._-")[:48] or "session"


def new_name(wanted: str | None, otherwise: str, mine: Iterable[Session]) -> str:
    """The name that is wanted, if it is free; else one like ``otherwise``."""
    taken = {session.row.name for session in mine}
    if wanted is not None and wanted in taken:
        raise InvalidState(f"you have an open session named {wanted}", hint="choose another name")
    return wanted or _free_name(otherwise, taken)


def _free_name(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def _root_rows(roots: list[Found]) -> tuple[RootRow, ...]:
    rows: list[RootRow] = []
    for path, ino in roots:
        name = _free_name(_plain_name(path), {row.name for row in rows})
        rows.append(RootRow(name, path, ino))
    return tuple(rows)
