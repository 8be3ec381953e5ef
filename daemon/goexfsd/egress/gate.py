"""The gate: a step's proxy as the daemon sees it, from before the script starts to its end.

``open_gate`` makes the step's network and starts the proxy's worker; what comes out of it goes to
the sandbox (the namespace, variables with placeholders, certificates) and, when the step has
ended, into its record.  The proxy ends with the block, whatever ends that.

The daemon never sees a byte that went through; of the worker it takes bounded, checked stories.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio
from pydantic import ValidationError

from goexfs import protocol as p
from goexfs.errors import GoexfsError, SandboxFailed
from goexfsd.channel import Channel, open_channel
from goexfsd.egress.network import make_network
from goexfsd.egress.worker import MOST_TOLD, egress, prepare
from goexfsd.hosts import Address, join
from goexfsd.worker import Workers, WorkerSpec

log = structlog.get_logger("goexfsd.egress")

_READY_SECONDS = 30.0
_LAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """A credential of the policy's with the value that the proxy puts in."""

    credential: p.Credential
    host: str | Address
    port: int
    tls: bool
    value: str = field(repr=False)


@dataclass(slots=True)
class Gate:
    """One step's way out."""

    namespace: int
    environment: dict[str, str]
    """Variables that hold placeholders."""
    authority: bytes = b""
    """The certificates that the script is to trust; empty: the system's will do."""
    requests: list[p.NetworkRequest] = field(default_factory=list)
    total: int = 0
    refused: int = 0
    _channel: Channel | None = None
    _over: trio.Event = field(default_factory=trio.Event)

    async def listen(self, channel: Channel) -> None:
        """Take what the worker tells until it has told all."""
        try:
            while (message := await channel.receive()) is not None:
                if message.get("event") == "visit" and len(self.requests) < MOST_TOLD:
                    self._note(p.NetworkRequest.model_validate(message["visit"]))
                elif message.get("event") == "end":
                    self.total = max(self.total, int(message["total"]))
                    self.refused = max(self.refused, int(message["refused"]))
                    break
        except (GoexfsError, ValidationError, KeyError, TypeError, ValueError) as error:
            log.error("a proxy made no sense", error=type(error).__name__)
            channel.kill()
        self._over.set()

    def _note(self, request: p.NetworkRequest) -> None:
        self.requests.append(request)
        self.total += 1
        self.refused += not request.allowed

    async def finish(self) -> p.Network:
        """The script has ended: end the proxy; what it did."""
        assert self._channel is not None
        with trio.move_on_after(_LAST_SECONDS):
            try:
                self._channel.send({"cmd": "end"})
            except GoexfsError:
                log.error("a proxy ended before its step")
            else:
                await self._over.wait()
        return self.told()

    def told(self) -> p.Network:
        return p.Network(total=self.total, refused=self.refused, requests=list(self.requests))


@asynccontextmanager
async def open_gate(
    workers: Workers, spec: WorkerSpec, allow: Sequence[str], held: Sequence[Held]
) -> AsyncIterator[Gate]:
    """Open the way to the hosts of ``allow``, with credentials, for one step.

    ``spec`` says whose uid the proxy takes.  SandboxFailed where there can be no such network.
    """
    network = await trio.to_thread.run_sync(make_network)
    try:
        placeholders = [_placeholder(each) for each in held]
        command = {
            "allow": list(allow),
            "credentials": [
                _order(each, placeholder)
                for each, placeholder in zip(held, placeholders, strict=True)
            ],
        }
        async with open_channel(workers, egress, spec, prepare=prepare) as channel:
            channel.send(command)
            channel.send_fd(network.listener.fileno())
            network.listener.close()
            with trio.fail_after(_READY_SECONDS):
                ready = await channel.expect("ready")
            environment = {
                each.credential.env: placeholder
                for each, placeholder in zip(held, placeholders, strict=True)
                if each.credential.env is not None
            }
            gate = Gate(network.namespace, environment, ready["authority"], _channel=channel)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gate.listen, channel)
                yield gate
                nursery.cancel_scope.cancel()
    except trio.TooSlowError as error:
        raise SandboxFailed("the proxy of the script's network does not start") from error
    finally:
        network.close()


def make_spec(spec: WorkerSpec, held: Sequence[Held]) -> WorkerSpec:
    """The spec with what ``prepare`` must know."""
    spec.options["tls"] = any(each.tls for each in held)
    return spec


def _placeholder(held: Held) -> str:
    """Worth nothing, and good for one step; none where the script has no use for it."""
    return f"goexfs_{secrets.token_hex(20)}" if held.credential.env is not None else ""


def _order(held: Held, placeholder: str) -> dict[str, Any]:
    return {
        "host": join(held.host, 0).rpartition(":")[0],
        "port": held.port,
        "tls": held.tls,
        "header": held.credential.header,
        "format": held.credential.format,
        "value": held.value,
        "placeholder": placeholder,
    }
