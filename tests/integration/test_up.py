"""`tact up` as a user runs it: one hub, asked, killed in parts, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.hub import Hub, alive, tact, within

pytestmark = [pytest.mark.nats, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

# Nothing in it depends on the hour at which the tests run.
POLICY = """
version = 1
timezone = "Asia/Shanghai"
hold_max = "30d"
[categories.marketing]
route = ["wecom", "sms"]
[categories.otp]
route = ["sms"]
bypass = ["cap"]
[[caps]]
name = "two-a-week"
categories = ["marketing"]
limit = 2
window = "7d"
on = "hold"
"""
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
STRICTER = POLICY.replace("limit = 2", "limit = 1").replace("two-a-week", "one-a-week")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hub")
    (directory / "policy.toml").write_text(POLICY)
    (directory / "stricter.toml").write_text(STRICTER)
    return directory


@pytest.fixture(scope="module")
def hub(directory: Path) -> Iterator[Hub]:
    """Started once for this file; the tests run in the order they are written."""
    hub = Hub(directory, ["--policy", "policy.toml"])
    try:
        yield hub.start()
    finally:
        hub.stop(signal.SIGKILL)


def states(hub: Hub, intent: str) -> list[str]:
    done = hub.tact("trace", "shop", intent, "--json")
    return [json.loads(line)["state"] for line in done.stdout.splitlines()]


def customer(hub: Hub, key: str = "c-1") -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(hub.tact("customer", key, "--json").stdout)
    return answer


def intents_counted(hub: Hub) -> float:
    status, text = hub.get("/metrics")
    assert status == 200
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tact_intents_total"
    )


def refused(directory: Path, *options: str) -> str:
    """The one line of a hub that does not start."""
    done = tact("up", *options, cwd=directory)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


# ---- running -------------------------------------------------------------------------------------


def test_the_ready_line_names_where_and_who(hub):
    assert hub.ready["ready"] is True
    assert hub.ready["nats"].startswith("nats://127.0.0.1:")
    assert hub.ready["metrics"] == hub.ready["http"] + "/metrics"
    assert set(hub.ready["pids"]) == {"nats", "hosts"}
    processes = alive(hub.pids())
    assert "nats-server" in processes[hub.ready["pids"]["nats"]]
    assert len(hub.ready["pids"]["hosts"]) == 2
    assert set(hub.ready["pids"]["hosts"]) <= set(processes)
    assert hub.readiness() == (200, [])


def test_an_intent_is_decided_and_can_be_traced(hub):
    outcome = hub.send(category="marketing", id="m-1", to="wecom=w-1")
    assert (outcome["state"], outcome["channel"]) == ("dispatched", "wecom")
    assert hub.send(category="otp", id="o-1", to="sms=+8613800000000")["channel"] == "sms"
    hub.send(category="marketing", id="m-2")
    held = hub.send(category="marketing", id="m-3")
    assert (held["state"], held["rules"][0]["rule"]) == ("held", "two-a-week")
    assert states(hub, "m-3") == ["held"]
    table = hub.tact("trace", "shop", "m-3").stdout
    assert "two-a-week" in table and held["next_eligible_at"] in table


def test_a_rejected_intent_exits_with_1_and_the_reason(hub):
    sent = ("--app", "shop", "--customer", "c-1", "--text", "x", "--category", "none")
    done = hub.tact("send", *sent)
    assert done.returncode == 1
    assert json.loads(done.stdout)["state"] == "rejected"
    assert "unknown category 'none'" in done.stderr


def test_a_repeated_id_is_told_from_a_new_intent(hub):
    sent = ("--app", "shop", "--customer", "c-1", "--text", "x", "--category", "otp")
    done = hub.tact("send", *sent, "--id", "o-1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "published before" in done.stderr


def test_an_intent_that_was_never_sent_cannot_be_traced(hub):
    done = hub.tact("trace", "shop", "never")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no outcome of shop/never" in done.stderr


def test_a_customer_is_shown_as_the_hub_decides_with_it(hub):
    known = customer(hub)
    assert known["known"] is True
    assert known["to"] == {"wecom": "w-1", "sms": "+8613800000000"}
    assert [held["intent"] for held in known["held"]] == ["m-3"]
    assert {cap["count"] for cap in known["caps"]} == {2}
    assert customer(hub, "nobody")["known"] is False
    table = hub.tact("customer", "c-1").stdout
    assert "Asia/Shanghai" in table and "m-3" in table


def test_status_tells_who_owns_what(hub):
    done = hub.tact("status", "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    owned = [number for host in told["hosts"] for number in host["partitions"]]
    assert sorted(owned) == list(range(told["partitions"]))
    assert json.loads(hub.get("/status")[1])["policy"] == told["policy"]
    assert "tact-host-0" in hub.tact("status").stdout


def test_metrics_count_all_hosts(hub):
    before = intents_counted(hub)
    for number in range(4):  # four customers, in partitions of both hosts
        hub.send(category="otp", customer=f"metric-{number}", to="sms=+1")
    assert intents_counted(hub) == before + 4


def test_logs_are_json_without_addresses_or_contents(hub):
    for line in hub.log().splitlines():
        json.loads(line)
    for secret in ("+8613800000000", "w-1", "hello"):
        assert secret not in hub.log()


# ---- another beside it ---------------------------------------------------------------------------


def test_a_second_hub_on_the_same_data_is_refused(hub, directory):
    line = refused(directory, "--nats-port", "0", "--http-port", "0")
    assert "tact-data" in line and str(hub.process.pid) in line


@pytest.mark.parametrize("option", ["--nats-port", "--http-port"])
def test_a_port_in_use_is_named_with_the_option(hub, directory, tmp_path, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--nats-port": "0", "--http-port": "0"} | {option: port}
        options = [part for pair in ports.items() for part in pair]
        line = refused(directory, "--data-dir", str(tmp_path), *options)
    assert port in line and option in line


def test_an_invalid_policy_is_refused_before_anything_starts(directory, tmp_path):
    (tmp_path / "bad.toml").write_text(POLICY.replace("limit = 2", "limit = 0"))
    policy = str(tmp_path / "bad.toml")
    line = refused(directory, "--data-dir", str(tmp_path / "data"), "--policy", policy)
    assert policy in line and "caps" in line and "limit" in line
    assert not (tmp_path / "data" / "nats").exists()


# ---- parts that die ------------------------------------------------------------------------------


def test_a_killed_nats_server_makes_it_not_ready_until_it_is_back(hub):
    pid = hub.ready["pids"]["nats"]
    os.kill(pid, signal.SIGKILL)
    reasons = within(30, lambda: hub.readiness()[1])
    assert any("NATS" in reason for reason in reasons)
    assert hub.get("/healthz")[0] == 200
    within(60, lambda: hub.readiness() == (200, []))
    assert hub.send(category="otp", id="after-nats")["state"] == "dispatched"
    assert states(hub, "m-1") == ["dispatched"]


def test_a_killed_host_is_replaced_and_nothing_is_lost(hub):
    before = intents_counted(hub)
    os.kill(hub.ready["pids"]["hosts"][0], signal.SIGKILL)
    sent = [hub.send(category="otp", customer=f"k-{n}", to="sms=+1") for n in range(4)]
    assert {outcome["state"] for outcome in sent} == {"dispatched"}
    within(60, lambda: hub.readiness() == (200, []))
    assert intents_counted(hub) >= before  # what the dead host counted is not forgotten
    assert customer(hub)["held"][0]["intent"] == "m-3"


# ---- the policy ----------------------------------------------------------------------------------


def test_a_policy_is_replaced_by_the_hubs_login_only(hub, directory):
    before = json.loads(hub.get("/status")[1])["policy"]
    elsewhere = hub.tact("policy", "apply", str(directory / "stricter.toml"))
    assert elsewhere.returncode == 2  # this directory's data is not the hub's
    options = ("--data-dir", str(directory / "tact-data"))
    done = hub.tact("policy", "apply", str(directory / "stricter.toml"), *options)
    assert (done.returncode, done.stderr) == (0, "")
    version = done.stdout.split()[1]
    assert version != before
    within(30, lambda: customer(hub)["policy"] == version)
    hub.send(category="marketing", customer="strict", id="s-1", to="wecom=w")
    assert hub.send(category="marketing", customer="strict", id="s-2")["state"] == "held"


def test_an_application_may_not_replace_it(hub, directory):
    environment = os.environ | {"TACT_NATS_URL": hub.ready["nats"], "TACT_NATS_USER": "anyone"}
    passwords = json.loads((directory / "tact-data" / "nats-passwords.json").read_text())
    environment |= {"TACT_NATS_PASSWORD": passwords["anyone"]}
    done = tact("policy", "apply", str(directory / "policy.toml"), env=environment)
    assert done.returncode == 1
    assert "this login may not ask" in done.stderr


# ---- ending --------------------------------------------------------------------------------------


def test_sigterm_ends_everything_in_order(hub, directory):
    pids = hub.pids()
    assert len(pids) > 4
    assert hub.stop() == 0
    within(30, lambda: not alive(pids))
    assert not (directory / "tact-data" / "ray.dir").exists()
    assert '"hub.stopped"' in hub.log()


def test_started_again_everything_is_still_there(hub, directory):
    hub.options = []
    hub.start()
    assert states(hub, "m-1") == ["dispatched"]
    assert states(hub, "m-3") == ["held"]
    known = customer(hub)
    assert known["to"]["wecom"] == "w-1"
    assert [held["intent"] for held in known["held"]] == ["m-3"]
    assert {cap["rule"] for cap in known["caps"]} == {"one-a-week"}  # the policy applied last
    assert hub.send(category="otp", id="again")["state"] == "dispatched"


def test_a_killed_hub_leaves_no_process_behind(hub):
    pids = hub.pids()
    hub.stop(signal.SIGKILL)
    within(30, lambda: not others_than_agents(pids))
    for pid in alive(pids):  # Ray's agents end by themselves, a minute later
        os.kill(pid, signal.SIGKILL)


def others_than_agents(pids: set[int]) -> list[str]:
    return [name for name in alive(pids).values() if not name.startswith(RAY_AGENTS)]


def test_a_signal_while_it_starts_ends_it_too(directory):
    hub = Hub(directory)
    hub.spawn()
    within(60, lambda: len(hub.pids()) > 1)  # the nats-server at least
    pids = hub.pids()
    assert hub.stop(signal.SIGINT) == 0
    within(60, lambda: not alive(pids))


def test_a_second_ctrl_c_does_not_wait(directory):
    hub = Hub(directory).start()
    try:
        pids = hub.pids()
        before = hub.log().count('"hub.stopping"')
        hub.process.send_signal(signal.SIGINT)
        within(10, lambda: hub.log().count('"hub.stopping"') > before)
        assert hub.stop(signal.SIGINT) == 128 + signal.SIGINT
        within(20, lambda: not alive(pids))
        assert not (directory / "tact-data" / "ray.dir").exists()
    finally:
        hub.stop(signal.SIGKILL)
