"""The three streams: made if missing, checked if not; and the server beneath them.

Refusing to start is kinder than losing a message later: everything here that can be wrong is said
with the setting that mends it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from nats.aio.msg import Msg

from hub import limits
from hub.contract.subjects import LANES
from hub.ledger.connection import Connection
from hub.ledger.port import DataVersionError, LedgerUnavailable, ServerRefused, ServerUnfit

_log = structlog.get_logger(__name__)

INTAKE: Final = "INTAKE"
LEDGER: Final = "LEDGER"
SNAPSHOTS: Final = "SNAPSHOTS"

LAYOUT: Final = "2"
"""Version of subjects and of what is stored under them."""
MIN_VERSION: Final = (2, 15, 1)
"""The first release seen to fsync a staged batch before it commits it (R1): with older ones a power
loss in the middle of a commit can leave half a batch."""
_PARTITIONS_KEY: Final = "tact-partitions"
_LAYOUT_KEY: Final = "tact-layout"
_STREAM_NOT_FOUND: Final = 10059
_NO_ROOM: Final = frozenset({10023, 10047, 10002})
_SETTINGS: Final = frozenset(
    {"subjects", "subject_transform", "retention", "storage", "discard", "num_replicas"}
    | {"max_bytes", "max_msgs", "max_age", "max_msgs_per_subject", "duplicate_window"}
    | {"allow_atomic", "allow_direct", "allow_msg_ttl"}
)
_LEDGER_KINDS: Final = ("out.>", "outcome.>", "event.*", "live.*", "parked.>", "log.*")
_UNSET: Final = {
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "max_age": 0,
    "subject_transform": None,
}


@dataclass(frozen=True, slots=True)
class StreamSizes:
    """Byte limits of the streams. The server reserves them when a stream is made."""

    intake: int = limits.INTAKE_BYTES
    ledger: int = limits.LEDGER_BYTES
    snapshots: int = limits.SNAPSHOTS_BYTES


def stream_configs(partitions: int, replicas: int, sizes: StreamSizes) -> list[dict[str, Any]]:
    """The JetStream configuration of all three streams, in the order they are made."""
    common = {
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs": -1,
        "max_age": 0,  # only a purge, or a message's own TTL, removes anything
        "num_replicas": replicas,
        "allow_direct": True,
        "metadata": {_PARTITIONS_KEY: str(partitions), _LAYOUT_KEY: LAYOUT},
    }
    partition = f"partition({partitions},3)"
    intake = {
        "name": INTAKE,
        # Lane by lane: what is published under an unknown lane must be refused, not kept unread.
        "subjects": [f"hub.to.{lane}.*.*" for lane in LANES],
        "subject_transform": {
            "src": "hub.to.*.*.*",
            "dest": f"hub.in.{{{{{partition}}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}",
        },
        "max_bytes": sizes.intake,
        "duplicate_window": limits.DUPLICATE_WINDOW_S * 1_000_000_000,
    }
    ledger = {
        "name": LEDGER,
        # One that is added here is added to an existing stream at the next start: what is stored
        # stays as it is, so the layout stays too.
        "subjects": [f"hub.{kind}" for kind in _LEDGER_KINDS],
        "max_bytes": sizes.ledger,
        "allow_atomic": True,
        "allow_msg_ttl": True,
    }
    snapshots = {
        "name": SNAPSHOTS,
        "subjects": ["hub.snap.*.*"],
        "max_bytes": sizes.snapshots,
        "max_msgs_per_subject": 1,
    }
    return [common | one for one in (intake, ledger, snapshots)]


async def provision(
    connection: Connection,
    *,
    partitions: int = limits.PARTITIONS,
    replicas: int = 1,
    sizes: StreamSizes | None = None,
) -> None:
    """Make what is missing, bring what is there up to these settings. Safe to run again, by many.

    Raises DataVersionError when the streams belong to another layout or partition count,
    ServerUnfit when the server cannot hold them, LedgerUnavailable without an answer.
    """
    if not 1 <= partitions <= limits.PARTITIONS_MAX:
        raise DataVersionError(
            f"partitions: {partitions}, allowed are 1 to {limits.PARTITIONS_MAX}"
        )
    for config in stream_configs(partitions, replicas, sizes or StreamSizes()):
        found = await _found(connection, config["name"])
        if found is None:
            await _make(connection, config)
            continue
        _check_version(config["name"], found.get("metadata") or {}, partitions)
        if _differences(config, found):
            await _write(connection, "UPDATE", config)


async def stored_partitions(connection: Connection) -> int | None:
    """The number of partitions the streams were made for; None when there are none yet.

    Needs to read the settings of INTAKE only: what an application may. Raises DataVersionError.
    """
    found = await _found(connection, INTAKE)
    if found is None:
        return None
    metadata = found.get("metadata") or {}
    partitions = int(metadata.get(_PARTITIONS_KEY, 0))
    _check_version(INTAKE, metadata, partitions)
    return partitions


async def _found(connection: Connection, stream: str) -> dict[str, Any] | None:
    try:
        return (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    except ServerRefused as error:
        if error.err_code == _STREAM_NOT_FOUND:
            return None
        raise


async def _make(connection: Connection, config: dict[str, Any]) -> None:
    made = await _write(connection, "CREATE", config)
    if missing := _differences(config, made):
        # A server that does not know a setting may ignore it.
        raise ServerUnfit(
            f"the NATS server made stream {config['name']} without {', '.join(missing)}; "
            f"version {_dotted(MIN_VERSION)} or newer is needed"
        )


async def _write(connection: Connection, call: str, config: dict[str, Any]) -> dict[str, Any]:
    name = config["name"]
    try:
        return (await connection.api(f"STREAM.{call}.{name}", config))["config"]
    except ServerRefused as error:
        if error.err_code in _NO_ROOM:
            raise ServerUnfit(
                f"the NATS server has no room to reserve {config['max_bytes']} bytes for stream "
                f"{name}; enlarge jetstream.max_file_store or the disk, or make the stream smaller"
            ) from error
        raise ServerUnfit(f"stream {name}: {error.message}") from error


def _check_version(stream: str, metadata: dict[str, str], partitions: int) -> None:
    found = metadata.get(_PARTITIONS_KEY), metadata.get(_LAYOUT_KEY)
    if found == (str(partitions), LAYOUT):
        return
    if found[0] is None:
        raise DataVersionError(
            f"there is a stream {stream} that Tact did not make; "
            "give Tact a NATS account of its own, or remove that stream"
        )
    if found[1] != LAYOUT:
        raise DataVersionError(
            f"stream {stream} has layout {found[1]}, this program writes layout {LAYOUT}; "
            "run the version of Tact that made it",
            layout=found[1],
        )
    raise DataVersionError(
        f"stream {stream} was made for {found[0]} partitions, {partitions} are configured; "
        f"the number cannot change: set partitions = {found[0]}, or start with empty streams",
        partitions=found[0],
    )


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        key
        for key in sorted(_SETTINGS & wanted.keys())
        if found.get(key, _UNSET.get(key, False)) != wanted[key]
    ]


# ---- the server ----------------------------------------------------------------------------------


async def check_server(
    connection: Connection,
    *,
    system: Connection | None = None,
    allow_lazy_sync: bool = False,
) -> None:
    """Refuse a server that cannot keep the hub's promises. Raises ServerUnfit naming the setting.

    `sync_interval` can be read by the system account only (or by an account that imports its
    `$SYS.REQ.SERVER.PING.JSZ`): give `system`, a connection with such a login. Without it, and
    without `allow_lazy_sync`, a server whose setting cannot be read is refused.
    """
    version = connection.server_version
    if version < MIN_VERSION:
        raise ServerUnfit(
            f"nats-server {_dotted(version)} is too old; "
            f"version {_dotted(MIN_VERSION)} or newer is needed"
        )
    if connection.client.max_payload < limits.MESSAGE_BYTES:
        raise ServerUnfit(
            f"the NATS server's max_payload is {connection.client.max_payload}; "
            f"set max_payload to at least {limits.MESSAGE_BYTES}"
        )
    await _check_jetstream(connection)
    await _check_sync([connection] + ([system] if system else []), allow_lazy_sync)


async def _check_jetstream(connection: Connection) -> None:
    off = (
        "JetStream is off for this connection: add a `jetstream { store_dir: … }` block to the "
        "NATS server's configuration, and `jetstream: enabled` to the account of this user"
    )
    try:
        await connection.api("INFO")
    except LedgerUnavailable as error:
        if connection.connected and error.facts.get("no_responders"):
            raise ServerUnfit(off) from error
        raise
    except ServerRefused as error:
        raise ServerUnfit(f"{off} ({error.message})") from error


async def _check_sync(connections: list[Connection], allow_lazy: bool) -> None:
    servers: dict[str, bool] = {}
    for connection in connections:
        servers |= await read_sync(connection)
    lazy = sorted(name for name, always in servers.items() if not always)
    if servers and not lazy:
        return
    if lazy:
        problem = (
            f"sync_interval is not `always` on NATS server {', '.join(lazy)}: it acknowledges "
            "messages before they are on disk, and a power loss can lose them; set "
            "`sync_interval: always` in its jetstream block"
        )
    else:
        problem = (
            "whether the NATS server syncs before it acknowledges cannot be read with this login; "
            "give the login of its system account as well (it may read $SYS.REQ.SERVER.PING.JSZ)"
        )
    if not allow_lazy:
        raise ServerUnfit(
            f"{problem}; or allow lazy sync and accept that power loss loses messages"
        )
    _log.warning("ledger.lazy_sync_allowed", problem=problem)


async def read_sync(connection: Connection) -> dict[str, bool]:
    """Server name to whether it syncs always, of all JetStream servers that answer; {} for none.

    Every server of a cluster answers for itself: the last one counts as heard when SYNC_QUIET_S
    have passed without another.
    """
    servers: dict[str, bool] = {}
    heard = asyncio.Event()

    async def take(message: Msg) -> None:
        if message.data:  # a status without data: nobody there, or no permission
            answer = msgspec.json.decode(message.data)
            config = answer.get("data", {}).get("config") or {}
            if "store_dir" in config:
                servers[answer["server"]["name"]] = bool(config.get("sync_always"))
                heard.set()

    inbox = connection.client.new_inbox()
    subscription = await connection.subscribe(inbox, take)
    try:
        await connection.publish("$SYS.REQ.SERVER.PING.JSZ", b"", reply=inbox)
        while True:
            heard.clear()
            await asyncio.wait_for(heard.wait(), limits.SYNC_QUIET_S)
    except TimeoutError:
        return servers
    finally:
        await connection.unsubscribe(subscription)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
