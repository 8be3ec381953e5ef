"""The way out of one step: its credentials, its gate, and the record of what it did.

It joins ``vault`` (values), ``egress`` (the proxy) and the session's files.  The proxy of a
session runs as a host uid of its own, next to those of root's sandboxes: it owns no file, and is
neither root, nor the session's owner, nor another session's proxy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from goexfs import protocol as p
from goexfsd import sandbox
from goexfsd.catalog import StepRow
from goexfsd.egress.gate import Gate, Held, make_spec, open_gate
from goexfsd.hosts import parse_service
from goexfsd.session import House, Session
from goexfsd.worker import Owner

_PROXIES = 32768
"""Where the proxies' uids begin, above those of root's sandboxes."""


def held(session: Session, policy: sandbox.Policy) -> list[Held]:
    """The policy's credentials with their values; NotFound, Denied."""
    if policy.network != "allow":
        return []
    vault, uid = session.house.vault, session.row.uid
    return [
        Held(each, *parse_service(each.host), vault.value(uid, each.secret, each.host))
        for each in policy.credentials
    ]


def open_way(
    session: Session, policy: sandbox.Policy, credentials: list[Held]
) -> AbstractAsyncContextManager[Gate]:
    """The gate for one step."""
    house = session.house
    uid = house.config.view.sandbox_uid_base + _PROXIES + session.row.slot % _PROXIES
    spec = make_spec(house.worker_spec(Owner(uid, uid, ()), (), {}, {}), credentials)
    return open_gate(house.workers, spec, policy.allow, credentials)


def way(gate: Gate) -> sandbox.Way:
    """What the sandbox gets of it."""
    return sandbox.Way(gate.environment, gate.authority)


def keep(house: House, session: str, step: int, network: p.Network) -> None:
    """Keep the record with the step's output."""
    path = house.store.steps_dir(session) / f"{step}.net"
    path.write_text(network.model_dump_json(), encoding="utf-8")


def kept(house: House, session: str, steps: Iterable[StepRow]) -> list[p.StepNetwork]:
    """The records of those steps that have one."""
    directory = house.store.steps_dir(session)
    found = []
    for step in steps:
        path = directory / f"{step.number}.net"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            found.append(p.StepNetwork.model_validate({**record, "step": step.number}))
    return found
