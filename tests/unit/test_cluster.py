"""Starting and ending Ray: what is tried again, what is cleaned up. Ray itself is played."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.settings import HubSettings
from hub.service import cluster as module
from hub.service.cluster import INIT_TRIES, Cluster, RayFailed

SETTINGS = HubSettings(nats_url="nats://127.0.0.1:4222", policy="")


def played(
    monkeypatch: pytest.MonkeyPatch, failures: int, address: str | None = None
) -> tuple[Cluster, list[str]]:
    """A cluster whose Ray fails so often, and a list of what was done."""
    done: list[str] = []
    cluster = Cluster(address, "info", None, lambda: None)

    def init() -> None:
        done.append("init")
        if done.count("init") <= failures:
            raise RayFailed("no")

    monkeypatch.setattr(cluster, "_init_once", init)
    monkeypatch.setattr(cluster, "kill", lambda: done.append("kill"))
    monkeypatch.setattr(module, "_supervise", lambda settings: "handle")
    return cluster, done


async def test_a_ray_that_gave_up_is_started_again_on_a_clean_table(monkeypatch):
    cluster, done = played(monkeypatch, failures=INIT_TRIES - 1)
    assert await cluster.start(SETTINGS) == "handle"
    assert done == ["init", "kill"] * (INIT_TRIES - 1) + ["init"]


async def test_in_the_end_the_error_is_told(monkeypatch):
    cluster, done = played(monkeypatch, failures=INIT_TRIES)
    with pytest.raises(RayFailed):
        await cluster.start(SETTINGS)
    assert done.count("init") == INIT_TRIES


async def test_a_cluster_that_does_not_answer_is_not_tried_again(monkeypatch):
    cluster, done = played(monkeypatch, failures=1, address="127.0.0.1:6379")
    with pytest.raises(RayFailed):
        await cluster.start(SETTINGS)
    assert done.count("init") == 1


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two that sleep, below this process."""
    script = "import sys; sys.stdin.read()"
    children = [
        subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    yield children
    for child in children:
        child.kill()
        child.wait()
        child.stdin.close()


def test_killing_spares_the_nats_server(monkeypatch, children):
    ray, nats = children
    others = module._descendants(os.getpid()) - {ray.pid, nats.pid}
    cluster = Cluster(None, "info", None, lambda: nats.pid)
    monkeypatch.setattr(module, "_descendants", _without(others))
    cluster.kill()
    assert ray.wait(10) == -9
    assert nats.poll() is None


def test_a_cluster_that_is_not_ours_is_not_killed(children):
    Cluster("127.0.0.1:6379", "info", None, lambda: None).kill()
    assert [child.poll() for child in children] == [None, None]


def test_descendants_are_found_at_any_depth(children):
    grandchild = subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    pid = int(grandchild.stdout.readline())
    found = module._descendants(os.getpid())
    os.kill(pid, 9)
    grandchild.wait()
    grandchild.stdout.close()
    assert {pid, grandchild.pid, *(child.pid for child in children)} <= found
    assert os.getpid() not in found


def test_what_a_killed_hub_left_is_removed_and_nothing_else(tmp_path: Path):
    data, temporary, kept = tmp_path / "data", tmp_path / "tact-ray-new", tmp_path / "mine"
    left = tmp_path / "tact-ray-old"
    for directory in (data, temporary, kept, left):
        directory.mkdir()
    cluster = Cluster(None, "info", data, lambda: None)
    for named, stays in ((kept, True), (left, False), (tmp_path / "gone", False)):
        (data / "ray.dir").write_text(str(named))
        cluster._remember(temporary)
        assert named.exists() is stays
        assert (data / "ray.dir").read_text() == str(temporary)


def test_a_hub_that_never_came_to_ray_leaves_the_note_of_the_one_before(tmp_path: Path):
    (tmp_path / "ray.dir").write_text("/tmp/tact-ray-of-a-killed-hub")
    Cluster(None, "info", tmp_path, lambda: None)._forget()
    assert (tmp_path / "ray.dir").exists()


def _without(others: set[int]) -> Callable[[int], set[int]]:
    """`_descendants`, but for processes that the test run itself needs."""
    real = module._descendants
    return lambda root: real(root) - others
