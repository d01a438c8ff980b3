"""`accounts.toml`: what is allowed, and how well it is said what is not."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from channels.accounts import parse_accounts
from hub.errors import ConfigError
from hub.service.accounts import read_accounts

HEAD = 'version = 1\n[[accounts]]\nname = "sms"\nchannel = "sms"\nprovider = "smpp"\n'
SMPP = '[accounts.smpp]\nhost = "h"\nsystem_id = "s"\npassword = { env = "PW" }\n'
GOOD = HEAD + SMPP
ENVIRONMENT = {"PW": "secret12"}


def parsed(text: str, directory: Path = Path()) -> list:
    return parse_accounts(text, directory, ENVIRONMENT)


def test_a_good_one_with_defaults() -> None:
    (account,) = parsed(GOOD)
    assert (account.name, account.channel, account.duplicates) == ("sms", "sms", "never")
    assert account.ms("unknown_after") == 600_000
    assert account.settings.password == "secret12"
    assert account.limits_of("account") == []


def test_secrets_are_never_shown_and_travel_between_processes() -> None:
    (account,) = parsed(GOOD)
    assert "secret12" not in repr(account) + repr(account.settings)
    assert pickle.loads(pickle.dumps(account)) == account


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("fromfile\nrest\n")
    (account,) = parsed(GOOD.replace('{ env = "PW" }', '{ file = "pw" }'), tmp_path)
    assert account.settings.password == "fromfile"


def test_documented_limits_hold_unless_the_account_has_its_own() -> None:
    text = (
        'version = 1\n[[accounts]]\nname = "a"\nchannel = "sms"\nprovider = "aliyun"\n%s'
        '[accounts.aliyun]\naccess_key_id = "k"\naccess_key_secret = { env = "PW" }\n'
        'sign_name = "s"\ntemplates = { otp = "SMS_1" }\n'
    )
    (account,) = parsed(text % "")
    assert account.limits_of("recipient") == ["1/min", "5/h", "10/day"]
    (account,) = parsed(text % '[accounts.limits]\naccount = ["5/s"]\n')
    assert account.limits_of("recipient") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "version: must be 1"),
        ("version = 1\nx = 2", "x: unknown key; allowed: version, accounts"),
        ("version = 1\naccounts = 3", "write each as [[accounts]]"),
        ("version = ", "not TOML"),
        (GOOD.replace('"smpp"', '"smtp"'), "account sms: provider: known are aliyun, cmpp"),
        (GOOD.replace('channel = "sms"', 'channel = "push"'), "serves channel sms"),
        (GOOD.replace('name = "sms"', 'name = "s m"'), "name: 1 to 64"),
        (GOOD.replace("host =", "hots ="), "account sms: smpp: hots: unknown key"),
        (GOOD.replace("[accounts.smpp]", "dupl = 1\n[accounts.smpp]"), "dupl: unknown key"),
        (
            GOOD.replace("[accounts.smpp]", "[accounts.limits]\nacount = []\n[accounts.smpp]"),
            "limits.acount: unknown key; did you mean account?",
        ),
        (GOOD.replace('{ env = "PW" }', '"inline"'), "a secret is not written here"),
        (GOOD.replace('"PW"', '"NOPE"'), "smpp.password: the variable NOPE is not set"),
        (GOOD.replace('{ env = "PW" }', '{ file = "nope" }'), "cannot be read"),
        (GOOD.replace("[accounts.smpp]", 'unknown_after = "x"\n[accounts.smpp]'), "duration"),
        (GOOD.replace("[accounts.smpp]", 'timezone = "x"\n[accounts.smpp]'), "IANA"),
        (GOOD.replace("[accounts.smpp]", 'failover = "x"\n[accounts.smpp]'), "failover"),
        (GOOD + GOOD.removeprefix("version = 1\n"), "there are two of this name"),
        (GOOD.replace("[accounts.smpp]", "settings = 1\n[accounts.smpp]"), "settings"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[accounts.limits]\naccount = ["50/x"]\n', "limits.account"),
        ('[accounts.sms]\nsignature = "x"\n', "signature"),
        ("[accounts.sms]\nmax_segments = 0\n", "max_segments"),
        ('[accounts.sms]\ncodings = ["gbk"]\n', "gbk"),
    ],
)
def test_a_file_is_checked_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    """Also what only limits and providers know."""
    monkeypatch.setenv("PW", "secret12")
    path = tmp_path / "accounts.toml"
    path.write_text(GOOD + more)
    with pytest.raises(ConfigError) as caught:
        read_accounts(path)
    assert str(path) in caught.value.message
    assert "sms" in caught.value.message
    assert said in caught.value.message
