"""The supervisor's parts that need no Ray running."""

from __future__ import annotations

from types import SimpleNamespace

from actors.supervisor import Fleet, _Host
from hub.metrics import Snapshot


async def test_counters_stand_under_the_process_that_told_them():
    """Between two looks Ray may have begun the host anew: it answers, and has counted nothing."""

    async def told() -> tuple[str, Snapshot]:
        return "host-new", Snapshot()

    host = _Host("host", SimpleNamespace(metrics=SimpleNamespace(remote=told)), 0.0)
    host.status = host.last = {"incarnation": "host-old"}
    fleet = Fleet.__new__(Fleet)
    fleet.hosts = {"host": host}
    assert await fleet.metrics() == {"host-new": Snapshot()}
