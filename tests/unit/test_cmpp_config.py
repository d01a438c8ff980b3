"""An account that speaks CMPP in accounts.toml: what is taken, and how what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from channels.accounts import parse_accounts
from channels.sms.cmpp.config import CmppConfig
from hub.errors import ConfigError

ACCOUNT = """
version = 1
[[accounts]]
name = "sms"
channel = "sms"
provider = "cmpp"
[accounts.cmpp]
host = "ismg.example"
sp_id = "900001"
secret = { env = "ISMG" }
"""
SECRET = "the-secret"


def read(more: str) -> CmppConfig:
    (account,) = parse_accounts(ACCOUNT + more, Path("."), {"ISMG": SECRET})
    assert isinstance(account.settings, CmppConfig)
    return account.settings


def test_the_least_an_account_says() -> None:
    config = read("")
    assert (config.port, config.version, config.window) == (7890, "auto", 16)
    assert (config.active_test_s, config.response_timeout_s, config.tries) == (180, 60, 3)
    assert config.secret == SECRET
    assert SECRET not in repr(config)


def test_what_a_gateway_calls_its_own() -> None:
    config = read('results = { "132" = "retry" }\nstats = { "MK" = "dead_address" }')
    assert config.results == {"132": "retry"}
    assert config.stats == {"MK": "dead_address"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('version = "2.1"', "version"),
        ('sp_idd = "1"', "did you mean sp_id"),
        ("window = 0", "window"),
        ('src_id = "+86"', "src_id"),
        ("reconnect_min_s = 61", "reconnect_max_s"),
        ('results = { "0x84" = "retry" }', "results"),
        ('results = { "0" = "retry" }', "results"),
        ('results = { "\u00b2" = "retry" }', "results"),
        ('results = { "132" = "again" }', "results"),
        ('stats = { "mk" = "unknown" }', "stats"),
        ('[accounts.sms]\ncodings = ["gsm7"]', "codings"),
        ('[accounts.sms]\nconcat = "sar"', "concat"),
    ],
)
def test_what_is_wrong_is_named(more: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(more)
    assert said in caught.value.message
    assert SECRET not in caught.value.message
