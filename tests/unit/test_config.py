"""`tact.toml` and options: strict, with the right precedence, and passwords kept out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub import limits
from hub.errors import ConfigError
from hub.policy.document import parse_policy
from hub.service.config import HubConfig, default_policy, load_config, read_password


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        file = tmp_path / "tact.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_nothing_given_gives_the_defaults():
    config = load_config(None, {"hosts": None})
    assert config == HubConfig()
    assert config.limits.intake_bytes == limits.INTAKE_BYTES
    assert (config.nats.url, config.nats.port, config.http.host) == (None, 4222, "127.0.0.1")


def test_option_goes_over_file_and_file_over_default(write):
    file = write("hosts = 3\nlog_level = 'debug'\n[nats]\nport = 5000\nuser = 'hub'\n")
    config = load_config(file, {"nats.port": 6000, "hosts": None, "http.port": 0})
    assert config.nats.port == 6000
    assert config.nats.user == "hub"  # beside an option of the same table
    assert config.hosts == 3
    assert config.log_level == "debug"
    assert config.http.port == 0
    assert config.http.host == "127.0.0.1"


def test_paths_in_the_file_are_relative_to_the_file_and_options_are_not(write):
    file = write("data_dir = 'data'\npolicy = 'p.toml'\n[nats]\npassword_file = 'secret'\n")
    config = load_config(file, {"policy": "mine.toml"})
    assert config.data_dir == str(file.parent / "data")
    assert config.nats.password_file == str(file.parent / "secret")
    assert config.policy == "mine.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", ["prot", "unknown key", "data_dir", "hosts"]),
        ("[nats]\npasword_file = 'x'", ["nats.pasword_file", "password_file"]),
        ("[http]\nhots = 'x'", ["http.hots", "host, port"]),
        ("[limits]\nintake = 1", ["limits.intake", "intake_bytes"]),
        ("hosts = 0", ["hosts", ">= 1"]),
        ("hosts = '2'", ["hosts", "int"]),
        ("hosts = true", ["hosts", "int"]),
        ("partitions = 1000", ["partitions", f"<= {limits.PARTITIONS_MAX}"]),
        ("[http]\nport = 70000", ["http.port", "65535"]),
        ("[limits]\nledger_bytes = 5", ["limits.ledger_bytes", str(16 * limits.MIB)]),
        ("log_level = 'loud'", ["log_level", "debug, info, warning, error"]),
        ("nats = 4222", ["nats"]),
        ("hosts = \nx = 1", ["not TOML", "line 1"]),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(write, text, said):
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {"nats.port": 1})
    for part in [str(file), *said]:
        assert part in str(caught.value)


def test_a_wrong_option_is_an_error_too():
    with pytest.raises(ConfigError, match=r"http\.port"):
        load_config(None, {"http.port": -1})


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml", {})
    (tmp_path / "bad.toml").write_bytes(b"hosts = 1 # \xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 12"):
        load_config(tmp_path / "bad.toml", {})


def test_passwords_come_from_the_variable_then_the_file(tmp_path: Path, monkeypatch):
    file = tmp_path / "secret"
    file.write_text("from-file\nsecond line\n")
    monkeypatch.delenv("SOME_PASSWORD", raising=False)
    assert read_password("SOME_PASSWORD", None) is None
    assert read_password("SOME_PASSWORD", str(file)) == "from-file"
    monkeypatch.setenv("SOME_PASSWORD", "from-variable")
    assert read_password("SOME_PASSWORD", str(file)) == "from-variable"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_password_file_without_a_password_is_an_error(tmp_path: Path, monkeypatch, content):
    monkeypatch.delenv("SOME_PASSWORD", raising=False)
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="secret"):
        read_password("SOME_PASSWORD", str(file))


def test_the_built_in_policy_is_valid_and_lets_codes_through():
    document = parse_policy(default_policy())
    assert set(document.categories) == {"marketing", "service", "otp"}
    assert set(document.categories["otp"].bypass) == {"cap", "gap", "quiet", "presence", "dnd"}
