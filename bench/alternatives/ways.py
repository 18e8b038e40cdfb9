"""The ways to pass messages that are compared, in families: those of one are measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from bench.alternatives.servers import Redis
from bench.counts import children
from bench.setting import Tree
from bench.targets import of_build

__all__ = [
    "BATCH",
    "FLOOR",
    "Comparison",
    "Empty",
    "End",
    "Family",
    "Way",
    "families",
    "floor",
    "mail",
    "served_by",
    "stream",
]

KEPT_OPEN, FLOOR = "send and recv", "the empty mail"

BATCH = 100
"""Messages that are received at once where it is batches that are compared."""

End = tuple[str, str, dict[str, object]]
"""A sender or receiver: its module, class and options."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to pass messages. `sender` and `receiver` are told a name that is the pair's own: that
    of the receiving agent where the ends are programs of agents."""

    name: str
    sender: Callable[[str], End]
    receiver: Callable[[str], End]
    servers: list[int] = field(default_factory=list)
    """The pids that serve it, besides the ends themselves."""
    agents: bool = False
    siblings: bool = False
    """Both agents are children of init, which overhears every message; else the sender is a child
    of the receiver."""


class Wanted(NamedTuple):
    """Times the rate of the other that is wanted, and times its processor time that is allowed; of
    both there is a row, and without a number no target."""

    rate: float | None = None
    processor: float | None = None


EVERYSEC = of_build(
    pure={1: Wanted(0.8), 8: Wanted(0.6)},
    compiled={1: Wanted(1.0, 0.9), 8: Wanted(0.9, 0.95)},
)
"""Beside Redis Streams, everysec."""

ALWAYS = {1: Wanted(0.8), 8: Wanted(0.6)}
"""The same with fsync: each of ours is a wait for the disk, which all share who come meanwhile."""


BESIDE_THE_FLOOR = {1: Wanted(), 8: Wanted()}
"""What it costs to keep, check and tell a message."""


class Empty(NamedTuple):
    """A mount of `bench/empty_mail.py`, and the pid of who serves it."""

    mountpoint: Path
    pid: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A way of ours, the one beside it, and what ours is to be, by the number of pairs."""

    ours: str
    beside: str
    wanted: Mapping[int, Wanted] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    ways: list[Way]
    comparisons: list[Comparison]


def served_by(tree: Tree) -> list[int]:
    """The daemon, and the process of its that makes watchers see changes."""
    announcers = (
        child
        for child in children(tree.daemon)
        if b"announce_process.py" in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    return [tree.daemon, *announcers]


def mail(
    name: str,
    tree: Tree,
    sender: End = ("ours", "SendSender", {}),
    receiver: End = ("ours", "RecvReceiver", {}),
) -> Way:
    """From agent to agent; the sender is told `to` whom."""
    module, kind, options = sender
    return Way(
        name,
        lambda to: (module, kind, {"to": to} | options),
        lambda to: receiver,
        served_by(tree),
        agents=True,
    )


def stream(
    name: str, server: Redis, receiver: str = "StreamReceiver", *, key: str = "", **more: object
) -> Way:
    """A Redis stream for each pair, or one for all where `key` names it."""

    def place(pair: str) -> dict[str, object]:
        return {"port": server.port, "stream": key or f"{pair}-{name}"}

    return Way(
        name,
        lambda pair: ("redis_streams", "StreamSender", place(pair)),
        lambda pair: ("redis_streams", receiver, place(pair) | more),
        [server.pid],
    )


def floor(empty: Empty) -> Way:
    """A box of the empty mail for each pair."""

    def place(pair: str) -> dict[str, object]:
        return {"path": str(empty.mountpoint / pair)}

    return Way(
        FLOOR,
        lambda pair: ("empty", "EmptySender", place(pair)),
        lambda pair: ("empty", "EmptyReceiver", place(pair)),
        [empty.pid],
    )


def families(
    tree: Tree,
    folder: Path,
    queue: str,
    empty: Empty,
    everysec: Redis | None,
    always: Redis | None,
) -> list[Family]:
    """All of them, with what is on disk below `folder` and a queue of that name. Without servers
    only those that need nothing but Python."""
    least = floor(empty)
    if everysec is None or always is None:
        return [
            Family(
                [*_usual(tree), _maildir(folder, sync=False), least],
                [Comparison(KEPT_OPEN, least.name, BESIDE_THE_FLOOR)],
            ),
            Family([_batches(tree), _synced(tree), _queue(tree, queue)], []),
        ]
    kept_open, outbox, client = _usual(tree)
    siblings = replace(kept_open, name=f"{kept_open.name}, siblings", siblings=True)
    redis = stream("Redis Streams, everysec", everysec)
    redis_synced = stream("Redis Streams, always", always)
    redis_batches = stream(
        f"{redis.name}, COUNT {BATCH}", everysec, "StreamBatchReceiver", size=BATCH
    )
    redis_shared = stream(f"{redis.name}, one stream", everysec, key=queue)
    plain, synced_maildir = _maildir(folder, sync=False), _maildir(folder, sync=True)
    sqlite, batches = _sqlite(folder, queue), _batches(tree)
    synced, shared = _synced(tree), _queue(tree, queue)
    return [
        Family(
            [kept_open, redis, plain, least, siblings, outbox, client],
            [
                Comparison(kept_open.name, redis.name, EVERYSEC),
                Comparison(kept_open.name, least.name, BESIDE_THE_FLOOR),
                Comparison(kept_open.name, plain.name),
                Comparison(siblings.name, redis.name),
                Comparison(outbox.name, redis.name),
                Comparison(outbox.name, plain.name),
                Comparison(client.name, redis.name),
                Comparison(client.name, plain.name),
            ],
        ),
        Family([batches, redis_batches], [Comparison(batches.name, redis_batches.name)]),
        Family(
            [synced, redis_synced, synced_maildir],
            [
                Comparison(synced.name, redis_synced.name, ALWAYS),
                Comparison(synced.name, synced_maildir.name),
            ],
        ),
        Family(
            [shared, redis_shared, sqlite],
            [
                Comparison(shared.name, redis_shared.name),
                Comparison(shared.name, sqlite.name),
            ],
        ),
    ]


def _usual(tree: Tree) -> tuple[Way, Way, Way]:
    """Through `send` and `recv`, through `outbox` and Maildir, and through `agentfs.agent`."""
    outbox = Way(
        "outbox and Maildir",
        lambda to: ("ours", "OutboxSender", {"to": to}),
        lambda to: ("maildir", "MaildirReceiver", {"path": f"{tree.path}/agents/{to}/inbox"}),
        served_by(tree),
        agents=True,
    )
    client = mail(
        "agentfs.agent", tree, ("client", "AgentSender", {}), ("client", "AgentReceiver", {})
    )
    return mail(KEPT_OPEN, tree), outbox, client


def _batches(tree: Tree) -> Way:
    return mail(f"recv.batch, {BATCH}", tree, receiver=("ours", "BatchReceiver", {"size": BATCH}))


def _synced(tree: Tree) -> Way:
    return mail("send and recv, fsync", tree, ("ours", "SendSender", {"sync": True}))


def _queue(tree: Tree, queue: str) -> Way:
    path = f"dev/queues/{queue}"
    return Way(
        "a queue",
        lambda to: ("ours", "SendSender", {"to": queue, "path": f"{path}/send"}),
        lambda to: ("ours", "RecvReceiver", {"path": f"{path}/recv"}),
        served_by(tree),
        agents=True,
    )


def _maildir(folder: Path, *, sync: bool) -> Way:
    def path(pair: str) -> str:
        return str(folder / f"{pair}-{'synced' if sync else 'plain'}")

    return Way(
        f"Maildir on ext4, {'fsync' if sync else 'no fsync'}",
        lambda pair: ("maildir", "MaildirSender", {"path": path(pair), "sync": sync}),
        lambda pair: ("maildir", "MaildirReceiver", {"path": path(pair)}),
    )


def _sqlite(folder: Path, queue: str) -> Way:
    path: dict[str, object] = {"path": str(folder / f"{queue}.sqlite")}
    return Way(
        "litequeue (SQLite)",
        lambda pair: ("sqlite_queue", "QueueSender", path),
        lambda pair: ("sqlite_queue", "QueueReceiver", path),
    )
