"""The daemon: one kernel, its providers' tree, and the mount, put together and run.

`python -m agentfs.tools.daemon DIR --state DIR`; people use `agentfs mount`, which starts it. The
process that is started becomes the reaper (`agentfs.machine.reaper`), its child the daemon.
"""

from __future__ import annotations

import argparse
import gc
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import FrameType

import trio

from agentfs.base.errors import ApprovalError, KernelError
from agentfs.checkpoints import swap
from agentfs.kernel import Kernel
from agentfs.machine.reapers import Reaper, go_behind_reaper, stand_by
from agentfs.machine.standstill import room
from agentfs.model.principal import Principal
from agentfs.mount.session import Mount, serve
from agentfs.providers.agents import tell_of_withdrawals
from agentfs.providers.approvals import AwaitedDecision
from agentfs.providers.log import LogWatcher
from agentfs.providers.topics import tell_of_publications
from agentfs.providers.tree import build
from agentfs.store.layout import StateError, lay_out
from agentfs.store.lock import only_daemon
from agentfs.store.opening import is_full
from agentfs.store.reserve import give_way, keep_reserve
from agentfs.tools.priority import go_before_programs
from agentfs.vfs.namespace import Namespace
from agentfs.vfs.settings import MOST_PARKED, MountSettings

__all__ = ["main"]

log = logging.getLogger("agentfs.daemon")

OPTIONS = {"default_permissions", "fsname=agentfs", "subtype=agentfs"}
"""The options of every mount: modes and owners are checked by Linux; the type is `fuse.agentfs`."""

ROOTS_OPTIONS = {"allow_other"}
"""Root's mounts let other users in: agents run as users of their own, and the modes are real."""

LOG_SIZE = 10 * 1024 * 1024

ATTEMPTS = 5
"""To start on a full disk. From the second on, everybody who writes to the state stands still,
whether or not the disk looks full just then."""


class Bridge:
    """The kernel as the mount sees it (`agentfs.mount.host.Host`)."""

    def __init__(self, kernel: Kernel) -> None:
        self.serve(kernel)

    def serve(self, kernel: Kernel) -> None:
        """From now on this is the kernel."""
        self._kernel = kernel
        self.standstill = kernel.standstill
        self.identify = kernel.identity.resolve
        self.charge = kernel.shares.charge

    def refused(self, principal: Principal, path: str, refusal: KernelError) -> None:
        self._kernel.refusals.record(principal, path, refusal)
        self._kernel.shares.refused(principal, refusal)

    def approval(self, needed: ApprovalError) -> AwaitedDecision:
        return AwaitedDecision(self._kernel.approvals, needed)

    def disk(self) -> os.statvfs_result:
        return os.statvfs(self._kernel.state_dir)

    def room(self, principal: Principal) -> int | None:
        return self._kernel.disk.room(principal)

    def announce_queue(self) -> int:
        return self._kernel.settings.of(MountSettings).announce_queue

    def moved(self, place: str) -> None:
        self._kernel.moved(place)


class Starter:
    """The process that waits at the other end of the pipe: told once, `ok` or `error: words`."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self.is_told = False

    def tell(self, words: str) -> None:
        self.is_told = True
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.write(descriptor, f"{words}\n".encode())
        except BrokenPipeError:
            log.warning("the process that started the daemon is gone: %s", words)
        os.close(descriptor)


def main(
    arguments: list[str] | None = None, *, behind_reaper: bool = False, front: int = -1
) -> int:
    """Run until the tree is unmounted or TERM or INT comes. The exit code: 1 if it failed.

    `behind_reaper`: this process becomes the reaper, and its child the daemon, of which the
    descriptor `front` is told (`agentfs.machine.reaper.main`). Else none will outlive the daemon.
    """
    parser = argparse.ArgumentParser(prog="agentfs.tools.daemon")
    parser.add_argument("mountpoint")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--audit-key", type=Path, default=os.environ.get("AGENTFS_AUDIT_KEY"))
    parser.add_argument("--ready", type=int, metavar="FD")
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("-o", dest="options", action="append", default=[])
    given = parser.parse_args(arguments)
    starter = Starter(given.ready)
    if given.ready is not None:
        os.set_inheritable(given.ready, False)
    os.umask(0o022)
    go_before_programs()
    try:
        lay_out(given.state)
        reaper = go_behind_reaper(given.state, front) if behind_reaper else None
        _log_to(given.state / "kernel.log", also_stderr=given.foreground)
        with only_daemon(given.state):
            kernel = partial(Kernel, given.state, given.mountpoint, audit_key=given.audit_key)
            _run_with_room(given.state, kernel, _options(given.options), starter, reaper)
    except (StateError, OSError, KernelError) as failed:
        return _failed(starter, str(failed), given.foreground)
    except BaseExceptionGroup as group:
        first = _first(group)
        if not isinstance(first, (OSError, StateError)):
            log.error("the daemon failed", exc_info=group)
        return _failed(starter, str(first) or type(first).__name__, given.foreground)
    except Exception as fault:
        log.exception("the daemon failed")
        return _failed(starter, f"{type(fault).__name__}: {fault}", given.foreground)
    return 0


def _run_with_room(
    state: Path,
    make: Callable[..., Kernel],
    options: set[str],
    starter: Starter,
    reaper: Reaper | None,
) -> None:
    """`_run`, and again if the disk was too full for a start: nothing was changed then."""
    for attempt in range(ATTEMPTS):
        with room(state, always=attempt > 0) as let_go:
            give_way(state)
            try:
                return trio.run(_run, make, options, starter, let_go, reaper)
            except BaseException as failure:
                if starter.is_told or attempt == ATTEMPTS - 1 or not is_full(failure):
                    raise
                log.warning("there is no room to start: %s; trying again", _first(failure))
    return None


def _options(given: list[str]) -> set[str]:
    """Ours and those of the command line."""
    return OPTIONS | (ROOTS_OPTIONS if os.geteuid() == 0 else set()) | set(given)


def _failed(starter: Starter, words: str, foreground: bool) -> int:
    log.error("%s", words)
    starter.tell(f"error: {' '.join(words.split())}")
    if foreground:
        print(f"agentfs: {words}", file=sys.stderr)
    return 1


def _first(fault: BaseException) -> BaseException:
    """The first fault in a group."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _log_to(path: Path, *, also_stderr: bool) -> None:
    logging.raiseExceptions = False  # on a full disk each line would bring a traceback of its own
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(path, maxBytes=LOG_SIZE, backupCount=1)
    ]
    if also_stderr:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=handlers,
    )


async def _run(
    make: Callable[..., Kernel],
    options: set[str],
    starter: Starter,
    let_go: Callable[[], object],
    reaper: Reaper | None,
) -> None:
    """Kernel, tree and mount, and nothing left of them when it returns. `let_go` is called when
    somebody looks after the logs."""
    gc.disable()
    system = MountedSystem(make)
    state, mountpoint = system.kernel.state_dir, system.mount.mountpoint

    def ready() -> None:
        log.info("mounted at %s, state in %s", mountpoint, state)
        let_go()
        starter.tell("ok")

    async with trio.open_nursery() as nursery:
        await nursery.start(_end_on_signals, system)
        if reaper is not None:
            await nursery.start(stand_by, state, reaper)
        nursery.start_soon(keep_reserve, state)
        mounting: Callable[[], Awaitable[object]] = partial(nursery.start, system.serve, options)
        while await system.run_kernel(mounting, ready):
            await system.roll_back()
            mounting, ready = system.show, lambda: None
        nursery.cancel_scope.cancel()
    log.info("unmounted %s", mountpoint)


class MountedSystem:
    """One mount, and the kernels behind it: another one whenever the system is rolled back.

    stop: the tree is to be unmounted.
    """

    def __init__(self, make: Callable[..., Kernel]) -> None:
        self._make = make
        self.kernel = make()
        self._bridge = Bridge(self.kernel)
        self.mount = Mount(self._tree(), self._bridge, self.kernel.mountpoint, self.kernel.watchdog)
        self.stop = trio.Event()
        self._gone = trio.Event()

    def _tree(self) -> Namespace:
        self.kernel.supervisor.hold_programs()
        return build(self.kernel, lambda: self.mount.statistics())

    async def serve(self, options: set[str], *, task_status: trio.TaskStatus[None]) -> None:
        """Mount, and serve until the tree is unmounted."""
        try:
            await serve(
                self.mount, self.kernel.events, options, task_status.started, self.stop, MOST_PARKED
            )
        finally:
            self._gone.set()

    async def run_kernel(
        self, mounting: Callable[[], Awaitable[object]], ready: Callable[[], object]
    ) -> bool:
        """Run the kernel until the tree is gone, or until it is to give way to another: True.
        `mounting` brings its tree to the mount, and then `ready` is called."""
        kernel, mount = self.kernel, self.mount
        async with kernel.running(), trio.open_nursery() as nursery:
            nursery.start_soon(LogWatcher(kernel).run, mount.apply)
            tell_of_publications(kernel, mount.apply)
            tell_of_withdrawals(kernel, mount.apply)
            await mounting()
            kernel.supervisor.tree_is_up()
            keep_out_of_collections()
            ready()
            await _first_of(self._gone.wait, kernel.checkpoints.asked)
            rolls_back = not self._gone.is_set()
            if rolls_back:
                log.info("rolling back: the programs end")
                await kernel.supervisor.shutdown(kernel.checkpoints.grace)
                await mount.suspend()
            nursery.cancel_scope.cancel()
        return rolls_back

    async def roll_back(self) -> None:
        """Have the state as it was decided, and the kernel of that. Raises StateError."""
        state = self.kernel.state_dir
        await trio.to_thread.run_sync(swap.finish, state)
        gc.unfreeze()
        gc.disable()
        self.kernel = self._make(watchdog=self.kernel.watchdog)
        self._bridge.serve(self.kernel)

    async def show(self) -> None:
        """Show the tree of the kernel that there is now."""
        await self.mount.show(self._tree(), self.kernel.events)
        log.info("rolled back, and at %s again", self.mount.place)


async def _first_of(*waits: Callable[[], Awaitable[None]]) -> None:
    """Wait for the first of these."""
    async with trio.open_nursery() as nursery:

        async def wait(one: Callable[[], Awaitable[None]]) -> None:
            await one()
            nursery.cancel_scope.cancel()

        for one in waits:
            nursery.start_soon(wait, one)


def keep_out_of_collections() -> None:
    """Have the garbage collector look only at what is made from now on. All that was read from the
    store lives on, and to go through it took a third of a start with 100,000 processes and as many
    messages, and 0.25 s whenever a collection was due afterwards."""
    gc.freeze()
    gc.enable()


async def _end_on_signals(system: MountedSystem, *, task_status: trio.TaskStatus[None]) -> None:
    """TERM and INT: end the programs while their tree is still there, then unmount. A
    second signal does nothing: one that is sent to a whole process group comes twice, the second
    time through the reaper."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, _ignored)  # what trio puts back when it lets go
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("ending: %s", signal.Signals(number).name)
            await system.kernel.supervisor.shutdown()
            system.stop.set()
            await trio.sleep_forever()


def _ignored(signum: int, frame: FrameType | None) -> None:
    """TERM and INT do nothing once the end is under way."""


if __name__ == "__main__":
    sys.exit(main(behind_reaper=True))
