"""goexfsd: the composition root.  Configuration, recovery, service, until told to stop.

Everything long-lived is opened here, in order, and closed in the reverse order.  SIGTERM and
SIGINT stop the daemon cleanly: running scripts are ended (their steps keep what they did), the
views are unmounted, the layers stay, and the next start brings the sessions back.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
import trio

from goexfs.errors import Denied, GoexfsError, InvalidState
from goexfs.protocol import DoctorResult
from goexfsd import doctor, kernel, privilege, recovery, systemd
from goexfsd.audit import open_audit
from goexfsd.catalog import open_catalog, pending_commits
from goexfsd.config import Config, read_config
from goexfsd.server import Server, listen
from goexfsd.service import open_service
from goexfsd.session import House
from goexfsd.steps import Sandboxes
from goexfsd.store import Store, StoreSettings, close_store, open_store
from goexfsd.vault import open_vault
from goexfsd.worker import context

log = structlog.get_logger("goexfsd")

SOCKET = "goexfs.sock"
CATALOG = "catalog.sqlite"
AUDIT = "audit"


def main(argv: list[str] | None = None) -> None:
    """The ``goexfsd`` command.  Exit status: 0 stopped, 1 could not start, 2 wrong usage."""
    fill_standard_streams()
    options = _parse(argv)
    try:
        overrides = {
            key: Path(value).absolute()
            for key, value in vars(options).items()
            if key in ("state_dir", "runtime_dir") and value is not None
        }
        config = read_config(options.config, overrides)
        if options.doctor:
            sys.exit(_doctor(config))
        set_up_logging(config)
        if options.recover:
            sys.exit(trio.run(_recover, config))
        trio.run(_serve, config)
    except GoexfsError as error:
        print(f"goexfsd: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(2 if error.exit_status == 2 else 1)


def fill_standard_streams() -> None:
    """Open /dev/null in place of each standard stream that the caller closed.

    Else the lock, the catalog or a client's socket would get its number, and our log with it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR)  # the lowest number free: that of the stream
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="goexfsd", description="The goexfs daemon.")
    parser.add_argument("--config", type=Path, help="default: /etc/goexfs/goexfsd.toml")
    parser.add_argument("--state-dir", help="default: /var/lib/goexfs")
    parser.add_argument("--runtime-dir", help="default: /run/goexfs")
    parser.add_argument(
        "--doctor", action="store_true", help="check this machine, print JSON, and exit"
    )
    parser.add_argument(
        "--recover",
        action="store_true",
        help="finish or take back commits that were cut off, print JSON, and exit",
    )
    return parser.parse_args(argv)


def _doctor(config: Config) -> int:
    checks = doctor.examine(config.state_dir, config.runtime_dir)
    checks.append(doctor.commits(pending_commits(config.state_dir / CATALOG)))
    result = DoctorResult(ok=all(c.ok or not c.required for c in checks), checks=checks)
    print(result.model_dump_json())
    return 0 if result.ok else 1


def set_up_logging(config: Config) -> None:
    """structlog to stderr: JSON lines, or readable ones on a terminal."""
    as_json = config.log_format == "json" or (
        config.log_format == "auto" and not sys.stderr.isatty()
    )
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[config.log_level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _serve(config: Config) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with _open_house(config) as house:
            await _run(house, signals)


async def _recover(config: Config) -> int:
    """What a start does before it serves, and no more; 1 if a commit is still pending."""
    async with _open_house(config) as house:
        recovery.clear_mounts(config.runtime_dir, house.catalog)
        settled = await recovery.recover(house)
    print(json.dumps({"settled": [asdict(each) for each in settled]}))
    return 1 if any(each.outcome == "pending" for each in settled) else 0


@asynccontextmanager
async def _open_house(config: Config) -> AsyncIterator[House]:
    """Everything that sessions share; nobody else has it open."""
    if os.geteuid() != 0:
        raise Denied("goexfsd must be started by root", hint="sudo goexfsd, or the systemd unit")
    privilege.drop()
    with state_lock(config.state_dir), open_directories(config):
        workers = context(str(config.runtime_dir / "workers"))
        worker_lock = config.state_dir / "workers.lock"
        recovery.await_workers(worker_lock)
        async with _open_store(config) as store:
            catalog = open_catalog(config.state_dir / CATALOG)
            try:
                audit = open_audit(config.state_dir / AUDIT, catalog, config.audit.bytes)
                try:
                    vault = open_vault(config.state_dir)
                    yield House(config, catalog, store, workers, audit, worker_lock, vault)
                finally:
                    audit.close()
            finally:
                workers.close()
                catalog.close()


async def _run(house: House, signals: AsyncIterator[int]) -> None:
    config = house.config
    recovery.clear_mounts(config.runtime_dir, house.catalog)
    await recovery.recover(house)
    async with Sandboxes.open(config) as sandboxes, open_service(house, sandboxes) as service:
        with open_listeners(config) as listeners:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Server(service.dispatch).serve, listeners)
                house.workers.keep_ready()
                house.audit.add("start", version=version("goexfs"))
                systemd.notify("READY=1")
                log.info("serving", state=str(config.state_dir), runtime=str(config.runtime_dir))
                number = await anext(signals)
                log.info("stopping", signal=signal.Signals(number).name)
                systemd.notify("STOPPING=1")
                nursery.cancel_scope.cancel()
    house.audit.add("stop")
    log.info("stopped")


@contextmanager
def open_listeners(config: Config) -> Iterator[list[trio.SocketListener]]:
    """The sockets that systemd hands over, else our own, which is removed at the end."""
    inherited = systemd.listening_sockets()
    if inherited:
        yield [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in inherited]
        return
    path = config.runtime_dir / SOCKET
    listener = listen(str(path))
    try:
        yield [listener]
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """One daemon a state directory; InvalidState if another one has it."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state_dir.chmod(0o700)
    fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not kernel.lock_exclusive(fd, wait=False):
            raise InvalidState(
                f"another goexfsd uses the state directory {state_dir}",
                hint="stop it first, or choose another --state-dir",
            )
        yield
    finally:
        os.close(fd)


@contextmanager
def open_directories(config: Config) -> Iterator[None]:
    """The runtime directory and the parts of it that are ours."""
    runtime = config.runtime_dir
    runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
    (runtime / "views").mkdir(mode=0o711, exist_ok=True)
    workers = runtime / "workers"
    shutil.rmtree(workers, ignore_errors=True)
    workers.mkdir(mode=0o700)
    try:
        yield
    finally:
        shutil.rmtree(workers, ignore_errors=True)


@asynccontextmanager
async def _open_store(config: Config) -> AsyncIterator[Store]:
    settings = StoreSettings(
        directory=config.store.directory,
        image=config.store.image,
        size_bytes=config.store.size,
        grow=config.store.grow,
    )
    store = await trio.to_thread.run_sync(open_store, settings, config.state_dir)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(close_store, store)


if __name__ == "__main__":
    main()
