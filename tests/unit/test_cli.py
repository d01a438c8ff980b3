"""The command line: what it prints where, and its exit codes. No servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hub.service.cli import app
from hub.service.config import default_policy

POLICY = """
version = 1
timezone = "UTC"
[categories.marketing]
route = ["sms"]
[[caps]]
name = "one-a-day"
limit = 1
window = "24h"
on = "drop"
"""


def tact(*arguments: str | Path, **options: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    return file


def intent(name: str, at: str) -> str:
    message = {"id": name, "app": "shop", "customer": "c-1", "category": "marketing"}
    message |= {"content": {"text": "hello"}, "to": {"sms": "+1"}}
    return json.dumps({"at": at, "type": "intent", **message}) + "\n"


# ---- policy check --------------------------------------------------------------------------------


def test_a_valid_policy_is_summed_up(policy):
    result = tact("policy", "check", policy)
    assert result.exit_code == 0
    assert "valid, version " in result.stdout
    assert "marketing: sms, priority 5" in result.stdout
    assert "one-a-day: at most 1 in 24h per customer, drop" in result.stdout


def test_the_built_in_policy_passes(tmp_path):
    file = tmp_path / "default.toml"
    file.write_text(default_policy())
    assert tact("policy", "check", file).exit_code == 0


def test_an_invalid_policy_is_one_line_with_file_key_and_what_is_allowed(policy):
    policy.write_text(POLICY.replace('on = "drop"', 'on = "delay"'))
    result = tact("policy", "check", policy)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for part in (str(policy), "caps", "on", "hold, drop, next"):
        assert part in line


def test_a_policy_that_is_not_there_is_a_wrong_call(tmp_path):
    result = tact("policy", "check", tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


# ---- simulate ------------------------------------------------------------------------------------


def test_simulation_reads_and_writes_files(policy, tmp_path):
    source, sink = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [intent("a", "2026-11-21T10:00:00Z"), intent("b", "2026-11-21T11:00:00Z")]
    source.write_text("".join(lines))
    result = tact("simulate", "--policy", policy, "--input", source, "--output", sink)
    assert (result.exit_code, result.stdout) == (0, "")
    outcomes = [json.loads(line) for line in sink.read_bytes().splitlines()]
    assert [(o["intent"], o["state"]) for o in outcomes] == [
        ("a", "dispatched"),
        ("b", "suppressed"),
    ]
    assert outcomes[1]["rules"][0]["rule"] == "one-a-day"


def test_simulation_reads_standard_input_and_writes_standard_output(policy):
    text = intent("a", "2026-11-21T10:00:00Z")
    result = tact("simulate", "--policy", policy, "--input", "-", input=text)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["state"] == "dispatched"


def test_a_bad_line_fails_the_job_and_is_named(policy):
    text = intent("a", "2026-11-21T10:00:00Z") + "{}\n"
    result = tact("simulate", "--policy", policy, "--input", "-", input=text)
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert len(result.stdout.splitlines()) == 1  # what came before it is decided


@pytest.mark.parametrize("missing", ["--policy", "--input"])
def test_simulation_needs_both_files(policy, missing):
    options = {"--policy": str(policy), "--input": "-"}
    del options[missing]
    result = tact("simulate", *(part for pair in options.items() for part in pair))
    assert result.exit_code == 2
    assert missing in result.stderr


def test_an_output_that_cannot_be_written_is_a_wrong_call(policy, tmp_path):
    output = tmp_path / "no" / "such" / "directory"
    result = tact("simulate", "--policy", policy, "--input", "-", "--output", output, input="")
    assert result.exit_code == 2


# ---- schema --------------------------------------------------------------------------------------


def test_schemas_go_to_standard_output_as_json():
    result = tact("schema")
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)) >= {"intent", "receipt", "delivery", "outcome"}
    assert json.loads(tact("schema", "--asyncapi").stdout)["asyncapi"] == "3.0.0"


def test_schemas_go_to_a_directory_one_file_a_kind(tmp_path):
    directory = tmp_path / "made" / "here"
    assert tact("schema", "--output", directory).exit_code == 0
    assert tact("schema", "--asyncapi", "--output", directory).exit_code == 0
    names = {file.name for file in directory.iterdir()}
    assert {"intent.schema.json", "outcome.schema.json", "asyncapi.json"} <= names
    for file in directory.iterdir():
        json.loads(file.read_bytes())


# ---- wrong calls ---------------------------------------------------------------------------------

SEND = ["send", "--app", "shop", "--customer", "c-1", "--category", "marketing"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["polcy"], "No such command"),
        (["send"], "--app"),
        ([*SEND], "exactly one of --text and --content"),
        ([*SEND, "--text", "a", "--content", "{}"], "exactly one of --text and --content"),
        ([*SEND, "--content", "{"], "not JSON"),
        ([*SEND, "--text", "a", "--to", "sms"], "wecom, sms, push"),
        ([*SEND, "--text", "a", "--to", "fax=1"], "wecom, sms, push"),
        ([*SEND, "--text", "a", "--lane", "fast"], "urgent, normal, bulk"),
        ([*SEND, "--text", "a", "--priority", "10"], "equal to 9"),
        ([*SEND, "--text", "a", "--route", "wecom,fax"], "wecom, sms, push"),
        ([*SEND, "--text", "a", "--not-before", "tomorrow"], "not_before"),
        ([*SEND, "--text", "a", "--timezone", "Mars/Base"], "timezone"),
        ([*SEND, "--text", "a", "--reach", "some"], "reach"),
        ([*SEND, "--text", "a", "--id", "a b"], "id"),
        (["send", "--app", "Shop!", *SEND[3:], "--text", "a"], "a-z 0-9 -"),
        (["send", *SEND[1:3], "--customer", "a.b", *SEND[5:], "--text", "a"], "A-Z a-z 0-9 _ -"),
        (["trace", "shop"], "intent"),
        (["customer", "a b"], "A-Z a-z 0-9 _ -"),
        (["up", "--hosts", "0"], "equal to 1"),
        (["up", "--http-port", "70000"], "65535"),
        (["up", "--policy", "/no/such/file"], "does not exist"),
        (["up", "--config", "/no/such/file"], "does not exist"),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_what_is_allowed(arguments, said):
    result = tact(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_bad_configuration_is_a_wrong_call_in_one_line(tmp_path):
    file = tmp_path / "tact.toml"
    file.write_text("host = 3\n")
    result = tact("up", "--config", file)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert str(file) in line and "host: unknown key" in line


@pytest.mark.parametrize(
    "arguments", [[*SEND, "--text", "a"], ["trace", "shop", "a"], ["customer", "c-1"], ["status"]]
)
def test_no_server_is_one_readable_line(arguments, monkeypatch):
    monkeypatch.setattr("hub.service.cli_client.CONNECT_S", 0.05)
    result = tact(*arguments, "--nats-url", "nats://127.0.0.1:1")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "nats://127.0.0.1:1" in line


def test_applying_a_policy_needs_the_hubs_login(policy, tmp_path, monkeypatch):
    monkeypatch.delenv("TACT_NATS_USER", raising=False)
    result = tact("policy", "apply", policy, "--data-dir", tmp_path)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr
    assert list(tmp_path.iterdir()) == [policy]  # and makes none


def test_the_command_line_is_there_without_ray_or_http():
    """`tact --help` and `tact send` must not wait for what only `tact up` needs."""
    script = (
        "import sys; from hub.service import cli, cli_client; import hub.ledger.connection;"
        "print([name for name in ('ray', 'litestar', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
